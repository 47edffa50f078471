//! A statement as a tree, and its text in the two dialects.
//!
//! Invariant: both texts of a tree mean the same, so every difference of dialect (which NULL comes first, how a
//! function is called, whether an operand of UNION may stand in parentheses) is settled here or in [`super::forms`].

use std::fmt::Write;

use super::forms::{AGGREGATES, Call, Form, Type};

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
    /// `a < ANY (SELECT …)`, or ALL.
    Quantified { value: Box<Expr>, operator: &'static str, all: bool, query: Box<Query> },
    /// `EXISTS (SELECT …)`
    Exists { negated: bool, query: Box<Query> },
    /// `(SELECT MAX(…) …)`
    Scalar(Box<Query>, Type),
    /// `SUM(DISTINCT a) FILTER (WHERE b)`
    Aggregate { call: &'static Call, args: Vec<Expr>, distinct: bool, filter: Option<Box<Expr>> },
    /// `GROUPING(a)`, of a key of ROLLUP and its like: 1 where rows are not grouped by it.
    Grouping(Box<Expr>),
    /// `LAG(a) OVER (PARTITION BY b ORDER BY c)`
    Window {
        call: &'static Call,
        args: Vec<Expr>,
        filter: Option<Box<Expr>>,
        partition: Vec<Expr>,
        order: Vec<Order>,
        frame: &'static str,
    },
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
    Set {
        operator: &'static str,
        left: Box<Query>,
        right: Box<Query>,
    },
    Values(Vec<Vec<Expr>>),
    /// One column of numbers, each made of those before: the text is the same for both.
    Recursive(String),
}

/// How the rows are grouped by the keys of GROUP BY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grouping {
    /// By all of them.
    Plain,
    /// `ROLLUP (…)`: by all of them, by all but the last, and so on to all rows together.
    Rollup,
    /// `CUBE (…)`: by each choice of them.
    Cube,
    /// `GROUPING SETS ((a), (b), …)`: by each of them alone.
    Each,
}

impl Grouping {
    /// Whether the rows are grouped in several ways.
    pub(super) fn is_several(self) -> bool {
        self != Self::Plain
    }

    /// Which keys rows are grouped by, for each way.
    fn sets(self, keys: usize) -> Vec<Vec<bool>> {
        let of = |kept: &dyn Fn(usize) -> bool| (0..keys).map(kept).collect::<Vec<_>>();
        match self {
            Self::Plain => vec![of(&|_| true)],
            Self::Rollup => (0..=keys).rev().map(|level| of(&|key| key < level)).collect(),
            Self::Cube => (0..1 << keys).map(|set: usize| of(&|key| set & (1 << key) != 0)).collect(),
            Self::Each => (0..keys).map(|one| of(&|key| key == one)).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Select {
    pub(super) distinct: bool,
    /// `DISTINCT ON (…)`: the first row of each of them in the query's order.
    pub(super) distinct_on: Vec<Expr>,
    pub(super) items: Vec<Expr>,
    pub(super) from: Vec<Source>,
    pub(super) filter: Option<Expr>,
    pub(super) group: Vec<Expr>,
    pub(super) grouping: Grouping,
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
            Self::Moment { .. } | Self::In { .. } | Self::Quantified { .. } | Self::Exists { .. } => Type::Bool,
            Self::Grouping(_) => Type::Int,
            Self::Aggregate { call, args, .. } | Self::Window { call, args, .. } => call.gives(args),
        }
    }
}

impl Expr {
    fn has_aggregate(&self) -> bool {
        match self {
            Self::Aggregate { .. } => true,
            Self::Form(_, args) => args.iter().any(Self::has_aggregate),
            Self::In { value, .. } | Self::Quantified { value, .. } => value.has_aggregate(),
            _ => false,
        }
    }

    /// Puts NULL for these wherever they stand, but for what aggregates are over.
    fn without(&mut self, dropped: &[Self], kept: &[Self]) {
        if let Self::Grouping(key) = self {
            let text = if kept.contains(key) { "0" } else { "1" }.to_owned();
            *self = Self::Literal { ours: text.clone(), sqlite: text, kind: Type::Int };
            return;
        }
        if kept.contains(self) {
            return;
        }
        if dropped.contains(self) {
            *self = Self::Literal { ours: "NULL".to_owned(), sqlite: "NULL".to_owned(), kind: self.kind() };
            return;
        }
        match self {
            Self::Form(_, args) => args.iter_mut().for_each(|arg| arg.without(dropped, kept)),
            Self::In { value, .. } | Self::Quantified { value, .. } => value.without(dropped, kept),
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
            Body::Recursive(_) => 1,
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
        let (distinct_on, group) = (Vec::new(), Vec::new());
        Self { distinct: false, distinct_on, items, from, filter, group, grouping: Grouping::Plain, having: None }
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
            let recursive = query.with.iter().any(|(_, query)| matches!(query.body, Body::Recursive(_)));
            self.put(if recursive { "WITH RECURSIVE " } else { "WITH " });
            self.joined(&query.with, |this, (name, query)| {
                this.put(name);
                this.put(" AS (");
                this.query(query);
                this.put(")");
            });
            self.put(" ");
        }
        match query.select() {
            Some(select) if !select.distinct_on.is_empty() && self.dialect == Dialect::Sqlite => {
                self.first_of_each(select, &query.order);
            }
            _ => {
                self.body(&query.body);
                self.order(&query.order);
            }
        }
        match (query.limit, query.offset, self.dialect) {
            (None, 0, _) => {}
            (None, offset, Dialect::Ours) => self.put(&format!(" OFFSET {offset}")),
            (None, offset, Dialect::Sqlite) => self.put(&format!(" LIMIT -1 OFFSET {offset}")),
            (Some(limit), 0, _) => self.put(&format!(" LIMIT {limit}")),
            (Some(limit), offset, _) => self.put(&format!(" LIMIT {limit} OFFSET {offset}")),
        }
    }

    fn body(&mut self, body: &Body) {
        match body {
            Body::Select(select) if select.grouping.is_several() && self.dialect == Dialect::Sqlite => {
                self.each_grouping(select);
            }
            Body::Select(select) => self.select(select),
            Body::Set { operator: "INTERSECT ALL", left, right } if self.dialect == Dialect::Sqlite => {
                self.numbered("INTERSECT", left, right);
            }
            Body::Set { operator: "EXCEPT ALL", left, right } if self.dialect == Dialect::Sqlite => {
                self.numbered("EXCEPT", left, right);
            }
            Body::Recursive(text) => self.put(text),
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

    /// `SQLite` has no ALL here: rows that are there twice are told apart by a number.
    fn numbered(&mut self, operator: &str, left: &Query, right: &Query) {
        let columns: Vec<String> = (0..left.width()).map(|number| format!("c{number}")).collect();
        let columns = columns.join(", ");
        self.put(&format!("SELECT {columns} FROM ("));
        for (number, query) in [left, right].into_iter().enumerate() {
            if number > 0 {
                self.put(&format!(" {operator} "));
            }
            self.put(&format!("SELECT {columns}, ROW_NUMBER() OVER (PARTITION BY {columns}) AS n FROM ("));
            self.query(query);
            self.put(")");
        }
        self.put(")");
    }

    /// `SQLite` has no DISTINCT ON: the first by their number.
    fn first_of_each(&mut self, select: &Select, order: &[Order]) {
        let columns: Vec<String> = (0..select.items.len()).map(|number| format!("c{number}")).collect();
        self.put(&format!("SELECT {} FROM (SELECT ", columns.join(", ")));
        self.items(&select.items);
        self.put(", ROW_NUMBER() OVER (PARTITION BY ");
        self.joined(&select.distinct_on, Self::expr);
        self.order(order);
        self.put(") AS n");
        self.from(&select.from);
        self.filter(select.filter.as_ref());
        self.put(") WHERE n = 1");
    }

    /// `SQLite` takes no parentheses here, and has one precedence for all of them.
    fn operand(&mut self, query: &Query) {
        let is_plain = query.with.is_empty()
            && query.order.is_empty()
            && query.limit.is_none()
            && query.offset == 0
            && query.select().is_some_and(|select| !select.grouping.is_several() && select.distinct_on.is_empty());
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

    /// `SQLite` has no ROLLUP and the like: one SELECT for each set, with NULL for what it does not group by.
    fn each_grouping(&mut self, select: &Select) {
        for (number, set) in select.grouping.sets(select.group.len()).into_iter().enumerate() {
            let of = |wanted: bool| {
                let keys = select.group.iter().zip(&set).filter(move |(_, kept)| **kept == wanted);
                keys.map(|(key, _)| key.clone()).collect::<Vec<_>>()
            };
            let (kept, dropped) = (of(true), of(false));
            let mut part = Select { grouping: Grouping::Plain, group: kept.clone(), ..select.clone() };
            part.items.iter_mut().chain(&mut part.having).for_each(|item| item.without(&dropped, &kept));
            if number > 0 {
                self.put(" UNION ALL ");
            }
            let filters = part.having.as_ref().is_some_and(Expr::has_aggregate);
            match (kept.is_empty() && !part.has_aggregate(), filters) {
                // One row, also where there are none.
                (true, false) => {
                    part.from.clear();
                    part.filter = part.having.take();
                    self.select(&part);
                }
                // `SQLite` wants an aggregate in the answer too.
                (true, true) => {
                    let columns: Vec<String> = (0..part.items.len()).map(|number| format!("c{number}")).collect();
                    self.put(&format!("SELECT {} FROM (", columns.join(", ")));
                    part.items.push(Expr::Aggregate {
                        call: &AGGREGATES[0],
                        args: vec![],
                        distinct: false,
                        filter: None,
                    });
                    self.select(&part);
                    self.put(")");
                }
                (false, _) => self.select(&part),
            }
        }
    }

    fn select(&mut self, select: &Select) {
        self.put(if select.distinct { "SELECT DISTINCT " } else { "SELECT " });
        if !select.distinct_on.is_empty() {
            self.put("DISTINCT ON (");
            self.joined(&select.distinct_on, Self::expr);
            self.put(") ");
        }
        self.items(&select.items);
        self.from(&select.from);
        self.filter(select.filter.as_ref());
        self.group(select);
        if let Some(having) = &select.having {
            self.put(" HAVING ");
            self.expr(having);
        }
    }

    fn items(&mut self, items: &[Expr]) {
        for (number, item) in items.iter().enumerate() {
            if number > 0 {
                self.put(", ");
            }
            self.expr(item);
            self.put(&format!(" AS c{number}"));
        }
    }

    fn filter(&mut self, filter: Option<&Expr>) {
        if let Some(filter) = filter {
            self.put(" WHERE ");
            self.expr(filter);
        }
    }

    fn group(&mut self, select: &Select) {
        if select.group.is_empty() {
            return;
        }
        let (start, end) = match select.grouping {
            Grouping::Plain => ("", ""),
            Grouping::Rollup => ("ROLLUP (", ")"),
            Grouping::Cube => ("CUBE (", ")"),
            Grouping::Each => ("GROUPING SETS (", ")"),
        };
        self.put(" GROUP BY ");
        self.put(start);
        let alone = select.grouping == Grouping::Each;
        self.joined(&select.group, |this, key| {
            this.put(if alone { "(" } else { "" });
            this.expr(key);
            this.put(if alone { ")" } else { "" });
        });
        self.put(end);
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
            Expr::Quantified { value, operator, all, query } => self.quantified(value, operator, *all, query),
            Expr::Grouping(key) => {
                self.put("GROUPING(");
                self.expr(key);
                self.put(")");
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
            Expr::Window { call, args, filter, partition, order, frame } => {
                self.call(call, args, false);
                if let Some(filter) = filter {
                    self.put(" FILTER (WHERE ");
                    self.expr(filter);
                    self.put(")");
                }
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

    /// `SQLite` has no ANY and ALL: whether a row decides it, and whether one leaves it open.
    fn quantified(&mut self, value: &Expr, operator: &str, all: bool, query: &Query) {
        if self.dialect == Dialect::Ours {
            self.put("(");
            self.expr(value);
            self.put(&format!(" {operator} {} (", if all { "ALL" } else { "ANY" }));
            // A parenthesis at once would be taken for that of a list.
            let is_set = matches!(query.body, Body::Set { .. });
            self.put(if is_set { "SELECT * FROM (" } else { "" });
            self.query(query);
            self.put(if is_set { ") AS s))" } else { "))" });
            return;
        }
        let (decides, otherwise) = if all { ("IS FALSE", "0") } else { ("IS TRUE", "1") };
        self.put("CASE");
        for (when, then) in [(decides, otherwise), ("IS NULL", "NULL")] {
            self.put(" WHEN EXISTS (SELECT 1 FROM (");
            self.query(query);
            self.put(") AS s WHERE (");
            self.expr(value);
            self.put(&format!(" {operator} s.c0) {when}) THEN {then}"));
        }
        self.put(if all { " ELSE 1 END" } else { " ELSE 0 END" });
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
