//! Windows that have a name: `OVER w`, `OVER (w ORDER BY msgId)`, and `WINDOW w AS (…)`.
//!
//! Invariant: no name reaches the planner, which knows it in a SELECT's columns only, and takes `OVER (w ORDER BY msgId)` for
//! a window over all rows. `SELECT sum(n) OVER (w ORDER BY t) FROM m WINDOW w AS (PARTITION BY c)` becomes
//! `SELECT sum(n) OVER (PARTITION BY c ORDER BY t) FROM m`.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, NamedWindowExpr, OrderBy, Query, Select, SetExpr, Statement, VisitMut,
    VisitorMut, WindowSpec, WindowType,
};
use kalamdb_protocol::ErrorCode;

use super::limits::too_large;
use crate::{Error, Result};

/// Bytes of windows that are written out, of a statement: what the statement itself may have, but for long values.
const MAX_WRITTEN_BYTES: usize = 1 << 20;

/// Writes out what the names mean.
pub(super) fn settle(statement: &mut Statement) -> Result<()> {
    match statement.visit(&mut Settle { written: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Settle {
    /// Bytes written so far.
    written: usize,
}

impl VisitorMut for Settle {
    type Break = Box<Error>;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        match self.in_body(&mut query.body, query.order_by.as_mut()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

impl Settle {
    fn in_body(&mut self, body: &mut SetExpr, order_by: Option<&mut OrderBy>) -> Result<()> {
        match body {
            SetExpr::Select(select) => self.in_select(select, order_by),
            SetExpr::SetOperation { left, right, .. } => {
                self.in_body(left, None)?;
                self.in_body(right, None)
            }
            // A query in parentheses is visited by itself.
            _ => Ok(()),
        }
    }

    fn in_select(&mut self, select: &mut Select, order_by: Option<&mut OrderBy>) -> Result<()> {
        let windows = self.windows(std::mem::take(&mut select.named_window))?;
        let mut names = Names { windows: &windows, written: &mut self.written, depth: 0 };
        let mut flow = select.projection.visit(&mut names);
        if flow.is_continue() {
            flow = select.qualify.visit(&mut names);
        }
        if flow.is_continue() {
            flow = select.distinct.visit(&mut names);
        }
        if let (Some(order_by), true) = (order_by, flow.is_continue()) {
            flow = order_by.visit(&mut names);
        }
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(*error),
        }
    }

    /// The windows of a SELECT by their names; one may be made of those before it.
    fn windows(&mut self, definitions: Vec<NamedWindowDefinition>) -> Result<HashMap<String, WindowSpec>> {
        let mut windows = HashMap::new();
        for NamedWindowDefinition(name, definition) in definitions {
            let spec = match definition {
                NamedWindowExpr::NamedWindow(other) => self.named(&windows, &other)?,
                NamedWindowExpr::WindowSpec(spec) => self.whole(&windows, spec)?,
            };
            if windows.insert(name.value.clone(), spec).is_some() {
                return Err(invalid(format!(
                    "Two windows here are called `{}`; name one of them otherwise.",
                    name.value
                )));
            }
        }
        Ok(windows)
    }

    fn named(&mut self, windows: &HashMap<String, WindowSpec>, name: &Ident) -> Result<WindowSpec> {
        named(windows, name, &mut self.written)
    }

    fn whole(&mut self, windows: &HashMap<String, WindowSpec>, spec: WindowSpec) -> Result<WindowSpec> {
        whole(windows, spec, &mut self.written)
    }
}

/// Puts the meaning in the place of the name.
struct Names<'a> {
    windows: &'a HashMap<String, WindowSpec>,
    written: &'a mut usize,
    /// Subqueries around, which have windows of their own.
    depth: usize,
}

impl VisitorMut for Names<'_> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let spec = match &mut function.over {
            Some(WindowType::NamedWindow(name)) if self.depth == 0 => named(self.windows, name, self.written),
            Some(WindowType::WindowSpec(spec)) if self.depth == 0 && spec.window_name.is_some() => {
                whole(self.windows, spec.clone(), self.written)
            }
            _ => return ControlFlow::Continue(()),
        };
        match spec {
            Ok(spec) => function.over = Some(WindowType::WindowSpec(spec)),
            Err(error) => return ControlFlow::Break(Box::new(error)),
        }
        ControlFlow::Continue(())
    }
}

/// `OVER w`
fn named(windows: &HashMap<String, WindowSpec>, name: &Ident, written: &mut usize) -> Result<WindowSpec> {
    let Some(spec) = windows.get(&name.value) else {
        return Err(invalid(format!(
            "There is no window `{}` here; a WINDOW clause of the same SELECT names it, before it is used in another: \
             WINDOW w AS (ORDER BY msgId).",
            name.value
        )));
    };
    *written += spec.to_string().len();
    if *written > MAX_WRITTEN_BYTES {
        return Err(too_large("uses long windows by name too often; compute what they are made of in a WITH first"));
    }
    Ok(spec.clone())
}

/// `OVER (w ORDER BY msgId)`: the window `w` with what it leaves open.
fn whole(windows: &HashMap<String, WindowSpec>, spec: WindowSpec, written: &mut usize) -> Result<WindowSpec> {
    let Some(name) = &spec.window_name else { return Ok(spec) };
    let base = named(windows, name, written)?;
    let says_twice = !spec.partition_by.is_empty() || !base.order_by.is_empty() && !spec.order_by.is_empty();
    if says_twice || base.window_frame.is_some() {
        return Err(invalid(format!(
            "The window `{0}` says here what it said in the WINDOW clause already; OVER ({0} …) may add an ORDER BY that \
             `{0}` lacks, and a frame.",
            name.value
        )));
    }
    let order_by = if spec.order_by.is_empty() { base.order_by } else { spec.order_by };
    Ok(WindowSpec { window_name: None, partition_by: base.partition_by, order_by, window_frame: spec.window_frame })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidValue, message)
}
