//! Statements that were parsed before, by their shapes.
//!
//! Invariant: nobody's: a template holds no value and no user. What a shape stands for never changes, so nothing here is
//! ever stale.

use std::sync::Arc;

use moka::sync::Cache as Moka;

use super::form::Question;
use crate::sql::{self, Shape, Template, Values};

/// Memory of all templates: some hundred, and some ten thousand shapes that have none. An application has dozens.
const CACHE_BYTES: u64 = 4 << 20;
/// Bytes of a parsed statement, about.
const TEMPLATE_BYTES: usize = 8 << 10;
/// Bytes of an entry besides, about.
const ENTRY_BYTES: usize = 128;

/// The templates of the shapes that were seen last; none for those that need the planner.
pub(in crate::read) struct Templates(Moka<String, Option<Arc<Template>>>);

impl Templates {
    pub fn new() -> Self {
        let weigh = |text: &String, template: &Option<Arc<Template>>| {
            let bytes = template.as_ref().map_or(0, |_| TEMPLATE_BYTES);
            u32::try_from(text.len() + ENTRY_BYTES + bytes).unwrap_or(u32::MAX)
        };
        Self(Moka::builder().max_capacity(CACHE_BYTES).weigher(weigh).build())
    }

    /// The template of a shape, if it is known and has one.
    pub fn get(&self, shape: &Shape) -> Option<Arc<Template>> {
        self.0.get(&shape.text).flatten()
    }

    /// Makes the template of a shape that is not known yet; of a statement that was parsed as a read.
    pub fn learn(&self, shape: Shape) {
        if self.0.contains_key(&shape.text) {
            return;
        }
        let needs_no_planner = |template: &Template| Question::of(&template.statement, Values::Any).is_some();
        let template = sql::template(&shape).filter(needs_no_planner).map(Arc::new);
        self.0.insert(shape.text, template);
    }
}
