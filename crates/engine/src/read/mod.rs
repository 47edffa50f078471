//! Reading: a statement planned over one snapshot, for one caller, and its rows on their way out.
//!
//! Invariant: everything of one statement comes from one snapshot, and the tables given to the planner are built
//! for the one who asks, so that a name that slipped through the check before still finds nothing.

mod cache;
mod catalog;
mod counted;
mod errors;
mod lean;
mod memory;
mod metered;
mod order;
mod output;
mod pieces;
mod planner;
mod portions;
mod stops;
mod tables;
#[cfg(test)]
mod tests;
mod through;
mod window_arguments;

/// The address under which DataFusion finds the segments: no statement can spell it.
const SEGMENTS_URL: &str = "kalamdb://segments";

pub(crate) use errors::client_error;
pub(crate) use output::{Rows, check_keys, objects};
pub(crate) use planner::{Reader, View};
pub(crate) use tables::{
    MessageOptions, batch, conversation_column, message_column, participant_column, schema_of, texts,
};
