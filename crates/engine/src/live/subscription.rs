//! A subscription: what ties a client's name for it to a filter, and to the owners whose rows it is about.
//!
//! Invariant: nothing in it changes. How far its client is, and what waits for it, is the session's.

use std::sync::Arc;

use kalamdb_store::Watching;

use super::{
    filter::CompiledFilter,
    session::{Number, Session},
};
use crate::sql::Schema;

/// A subscription, as it is registered.
pub(super) struct Subscription {
    pub number: Number,
    pub session: Arc<Session>,
    pub filter: Arc<CompiledFilter>,
    pub scope: Schema,
    /// The client's name for it, as JSON text.
    pub id: Box<str>,
    /// Has the store tell of its rows.
    pub _watching: Watching,
}

impl Subscription {
    /// The client's name for it.
    pub fn name(&self) -> String {
        serde_json::from_str(&self.id).unwrap_or_default()
    }
}
