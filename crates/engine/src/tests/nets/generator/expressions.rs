//! Makes the expressions of a SELECT: forms, constants, aggregates, windows and subqueries.
//!
//! Invariant: an expression has the type that is asked for, and names what its scope has.

use super::*;

const PATTERNS: [&str; 12] = ["%", "", "a", "a%", "%b", "%o%", "_", "a_b", r"a\_b", r"a\%b", "__%", "%日%"];
const REGEXES: [&str; 8] = ["a", "^a", "b$", "[0-9]+", "^$", "(a|b)+", "l+o", "."];

impl Generator {
    pub(super) fn expr(&mut self, kind: Type, scope: &Scope, depth: usize) -> Expr {
        if matches!(kind, Type::Pattern | Type::Regex | Type::Few) {
            return self.literal(kind);
        }
        if let Some(special) = self.special(kind, scope, depth) {
            return special;
        }
        if depth == 0 && kind != Type::Real {
            let leaf = self.leaf(kind, scope).or_else(|| self.shallow(kind, scope));
            return leaf.unwrap_or_else(|| self.literal(kind));
        }
        if self.dice.chance(30)
            && let Some(leaf) = self.leaf(kind, scope)
        {
            return leaf;
        }
        let general = self.dice.chance(if kind == Type::Bool { 50 } else { 25 });
        let forms = making(kind, self.portable, general);
        let form = *self.dice.pick(&forms);
        let args = form.takes.iter().map(|takes| self.expr(*takes, scope, depth.saturating_sub(1))).collect();
        Expr::Form(form, args)
    }

    /// A form of a single column, of whatever type: better than a constant where no column has the type.
    pub(super) fn shallow(&mut self, kind: Type, scope: &Scope) -> Option<Expr> {
        let forms: Vec<_> = making(kind, self.portable, false)
            .into_iter()
            .chain(making(kind, self.portable, true))
            .filter(|form| scope.leaves.iter().any(|leaf| form.takes.first() == Some(&leaf.kind())))
            .filter(|form| form.takes.len() < 3)
            .collect();
        if forms.is_empty() || self.dice.chance(20) {
            return None;
        }
        let form = *self.dice.pick(&forms);
        let fitting: Vec<&Expr> = scope.leaves.iter().filter(|leaf| leaf.kind() == form.takes[0]).collect();
        let mut args = vec![(*self.dice.pick(&fitting)).clone()];
        args.extend(form.takes[1..].iter().map(|takes| self.literal(*takes)));
        Some(Expr::Form(form, args))
    }

    /// Aggregates, windows, subqueries and moments, where they may stand.
    pub(super) fn special(&mut self, kind: Type, scope: &Scope, depth: usize) -> Option<Expr> {
        if kind == Type::Int && !scope.grouping.is_empty() && self.dice.chance(15) {
            return Some(Expr::Grouping(Box::new(self.dice.pick(&scope.grouping).clone())));
        }
        if let Some(over) = &scope.aggregated
            && self.dice.chance(if scope.leaves.is_empty() { 70 } else { 35 })
            && let Some(aggregate) = self.aggregate(kind, over)
        {
            return Some(aggregate);
        }
        if let Some(keys) = &scope.windowed
            && self.dice.chance(40)
            && let Some(window) = self.window(kind, scope, keys)
        {
            return Some(window);
        }
        if scope.subqueries && depth > 0 && self.dice.chance(if kind == Type::Bool { 22 } else { 4 }) {
            return self.subquery(kind, scope);
        }
        if kind == Type::Bool && self.dice.chance(6) {
            return self.moment(scope);
        }
        None
    }

    pub(super) fn leaf(&mut self, kind: Type, scope: &Scope) -> Option<Expr> {
        let fitting: Vec<&Expr> = scope.leaves.iter().filter(|leaf| leaf.kind() == kind).collect();
        let outer: Vec<&Expr> = scope.outer.iter().filter(|leaf| leaf.kind() == kind).collect();
        let pool = if !outer.is_empty() && self.dice.chance(20) { outer } else { fitting };
        (!pool.is_empty() && self.dice.chance(80)).then(|| (*self.dice.pick(&pool)).clone())
    }

    pub(super) fn literal(&mut self, kind: Type) -> Expr {
        if self.dice.chance(8) {
            let null = match kind {
                Type::Int | Type::Time => "CAST(NULL AS BIGINT)",
                Type::Text | Type::Json => "CAST(NULL AS VARCHAR)",
                Type::Bool => "CAST(NULL AS BOOLEAN)",
                Type::Date => "CAST(NULL AS DATE)",
                Type::Real => "CAST(NULL AS DOUBLE)",
                Type::Pattern | Type::Regex | Type::Few => "",
            };
            if !null.is_empty() {
                return constant(null, "NULL", kind);
            }
        }
        match kind {
            Type::Int => {
                let number = (*self.dice.pick(&[-3_i64, -1, 0, 1, 2, 3, 4, 5, 7, 9, 12, 20, 1000])).to_string();
                constant(&number, &number, kind)
            }
            Type::Few => {
                let number = (1 + self.dice.below(4)).to_string();
                constant(&number, &number, kind)
            }
            Type::Text => {
                let names = ["c1", "c2", "C1", "g1", "ann", "ai", "bo", "group"];
                let text = if self.dice.chance(40) { *self.dice.pick(&names) } else { *self.dice.pick(&TEXTS) };
                quoted(text, kind)
            }
            Type::Pattern => quoted(self.dice.pick::<&str>(&PATTERNS), kind),
            Type::Regex => quoted(self.dice.pick::<&str>(&REGEXES), kind),
            Type::Bool => {
                let truth = *self.dice.pick(&["TRUE", "FALSE"]);
                constant(truth, truth, kind)
            }
            Type::Time => {
                let micros = (self.second() * 1_000_000).to_string();
                constant(&micros, &micros, kind)
            }
            Type::Date => {
                let day = format!("'2025-10-{:02}'", 13 + self.dice.below(8));
                constant(&format!("DATE {day}"), &day, kind)
            }
            Type::Json => quoted(self.dice.pick::<&str>(&[r#"{"k":"a"}"#, r#"{"n":3,"f":true}"#, "{}"]), kind),
            Type::Real => constant("CAST(0.25 AS DOUBLE)", "0.25", kind),
        }
    }

    pub(super) fn second(&mut self) -> i64 {
        FIRST_SECOND + i64::try_from(self.dice.below(MOMENTS)).expect("it is small") * STEP_SECONDS
    }

    /// A table's column of time beside a constant in seconds, milliseconds or microseconds.
    pub(super) fn moment(&mut self, scope: &Scope) -> Option<Expr> {
        let is_tables = |name: &str| TABLES.iter().any(|(_, columns)| columns.contains(&(name, Type::Time)));
        let is_moment = |leaf: &&Expr| matches!(leaf, Expr::Column { name, .. } if is_tables(name));
        let times: Vec<&Expr> = scope.leaves.iter().filter(is_moment).collect();
        if times.is_empty() {
            return None;
        }
        let column = Box::new((*self.dice.pick(&times)).clone());
        let operator = *self.dice.pick(&["=", "<>", "<", "<=", ">", ">="]);
        let second = self.second();
        let scale = *self.dice.pick(&[1, 1_000, 1_000_000]);
        Some(Expr::Moment { column, operator, ours: (second * scale).to_string(), micros: second * 1_000_000 })
    }

    pub(super) fn aggregate(&mut self, kind: Type, over: &[Expr]) -> Option<Expr> {
        let calls: Vec<&'static Call> = AGGREGATES.iter().filter(|call| call.can_give(kind)).collect();
        if calls.is_empty() {
            return None;
        }
        let call = *self.dice.pick(&calls);
        let scope = Scope { leaves: over.to_vec(), ..Scope::default() };
        let args = self.argument(call, kind, &scope);
        let distinct = call.can_be_distinct && self.dice.chance(30);
        let filter = self.dice.chance(15).then(|| Box::new(self.expr(Type::Bool, &scope, 1)));
        Some(Expr::Aggregate { call, args, distinct, filter })
    }

    /// The arguments with which a call makes a type.
    pub(super) fn argument(&mut self, call: &'static Call, kind: Type, scope: &Scope) -> Vec<Expr> {
        let mut args = Vec::new();
        if !call.takes.is_empty() {
            let takes = *self.dice.pick(call.argument(kind));
            let depth = if self.dice.chance(65) { 0 } else { 2 };
            args.push(self.expr(takes, scope, depth));
        }
        args.extend((0..call.few).map(|_| self.literal(Type::Few)));
        args
    }

    pub(super) fn window(&mut self, kind: Type, scope: &Scope, keys: &[Expr]) -> Option<Expr> {
        let calls: Vec<&'static Call> = WINDOWS.iter().filter(|call| call.can_give(kind)).collect();
        if calls.is_empty() {
            return None;
        }
        let call = *self.dice.pick(&calls);
        // Over groups, a window is over what they are grouped by and over aggregates.
        let inside = Scope { leaves: scope.leaves.clone(), aggregated: scope.aggregated.clone(), ..Scope::default() };
        let args = self.argument(call, kind, &inside);
        let aggregates = call.has_frame && !call.needs_total_order;
        let filter = (aggregates && self.dice.chance(15))
            .then(|| Box::new(self.expr(Type::Bool, &Scope { aggregated: None, ..inside.clone() }, 1)));
        let partition: Vec<Expr> = (0..self.dice.below(3))
            .map(|_| {
                let kind = *self.dice.pick(&SELECTABLE);
                self.expr(kind, &Scope { aggregated: None, ..inside.clone() }, 0)
            })
            .filter(|by| !matches!(by, Expr::Literal { .. }))
            .collect();
        let columns: Vec<Expr> = inside.leaves.iter().filter(|leaf| leaf.kind() != Type::Real).cloned().collect();
        let numbers: Vec<Expr> = columns.iter().filter(|leaf| leaf.kind() == Type::Int).cloned().collect();
        let first = self.dice.pick(&columns).clone();
        let (order, frame) = match self.dice.below(100) {
            _ if call.needs_total_order => {
                let mut order = if self.dice.chance(40) { vec![self.ordered(By::Value(first))] } else { Vec::new() };
                order.extend(self.order_by(keys.to_vec()));
                (order, if call.has_frame { *self.dice.pick(ROWS_FRAMES) } else { "" })
            }
            0..30 if call.has_frame => {
                let order = self.order_by(keys.to_vec());
                (order, *self.dice.pick(ROWS_FRAMES))
            }
            30..45 if call.has_frame && !numbers.is_empty() => {
                let by = self.dice.pick(&numbers).clone();
                (vec![self.ordered(By::Value(by))], *self.dice.pick(DISTANCE_FRAMES))
            }
            45..55 if call.has_frame => (Vec::new(), ""),
            _ => {
                let order = vec![self.ordered(By::Value(first))];
                (order, if call.has_frame { *self.dice.pick(GROUP_FRAMES) } else { "" })
            }
        };
        if call.needs_total_order || ROWS_FRAMES.contains(&frame) {
            self.windows_by_place = self.windows_by_place.checked_sub(1)?;
        }
        Some(Expr::Window { call, args, filter, partition, order, frame })
    }

    /// IN, ANY, ALL, EXISTS, or a query of one value; half of them tied to the query around.
    pub(super) fn subquery(&mut self, kind: Type, scope: &Scope) -> Option<Expr> {
        let outer = if self.dice.chance(50) { scope.leaves.clone() } else { Vec::new() };
        if kind == Type::Bool {
            let negated = self.dice.chance(45);
            if self.dice.chance(70) {
                let of = *self.dice.pick(&JOINABLE);
                let inside = Scope { leaves: scope.leaves.clone(), ..Scope::default() };
                let value = Box::new(self.expr(of, &inside, 1));
                if self.dice.chance(20) {
                    let operator = *self.dice.pick(&["=", "<>", "<", "<=", ">", ">="]);
                    let query = Box::new(self.inner(&[of], &outer));
                    return Some(Expr::Quantified { value, operator, all: negated, query });
                }
                return Some(Expr::In { value, negated, query: Box::new(self.inner(&[of], &outer)) });
            }
            return Some(Expr::Exists { negated, query: Box::new(self.inner(&[Type::Int], &outer)) });
        }
        matches!(kind, Type::Int | Type::Text | Type::Time | Type::Date).then(|| self.scalar(kind, &outer))
    }

    pub(super) fn inner(&mut self, kinds: &[Type], outer: &[Expr]) -> Query {
        if outer.is_empty() {
            return self.query(kinds, 1);
        }
        let mut scope = Scope::default();
        let (from, _) = self.from(1, &mut scope);
        let items = kinds.iter().map(|kind| self.expr(*kind, &scope, 1)).collect();
        let filter = Some(self.filter(&scope, 0, outer));
        let mut query = Query::of(Select { distinct: self.dice.chance(10), ..Select::new(items, from, filter) });
        if self.dice.chance(20) {
            query.order = self.order_by_output(kinds);
            (query.limit, query.offset) = (Some(1 + self.dice.below(3)), self.dice.below(2));
        }
        query
    }

    /// A query of one row: an aggregate of everything, or the first row.
    pub(super) fn scalar(&mut self, kind: Type, outer: &[Expr]) -> Expr {
        if self.dice.chance(30) {
            let mut query = if outer.is_empty() { self.select(&[kind], 1, &[]) } else { self.inner(&[kind], outer) };
            if let Body::Select(select) = &mut query.body {
                select.distinct_on.clear();
            }
            query.order = self.order_by_output(&[kind]);
            (query.limit, query.offset) = (Some(1), self.dice.below(2));
            return Expr::Scalar(Box::new(query), kind);
        }
        let mut scope = Scope::default();
        let (source, _) = self.source("", 1, &mut scope);
        let aggregate = self.aggregate(kind, &scope.leaves).unwrap_or_else(|| self.literal(kind));
        let filter = (!outer.is_empty() || self.dice.chance(30)).then(|| self.filter(&scope, 0, outer));
        let (items, from) = (vec![aggregate], vec![source]);
        // Without an aggregate there would be as many rows as there are.
        let limit = (!matches!(items[0], Expr::Aggregate { .. })).then_some(1);
        let select = Select::new(items, from, filter);
        Expr::Scalar(Box::new(Query { limit, ..Query::of(select) }), kind)
    }
}

pub(super) fn constant(ours: &str, sqlite: &str, kind: Type) -> Expr {
    Expr::Literal { ours: ours.to_owned(), sqlite: sqlite.to_owned(), kind }
}

fn quoted(text: &str, kind: Type) -> Expr {
    let quoted = format!("'{}'", text.replace('\'', "''"));
    constant(&quoted, &quoted, kind)
}
