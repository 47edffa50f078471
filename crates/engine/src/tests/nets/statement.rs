//! A statement as a tree, and its text in the two dialects.
//!
//! Invariant: both texts of a tree mean the same, so every difference of dialect (which NULL comes first, how a
//! function is called, whether an operand of UNION may stand in parentheses) is settled here or in [`super::forms`].

use std::fmt::Write;

use super::forms::{Call, Form, Type};

/// Who reads the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Ours,
    Sqlite,
}

/// A value of each row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// `t1.content`; of no relation when USING has made one of two.
    Column { relation: String, name: String, kind: Type },
    /// The same value as each writes it.
    Literal { ours: String, sqlite: String, kind: Type },
    /// A function or an operator.
    Form(&'static Form, Vec<Expr>),
    /// A column of time beside a constant that is written in seconds or milliseconds; whole, because what else stood
    /// beside the constant would be compared with another number.
    Moment { column: Box<Expr>, operator: &'static str, ours: String, micros: i64 },
    /// `a IN (SELECT …)`
    In { value: Box<Expr>, negated: bool, query: Box<Query> },
    /// `EXISTS (SELECT …)`
    Exists { negated: bool, query: Box<Query> },
    /// `(SELECT MAX(…) …)`
    Scalar(Box<Query>, Type),
    /// `SUM(DISTINCT a) FILTER (WHERE b)`
    Aggregate { call: &'static Call, args: Vec<Expr>, distinct: bool, filter: Option<Box<Expr>> },
    /// `LAG(a) OVER (PARTITION BY b ORDER BY c)`
    Window { call: &'static Call, args: Vec<Expr>, partition: Vec<Expr>, order: Vec<Order>, frame: &'static str },
}

/// One item of ORDER BY.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Order {
    pub(super) by: By,
    pub(super) descending: bool,
    /// `None`: where the dialect of ours puts NULLs by itself, which is last, and first when descending.
    pub(super) nulls_first: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum By {
    /// A column of the answer, by its number.
    Output(usize),
    Value(Expr),
}

/// A query: its columns are called c0, c1, …
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Query {
    pub(super) with: Vec<(String, Query)>,
    pub(super) body: Body,
    pub(super) order: Vec<Order>,
    pub(super) limit: Option<usize>,
    pub(super) offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    Select(Box<Select>),
    Set { operator: &'static str, left: Box<Query>, right: Box<Query> },
    Values(Vec<Vec<Expr>>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Select {
    pub(super) distinct: bool,
    pub(super) items: Vec<Expr>,
    pub(super) from: Vec<Source>,
    pub(super) filter: Option<Expr>,
    pub(super) group: Vec<Expr>,
    /// `GROUP BY ROLLUP (…)`: by all of them, by all but the last, and so on to all rows together. Without HAVING.
    pub(super) rollup: bool,
    pub(super) having: Option<Expr>,
}

/// One relation of FROM, and how it is joined to those before it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    /// `JOIN`, `LEFT JOIN`, …; of the first, nothing.
    pub(super) join: &'static str,
    pub(super) relation: Relation,
    pub(super) alias: String,
    pub(super) on: Option<Expr>,
    /// `USING (conversationId)`; then that name alone means what both have.
    pub(super) using: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Relation {
    /// A table, or what WITH calls so.
    Named(String),
    Derived(Box<Query>),
}

impl Expr {
    pub(super) fn kind(&self) -> Type {
        match self {
            Self::Column { kind, .. } | Self::Literal { kind, .. } | Self::Scalar(_, kind) => *kind,
            Self::Form(form, _) => form.gives,
            Self::Moment { .. } | Self::In { .. } | Self::Exists { .. } => Type::Bool,
            Self::Aggregate { call, args, .. } | Self::Window { call, args, .. } => call.gives(args),
        }
    }
}

impl Expr {
    fn has_aggregate(&self) -> bool {
        match self {
            Self::Aggregate { .. } => true,
            Self::Form(_, args) => args.iter().any(Self::has_aggregate),
            Self::In { value, .. } => value.has_aggregate(),
            _ => false,
        }
    }

    /// Puts NULL for these wherever they stand, but for what aggregates are over.
    fn without(&mut self, dropped: &[Self], kept: &[Self]) {
        if kept.contains(self) {
            return;
        }
        if dropped.contains(self) {
            *self = Self::Literal { ours: "NULL".to_owned(), sqlite: "NULL".to_owned(), kind: self.kind() };
            return;
        }
        match self {
            Self::Form(_, args) => args.iter_mut().for_each(|arg| arg.without(dropped, kept)),
            Self::In { value, .. } => value.without(dropped, kept),
            Self::Moment { column, .. } => column.without(dropped, kept),
            _ => {}
        }
    }
}

impl Query {
    /// A query of one SELECT and nothing besides.
    pub(super) fn of(select: Select) -> Self {
        Self { with: Vec::new(), body: Body::Select(Box::new(select)), order: Vec::new(), limit: None, offset: 0 }
    }

    /// The SELECT, where the query is one.
    pub(super) fn select(&self) -> Option<&Select> {
        match &self.body {
            Body::Select(select) => Some(select),
            _ => None,
        }
    }

    /// How many columns it has.
    pub(super) fn width(&self) -> usize {
        match &self.body {
            Body::Select(select) => select.items.len(),
            Body::Set { left, .. } => left.width(),
            Body::Values(rows) => rows.first().map_or(0, Vec::len),
        }
    }

    /// Whether its order says of any two unlike rows which comes first.
    pub(super) fn is_ordered(&self) -> bool {
        let sorts = |column: usize| self.order.iter().any(|order| order.by == By::Output(column));
        !self.order.is_empty() && (0..self.width()).all(sorts)
    }

    /// Its text.
    pub(super) fn sql(&self, dialect: Dialect) -> String {
        let mut text = String::new();
        Printer { dialect, text: &mut text }.query(self);
        text
    }
}

impl Select {
    /// A SELECT of these columns from there.
    pub(super) fn new(items: Vec<Expr>, from: Vec<Source>, filter: Option<Expr>) -> Self {
        Self { distinct: false, items, from, filter, group: Vec::new(), rollup: false, having: None }
    }

    fn has_aggregate(&self) -> bool {
        self.items.iter().any(Expr::has_aggregate)
    }

    /// The text of a SELECT of these columns over the same rows.
    pub(super) fn sql_of(&self, columns: &str, filter: Option<&str>) -> String {
        let mut text = format!("SELECT {columns}");
        Printer { dialect: Dialect::Ours, text: &mut text }.from(&self.from);
        if let Some(filter) = filter {
            let _ = write!(text, " WHERE {filter}");
        }
        text
    }
}

/// An expression's text in our dialect.
pub(super) fn ours(expr: &Expr) -> String {
    let mut text = String::new();
    Printer { dialect: Dialect::Ours, text: &mut text }.expr(expr);
    text
}

struct Printer<'a> {
    dialect: Dialect,
    text: &'a mut String,
}

impl Printer<'_> {
    fn put(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn joined<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        for (number, item) in items.iter().enumerate() {
            if number > 0 {
                self.put(", ");
            }
            each(self, item);
        }
    }

    fn query(&mut self, query: &Query) {
        if !query.with.is_empty() {
            self.put("WITH ");
            self.joined(&query.with, |this, (name, query)| {
                this.put(name);
                this.put(" AS (");
                this.query(query);
                this.put(")");
            });
            self.put(" ");
        }
        self.body(&query.body);
        self.order(&query.order);
        match (query.limit, query.offset) {
            (None, _) => {}
            (Some(limit), 0) => self.put(&format!(" LIMIT {limit}")),
            (Some(limit), offset) => self.put(&format!(" LIMIT {limit} OFFSET {offset}")),
        }
    }

    fn body(&mut self, body: &Body) {
        match body {
            Body::Select(select) if select.rollup && self.dialect == Dialect::Sqlite => self.rollup(select),
            Body::Select(select) => self.select(select),
            Body::Set { operator, left, right } => {
                self.operand(left);
                self.put(&format!(" {operator} "));
                self.operand(right);
            }
            Body::Values(rows) => {
                let columns = 0..rows.first().map_or(0, Vec::len);
                let columns: Vec<_> = columns.map(|column| format!("v.column{} AS c{column}", column + 1)).collect();
                self.put(&format!("SELECT {} FROM (VALUES ", columns.join(", ")));
                self.joined(rows, |this, row| {
                    this.put("(");
                    this.joined(row, Self::expr);
                    this.put(")");
                });
                self.put(") AS v");
            }
        }
    }

    /// `SQLite` takes no parentheses here, and has one precedence for all of them.
    fn operand(&mut self, query: &Query) {
        let is_plain = query.with.is_empty()
            && query.order.is_empty()
            && query.limit.is_none()
            && query.select().is_some_and(|select| !select.rollup);
        match (is_plain, self.dialect) {
            (true, _) => self.query(query),
            (false, Dialect::Ours) => {
                self.put("(");
                self.query(query);
                self.put(")");
            }
            (false, Dialect::Sqlite) => {
                self.put("SELECT * FROM (");
                self.query(query);
                self.put(")");
            }
        }
    }

    /// `SQLite` has no ROLLUP: one SELECT for each level, with NULL for what it does not group by.
    fn rollup(&mut self, select: &Select) {
        for level in (0..=select.group.len()).rev() {
            let (kept, dropped) = select.group.split_at(level);
            let mut of_level = Select { rollup: false, group: kept.to_vec(), ..select.clone() };
            of_level.items.iter_mut().for_each(|item| item.without(dropped, kept));
            if level < select.group.len() {
                self.put(" UNION ALL ");
            }
            if level == 0 && !of_level.has_aggregate() {
                // One row, also where there are none.
                of_level.from.clear();
                of_level.filter = None;
            }
            self.select(&of_level);
        }
    }

    fn select(&mut self, select: &Select) {
        self.put(if select.distinct { "SELECT DISTINCT " } else { "SELECT " });
        for (number, item) in select.items.iter().enumerate() {
            if number > 0 {
                self.put(", ");
            }
            self.expr(item);
            self.put(&format!(" AS c{number}"));
        }
        self.from(&select.from);
        if let Some(filter) = &select.filter {
            self.put(" WHERE ");
            self.expr(filter);
        }
        if !select.group.is_empty() {
            self.put(if select.rollup { " GROUP BY ROLLUP (" } else { " GROUP BY " });
            self.joined(&select.group, Self::expr);
            self.put(if select.rollup { ")" } else { "" });
        }
        if let Some(having) = &select.having {
            self.put(" HAVING ");
            self.expr(having);
        }
    }

    fn from(&mut self, sources: &[Source]) {
        for (number, source) in sources.iter().enumerate() {
            if number == 0 {
                self.put(" FROM ");
            } else {
                self.put(&format!(" {} ", source.join));
            }
            match &source.relation {
                Relation::Named(name) => self.put(name),
                Relation::Derived(query) => {
                    self.put("(");
                    self.query(query);
                    self.put(")");
                }
            }
            self.put(&format!(" AS {}", source.alias));
            if let Some(column) = source.using {
                self.put(&format!(" USING ({column})"));
            }
            if let Some(on) = &source.on {
                self.put(" ON ");
                self.expr(on);
            }
        }
    }

    fn order(&mut self, order: &[Order]) {
        if order.is_empty() {
            return;
        }
        self.put(" ORDER BY ");
        self.joined(order, |this, item| {
            match &item.by {
                By::Output(column) => this.put(&format!("c{column}")),
                By::Value(value) => this.expr(value),
            }
            this.put(if item.descending { " DESC" } else { "" });
            let nulls_first = match (item.nulls_first, this.dialect) {
                (None, Dialect::Ours) => return,
                (None, Dialect::Sqlite) => item.descending,
                (Some(first), _) => first,
            };
            this.put(if nulls_first { " NULLS FIRST" } else { " NULLS LAST" });
        });
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Column { relation, name, .. } if relation.is_empty() => self.put(name),
            Expr::Column { relation, name, .. } => match self.dialect {
                Dialect::Ours => self.put(&format!("{relation}.{name}")),
                Dialect::Sqlite => self.put(&format!("{relation}.\"{name}\"")),
            },
            Expr::Literal { ours, sqlite, .. } => match self.dialect {
                Dialect::Ours => self.put(ours),
                Dialect::Sqlite => self.put(sqlite),
            },
            Expr::Form(form, args) => self.template(form.text(self.dialect), args),
            Expr::Moment { column, operator, ours, micros } => {
                self.put("(");
                self.expr(column);
                match self.dialect {
                    Dialect::Ours => self.put(&format!(" {operator} {ours})")),
                    Dialect::Sqlite => self.put(&format!(" {operator} {micros})")),
                }
            }
            Expr::In { value, negated, query } => {
                self.put("(");
                self.expr(value);
                self.put(if *negated { " NOT IN (" } else { " IN (" });
                self.query(query);
                self.put("))");
            }
            Expr::Exists { negated, query } => {
                self.put(if *negated { "(NOT EXISTS (" } else { "(EXISTS (" });
                self.query(query);
                self.put("))");
            }
            Expr::Scalar(query, _) => {
                self.put("(");
                self.query(query);
                self.put(")");
            }
            Expr::Aggregate { call, args, distinct, filter } => {
                self.call(call, args, *distinct);
                if let Some(filter) = filter {
                    self.put(" FILTER (WHERE ");
                    self.expr(filter);
                    self.put(")");
                }
            }
            Expr::Window { call, args, partition, order, frame } => {
                self.call(call, args, false);
                self.put(" OVER (");
                if !partition.is_empty() {
                    self.put("PARTITION BY ");
                    self.joined(partition, Self::expr);
                }
                self.order(order);
                self.put(&format!(" {frame})"));
            }
        }
    }

    fn call(&mut self, call: &'static Call, args: &[Expr], distinct: bool) {
        let template = call.text(self.dialect);
        if distinct {
            self.template(&template.replacen('(', "(DISTINCT ", 1), args);
        } else {
            self.template(template, args);
        }
    }

    /// A text with `$0` for the first argument.
    fn template(&mut self, template: &str, args: &[Expr]) {
        let mut parts = template.split('$');
        self.put(parts.next().unwrap_or_default());
        for part in parts {
            let Some(number) = part.chars().next().and_then(|digit| digit.to_digit(10)) else {
                // A path into JSON.
                self.put("$");
                self.put(part);
                continue;
            };
            let rest = &part[1..];
            self.expr(&args[number as usize]);
            self.put(rest);
        }
    }
}
