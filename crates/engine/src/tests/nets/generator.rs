//! Makes SELECTs, of everything that a SELECT can have in it.
//!
//! Invariant: what is made depends on the dice alone; and its answer depends on the rows alone: where a LIMIT or a
//! window makes a choice, an order says which (rows that the order does not tell apart are the same row twice).

mod expressions;

use self::expressions::constant;
use super::{
    dice::Dice,
    forms::{AGGREGATES, Call, DISTANCE_FRAMES, GROUP_FRAMES, ROWS_FRAMES, Type, WINDOWS, making},
    judge::{TABLES, key},
    rows::{FIRST_SECOND, MOMENTS, STEP_SECONDS, TEXTS},
    statement::{Body, By, Dialect, Expr, Grouping, Order, Query, Relation, Select, Source},
};

const SELECTABLE: [Type; 9] =
    [Type::Int, Type::Int, Type::Int, Type::Text, Type::Text, Type::Text, Type::Bool, Type::Time, Type::Date];
const JOINABLE: [Type; 5] = [Type::Int, Type::Int, Type::Text, Type::Text, Type::Time];

/// Makes statements.
pub(super) struct Generator {
    pub(super) dice: Dice,
    /// Whether `SQLite` is to understand them.
    portable: bool,
    aliases: usize,
    /// How many windows may look at the places of rows. Where rows may be there twice, two windows may give them their
    /// places in two ways.
    windows_by_place: usize,
    /// What WITH has named so far.
    named: Vec<Named>,
}

/// A relation that can be read by its name.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    columns: Vec<(String, Type)>,
    /// The columns that tell its rows apart.
    key: Vec<String>,
}

/// What an expression can be made of.
#[derive(Debug, Clone, Default)]
struct Scope {
    /// Columns, or the expressions of GROUP BY.
    leaves: Vec<Expr>,
    /// Columns of the query around.
    outer: Vec<Expr>,
    /// What aggregates are over, where they may stand.
    aggregated: Option<Vec<Expr>>,
    /// What windows are over, where they may stand.
    windowed: Option<Vec<Expr>>,
    /// The keys of ROLLUP and its like, whose GROUPING may stand here.
    grouping: Vec<Expr>,
    /// Whether subqueries may stand here.
    subqueries: bool,
}

impl Generator {
    pub(super) fn new(dice: Dice, portable: bool) -> Self {
        Self { dice, portable, aliases: 0, windows_by_place: 0, named: Vec::new() }
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn kinds(&mut self, most: usize) -> Vec<Type> {
        let count = 1 + self.dice.below(most);
        (0..count).map(|_| *self.dice.pick(&SELECTABLE)).collect()
    }

    /// The next statement.
    pub(super) fn statement(&mut self) -> Query {
        let mut kinds = self.kinds(4);
        if self.dice.chance(10) {
            kinds.push(Type::Real);
        }
        if self.dice.chance(8) {
            kinds.push(Type::Json);
        }
        let mut with = self.with();
        let mut query = self.query(&kinds, 3);
        if query.order.is_empty() && self.dice.chance(30) {
            query.order = self.order_by_output(&kinds);
        }
        with.append(&mut query.with);
        Query { with, ..query }
    }

    /// A SELECT of columns from something, and a condition on what it reads: for the identities.
    pub(super) fn plain_with_condition(&mut self, subqueries: bool) -> Select {
        let mut scope = Scope::default();
        let (from, _) = self.from(3, &mut scope);
        let kinds = self.kinds(3);
        let items = kinds.iter().map(|kind| self.expr(*kind, &scope, 1)).collect();
        scope.subqueries = subqueries;
        let filter = Some(self.condition(&scope, 4));
        Select::new(items, from, filter)
    }

    /// The messages that meet a condition, in the words of a DELETE: columns are the table's own.
    pub(super) fn messages_with_condition(&mut self) -> Select {
        let table = table_named(0);
        let column = |(name, kind): &(String, Type)| Expr::Column {
            relation: table.name.clone(),
            name: name.clone(),
            kind: *kind,
        };
        let leaves: Vec<Expr> = table.columns.iter().map(column).collect();
        let items = vec![leaves[0].clone()];
        let scope = Scope { leaves, subqueries: true, ..Scope::default() };
        let filter = Some(self.condition(&scope, 4));
        let from = vec![Source {
            join: "",
            relation: Relation::Named(table.name.clone()),
            alias: table.name.clone(),
            on: None,
            using: None,
        }];
        Select::new(items, from, filter)
    }

    fn with(&mut self) -> Vec<(String, Query)> {
        self.named.clear();
        let count = if self.dice.chance(25) { 1 + self.dice.below(2) } else { 0 };
        (0..count).map(|_| self.common(2)).collect()
    }

    /// One query of WITH, which is known by its name from here on.
    fn common(&mut self, depth: usize) -> (String, Query) {
        let name = format!("w{}", self.alias());
        let (kinds, query) = if self.dice.chance(10) {
            let (step, end) = (1 + self.dice.below(3), self.dice.below(9));
            let text =
                format!("SELECT 1 AS c0 UNION ALL SELECT {name}.c0 + {step} FROM {name} WHERE {name}.c0 < {end}");
            (vec![Type::Int], Query { body: Body::Recursive(text), ..Query::of(Select::new(vec![], vec![], None)) })
        } else {
            let kinds = self.kinds(3);
            let query = self.query(&kinds, depth);
            (kinds, query)
        };
        self.named.push(named(name.clone(), &kinds));
        (name, query)
    }

    // --- queries

    fn query(&mut self, kinds: &[Type], depth: usize) -> Query {
        if depth > 0 && self.dice.chance(4) {
            // A WITH of its own, known in here only.
            let known = self.named.len();
            let mut with = vec![self.common(depth - 1)];
            let mut query = self.query(kinds, depth - 1);
            self.named.truncate(known);
            with.append(&mut query.with);
            return Query { with, ..query };
        }
        let has_fractions = kinds.contains(&Type::Real);
        let body = match self.dice.below(100) {
            0..12 if depth > 0 && !has_fractions => return self.set(kinds, depth),
            12..16 if !has_fractions => Body::Values(self.values(kinds)),
            _ => return self.select(kinds, depth, &[]),
        };
        let mut query = Query { with: Vec::new(), body, order: Vec::new(), limit: None, offset: 0 };
        self.limit(&mut query, kinds, Vec::new());
        query
    }

    fn set(&mut self, kinds: &[Type], depth: usize) -> Query {
        let operators = ["UNION", "UNION ALL", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"];
        let operator = *self.dice.pick(&operators);
        let left = Box::new(self.query(kinds, depth - 1));
        // The same twice is what an optimizer may take for once.
        let right = if self.dice.chance(15) { left.clone() } else { Box::new(self.query(kinds, depth - 1)) };
        let body = Body::Set { operator, left, right };
        let mut query = Query { with: Vec::new(), body, order: Vec::new(), limit: None, offset: 0 };
        self.limit(&mut query, kinds, Vec::new());
        query
    }

    fn values(&mut self, kinds: &[Type]) -> Vec<Vec<Expr>> {
        let rows = 1 + self.dice.below(4);
        (0..rows).map(|_| kinds.iter().map(|kind| self.literal(*kind)).collect()).collect()
    }

    /// A SELECT, perhaps with an order and a limit. `outer`: columns of the query around it.
    fn select(&mut self, kinds: &[Type], depth: usize, outer: &[Expr]) -> Query {
        let mut scope = Scope::default();
        let (from, keys) = self.from(depth, &mut scope);
        let filtered = if depth > 2 { 60 } else { 40 };
        let filter = (self.dice.chance(filtered) || !outer.is_empty()).then(|| self.filter(&scope, depth, outer));
        let mut select = Select::new(Vec::new(), from, filter);
        let mut order_keys = Vec::new();
        match self.dice.below(100) {
            0..20 => self.grouped(&mut select, &scope, kinds, depth),
            20..28 => {
                let over = Scope { leaves: Vec::new(), aggregated: Some(scope.leaves.clone()), ..Scope::default() };
                select.items = kinds.iter().map(|kind| self.expr(*kind, &over, 2)).collect();
            }
            28..42 => {
                let over = Scope { windowed: Some(keys), ..scope.clone() };
                self.windows_by_place = if select.from.iter().all(is_table) { usize::MAX } else { 1 };
                select.items = kinds.iter().map(|kind| self.expr(*kind, &over, 2)).collect();
            }
            42..46 if !kinds.contains(&Type::Real) => return self.first_of_each(select, &scope, kinds, keys),
            42..52 => {
                select.distinct = true;
                select.items = kinds.iter().map(|kind| self.expr(*kind, &scope, 2)).collect();
            }
            _ => {
                let inside = Scope { subqueries: depth > 0, ..scope.clone() };
                let depth = if self.dice.chance(50) { 0 } else { 2 };
                select.items = kinds.iter().map(|kind| self.item(*kind, &inside, depth)).collect();
                order_keys = keys;
            }
        }
        let mut query = Query::of(select);
        self.limit(&mut query, kinds, order_keys);
        query
    }

    /// `SELECT DISTINCT ON (a) … ORDER BY a, b`
    fn first_of_each(&mut self, mut select: Select, scope: &Scope, kinds: &[Type], keys: Vec<Expr>) -> Query {
        select.items = kinds.iter().map(|kind| self.expr(*kind, scope, 1)).collect();
        let fitting: Vec<Expr> = scope.leaves.iter().filter(|leaf| leaf.kind() != Type::Real).cloned().collect();
        select.distinct_on = vec![self.dice.pick(&fitting).clone()];
        let order = select.distinct_on.iter().cloned().chain(keys).collect::<Vec<_>>();
        let order = order.into_iter().map(|by| self.ordered(By::Value(by))).collect();
        Query { order, ..Query::of(select) }
    }

    /// A column of the answer: subqueries stand there now and then only.
    fn item(&mut self, kind: Type, scope: &Scope, depth: usize) -> Expr {
        let scope = Scope { subqueries: scope.subqueries && self.dice.chance(15), ..scope.clone() };
        self.expr(kind, &scope, depth)
    }

    fn filter(&mut self, scope: &Scope, depth: usize, outer: &[Expr]) -> Expr {
        let inside = Scope { subqueries: depth > 0 && outer.is_empty(), ..scope.clone() };
        let own = self.condition(&inside, 3);
        match self.correlation(scope, outer) {
            Some(correlation) if self.dice.chance(60) => correlation,
            Some(correlation) => both(correlation, own),
            None => own,
        }
    }

    /// A condition that is true for some rows: most that are made of chance are true for few.
    fn condition(&mut self, scope: &Scope, depth: usize) -> Expr {
        let one = self.expr(Type::Bool, scope, depth);
        match self.dice.below(100) {
            0..35 => compare_all("(NOT $0)", vec![one]),
            35..50 => compare_all("($0 OR $1)", vec![one, self.expr(Type::Bool, scope, depth - 1)]),
            _ => one,
        }
    }

    /// A condition that ties a subquery to the query around it.
    fn correlation(&mut self, scope: &Scope, outer: &[Expr]) -> Option<Expr> {
        let pairs: Vec<(&Expr, &Expr)> = scope
            .leaves
            .iter()
            .flat_map(|inner| outer.iter().map(move |outer| (inner, outer)))
            .filter(|(inner, outer)| inner.kind() == outer.kind() && JOINABLE.contains(&inner.kind()))
            .collect();
        if pairs.is_empty() {
            return None;
        }
        // Columns of one name have values in common.
        let alike: Vec<_> = pairs.iter().filter(|(inner, outer)| name(inner) == name(outer)).copied().collect();
        let pairs = if !alike.is_empty() && self.dice.chance(60) { alike } else { pairs };
        let (inner, outer) = *self.dice.pick(&pairs);
        let operator = if self.dice.chance(85) { "($0 = $1)" } else { *self.dice.pick(&["($0 < $1)", "($0 <> $1)"]) };
        Some(compare(operator, inner.clone(), outer.clone()))
    }

    fn grouped(&mut self, select: &mut Select, scope: &Scope, kinds: &[Type], depth: usize) {
        let count = 1 + self.dice.below(2);
        for _ in 0..count {
            let kind = *self.dice.pick(&SELECTABLE);
            let deep = if self.dice.chance(70) { 0 } else { 2 };
            let by = self.expr(kind, scope, deep);
            // A number alone would name a column of the answer.
            if !matches!(by, Expr::Literal { .. }) && !select.group.contains(&by) {
                select.group.push(by);
            }
        }
        if select.group.is_empty() {
            select.group.push(scope.leaves[0].clone());
        }
        select.grouping = match self.dice.below(100) {
            0..12 => Grouping::Rollup,
            12..18 => Grouping::Cube,
            18..24 => Grouping::Each,
            _ => Grouping::Plain,
        };
        let over = Scope { leaves: select.group.clone(), aggregated: Some(scope.leaves.clone()), ..Scope::default() };
        let several = select.grouping.is_several();
        let over = Scope { grouping: if several { select.group.clone() } else { Vec::new() }, ..over };
        let has_windows = !several && self.dice.chance(15);
        self.windows_by_place = usize::MAX;
        let windowed = has_windows.then(|| select.group.clone());
        let above = Scope { windowed, ..over.clone() };
        select.items = kinds.iter().map(|kind| self.expr(*kind, &above, 2)).collect();
        if self.dice.chance(40) {
            let subqueries = depth > 0 && !several && self.dice.chance(20);
            select.having = Some(self.condition(&Scope { subqueries, ..over }, 2));
        }
    }

    /// Perhaps an order and a limit. `keys`: what tells the rows of a plain SELECT apart.
    fn limit(&mut self, query: &mut Query, kinds: &[Type], keys: Vec<Expr>) {
        let by_keys = !keys.is_empty() && self.dice.chance(50);
        if kinds.contains(&Type::Real) && !by_keys {
            return;
        }
        let limited = match self.dice.below(100) {
            0..28 => true,
            28..38 => false,
            38..41 => {
                query.order = if by_keys { self.order_by(keys) } else { self.order_by_output(kinds) };
                query.offset = 1 + self.dice.below(4);
                return;
            }
            _ => return,
        };
        query.order = if by_keys { self.order_by(keys) } else { self.order_by_output(kinds) };
        if limited {
            query.limit = Some(*self.dice.pick(&[0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 5, 5, 8, 8, 20, 50]));
            query.offset = *self.dice.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 5]);
        }
    }

    fn order_by_output(&mut self, kinds: &[Type]) -> Vec<Order> {
        let mut columns: Vec<usize> = (0..kinds.len()).filter(|column| kinds[*column] != Type::Real).collect();
        self.dice.shuffle(&mut columns);
        columns.into_iter().map(|column| self.ordered(By::Output(column))).collect()
    }

    fn order_by(&mut self, mut keys: Vec<Expr>) -> Vec<Order> {
        if self.dice.chance(30) {
            self.dice.shuffle(&mut keys);
        }
        keys.into_iter().map(|key| self.ordered(By::Value(key))).collect()
    }

    fn ordered(&mut self, by: By) -> Order {
        let nulls_first = if self.dice.chance(70) { None } else { Some(self.dice.chance(50)) };
        Order { by, descending: self.dice.chance(50), nulls_first }
    }

    // --- relations

    /// What a SELECT reads; adds its columns to the scope, and answers with what tells its rows apart.
    fn from(&mut self, depth: usize, scope: &mut Scope) -> (Vec<Source>, Vec<Expr>) {
        let (first, mut keys) = self.source("", depth, scope);
        let mut from = vec![first];
        let joins = match self.dice.below(100) {
            55..75 => 1,
            75..88 if depth > 0 => 1,
            88..100 if depth > 1 => 2,
            _ => 0,
        };
        for number in 0..joins {
            if !self.join(number, number + 1 == joins, depth, scope, (&mut from, &mut keys)) {
                break;
            }
        }
        (from, keys)
    }

    /// Joins one more relation; not, when nothing ties it to those before it and the rows would be too many.
    fn join(
        &mut self,
        number: usize,
        is_last: bool,
        depth: usize,
        scope: &mut Scope,
        (from, keys): (&mut Vec<Source>, &mut Vec<Expr>),
    ) -> bool {
        let before = scope.leaves.clone();
        let kinds = ["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"];
        let halves = ["LEFT SEMI JOIN", "LEFT ANTI JOIN"];
        // Of these only the rows before them go on.
        let is_half = !self.portable && self.dice.chance(10);
        let join = *self.dice.pick(match (is_half, number) {
            (true, _) => &halves,
            (false, 0) => &kinds,
            (false, _) => &kinds[..6],
        });
        let (mut source, more) = self.source(join, depth.min(1), scope);
        if join != "CROSS JOIN" && !is_half && is_last && self.dice.chance(20) {
            source.using = self.merged(&before, scope);
        }
        if join != "CROSS JOIN" && source.using.is_none() {
            let joined = scope.leaves[before.len()..].to_vec();
            source.on = self.on(&before, &joined, number > 0);
            if source.on.is_none() {
                scope.leaves = before;
                return false;
            }
        }
        from.push(source);
        if is_half {
            scope.leaves = before;
        } else {
            keys.extend(more);
        }
        true
    }

    /// A column that both sides of a join have; its name alone joins the scope.
    fn merged(&mut self, before: &[Expr], scope: &mut Scope) -> Option<&'static str> {
        // `SQLite` would take `c0` for a column of the answer.
        let names = ["conversationId", "userId", "c0"];
        let name = *self.dice.pick(if self.portable { &names[..2] } else { &names });
        let called = |leaves: &[Expr]| leaves.iter().filter(|leaf| self::name(leaf) == Some(name)).cloned().collect();
        let (left, right): (Vec<_>, Vec<_>) = (called(before), called(&scope.leaves[before.len()..]));
        let ([left], [right]) = (left.as_slice(), right.as_slice()) else { return None };
        if left.kind() != right.kind() {
            return None;
        }
        let merged = Expr::Column { relation: String::new(), name: name.to_owned(), kind: left.kind() };
        scope.leaves.extend([merged.clone(), merged]);
        Some(name)
    }

    /// The condition of a join; with `must_equal` an equality if any, which keeps three relations small.
    fn on(&mut self, left: &[Expr], right: &[Expr], must_equal: bool) -> Option<Expr> {
        let scope = Scope { leaves: right.to_vec(), ..Scope::default() };
        let equality = self.correlation(&scope, left);
        let both_sides = Scope { leaves: left.iter().chain(right).cloned().collect(), ..Scope::default() };
        match equality {
            Some(Expr::Form(_, args)) if must_equal => Some(compare_all("($0 = $1)", args)),
            _ if must_equal => None,
            Some(equality) if self.dice.chance(65) => Some(equality),
            Some(equality) if self.dice.chance(70) => Some(both(equality, self.expr(Type::Bool, &both_sides, 1))),
            _ => Some(self.expr(Type::Bool, &both_sides, 2)),
        }
    }

    fn source(&mut self, join: &'static str, depth: usize, scope: &mut Scope) -> (Source, Vec<Expr>) {
        let alias = self.alias();
        let (relation, of) = match self.dice.below(100) {
            0..30 if depth > 0 => {
                let kinds = self.kinds(3);
                (Relation::Derived(Box::new(self.query(&kinds, depth - 1))), named(String::new(), &kinds))
            }
            30..50 if !self.named.is_empty() => {
                let of = self.dice.pick(&self.named).clone();
                (Relation::Named(of.name.clone()), of)
            }
            // All columns of a table, in the order that the newest ones are asked for.
            50..56 if depth > 0 => self.newest(),
            56..60 if depth > 0 => self.numbered(),
            _ => {
                let table = *self.dice.pick(&[0, 0, 0, 0, 0, 1, 2, 3]);
                let of = table_named(table);
                (Relation::Named(of.name.clone()), of)
            }
        };
        let column =
            |(name, kind): &(String, Type)| Expr::Column { relation: alias.clone(), name: name.clone(), kind: *kind };
        let columns: Vec<Expr> = of.columns.iter().map(column).collect();
        let is_key = |(name, _): &&(String, Type)| of.key.contains(name);
        let keys = of.columns.iter().filter(is_key).map(column).collect();
        scope.leaves.extend(columns);
        (Source { join, relation, alias, on: None, using: None }, keys)
    }

    /// `SELECT msgId, content, … FROM messages WHERE conversationId = 'c1' ORDER BY msgId DESC LIMIT 2`
    fn newest(&mut self) -> (Relation, Named) {
        let alias = self.alias();
        let column =
            |(name, kind): &(String, Type)| Expr::Column { relation: alias.clone(), name: name.clone(), kind: *kind };
        let table = table_named(0);
        let mut columns: Vec<Expr> = table.columns.iter().map(column).collect();
        let id = columns[0].clone();
        let conversation = columns[1].clone();
        self.dice.shuffle(&mut columns);
        columns.truncate(3);
        if !columns.contains(&id) {
            columns.push(id.clone());
        }
        let filter = self.dice.chance(75).then(|| {
            let name = *self.dice.pick(&["'c1'", "'c2'", "'C1'", "'g1'"]);
            compare("($0 = $1)", conversation, constant(name, name, Type::Text))
        });
        let kinds: Vec<Type> = columns.iter().map(Expr::kind).collect();
        let source = Source { join: "", relation: Relation::Named(table.name), alias, on: None, using: None };
        let (items, from) = (columns, vec![source]);
        let mut query = Query::of(Select::new(items, from, filter));
        let descending = self.dice.chance(70);
        query.order = vec![Order { by: By::Value(id), descending, nulls_first: None }];
        query.limit = Some(1 + self.dice.below(4));
        (Relation::Derived(Box::new(query)), named(String::new(), &kinds))
    }
}

impl Generator {
    /// `SELECT … FROM (SELECT …, ROW_NUMBER() OVER (PARTITION BY conversationId ORDER BY msgId DESC) AS c2 FROM messages)
    /// WHERE c2 <= 2`
    fn numbered(&mut self) -> (Relation, Named) {
        let mut scope = Scope::default();
        let (source, keys) = self.source("", 0, &mut scope);
        let mut columns = scope.leaves;
        self.dice.shuffle(&mut columns);
        columns.truncate(2);
        let partition: Vec<Expr> = columns.iter().filter(|_| self.dice.chance(40)).cloned().collect();
        let partition = if partition.is_empty() { vec![columns[0].clone()] } else { partition };
        let order = self.order_by(keys);
        let call = WINDOWS.iter().find(|call| call.text(Dialect::Ours) == "ROW_NUMBER()").expect("there is one");
        let number = Expr::Window { call, args: vec![], filter: None, partition, order, frame: "" };
        let kinds: Vec<Type> = columns.iter().map(Expr::kind).chain([Type::Int]).collect();
        let filter = self
            .dice
            .chance(30)
            .then(|| self.expr(Type::Bool, &Scope { leaves: columns.clone(), ..Scope::default() }, 1));
        let inside = Query::of(Select::new(columns.into_iter().chain([number]).collect(), vec![source], filter));
        let alias = self.alias();
        let of = named(String::new(), &kinds);
        let column =
            |(name, kind): &(String, Type)| Expr::Column { relation: alias.clone(), name: name.clone(), kind: *kind };
        let items: Vec<Expr> = of.columns.iter().map(column).collect();
        let most = self.literal(Type::Few);
        let operator = *self.dice.pick(&["($0 <= $1)", "($0 = $1)", "($0 < $1)", "($0 > $1)"]);
        let filter = compare(operator, items[items.len() - 1].clone(), most);
        let relation = Relation::Derived(Box::new(inside));
        let source = Source { join: "", relation, alias, on: None, using: None };
        let query = Query::of(Select::new(items, vec![source], Some(filter)));
        (Relation::Derived(Box::new(query)), of)
    }
}

fn named(name: String, kinds: &[Type]) -> Named {
    let columns: Vec<_> = kinds.iter().enumerate().map(|(number, kind)| (format!("c{number}"), *kind)).collect();
    let key = columns.iter().filter(|(_, kind)| *kind != Type::Real).map(|(name, _)| name.clone()).collect();
    Named { name, columns, key }
}

fn table_named(table: usize) -> Named {
    let (name, columns) = TABLES[table];
    Named {
        name: name.to_owned(),
        columns: columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect(),
        key: key(name).iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Whether a relation has no row twice.
fn is_table(source: &Source) -> bool {
    matches!(&source.relation, Relation::Named(name) if TABLES.iter().any(|(table, _)| table == name))
}

/// What a column is called.
fn name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column { name, .. } => Some(name),
        _ => None,
    }
}

/// A comparison by its text.
pub(super) fn compare(text: &str, left: Expr, right: Expr) -> Expr {
    compare_all(text, vec![left, right])
}

pub(super) fn compare_all(text: &str, args: Vec<Expr>) -> Expr {
    let alike = |kind: Type| if kind == Type::Few { Type::Int } else { kind };
    let takes: Vec<Type> = args.iter().map(Expr::kind).map(alike).collect();
    let forms = making(Type::Bool, true, true).into_iter().chain(making(Type::Bool, true, false));
    let form = forms.into_iter().find(|form| form.takes == takes && form.is_called(text));
    Expr::Form(form.expect("every type has comparisons"), args)
}

/// Both conditions.
fn both(one: Expr, other: Expr) -> Expr {
    compare_all("($0 AND $1)", vec![one, other])
}
