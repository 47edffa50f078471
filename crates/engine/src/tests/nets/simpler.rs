//! The simplest statement that is still answered wrongly.
//!
//! Invariant: each step makes the statement smaller, so that it ends; a step may make it senseless, for then neither
//! takes it, and it is not kept. What sorts stays as it is: without it an answer would be a matter of luck.

use super::{
    forms::Type,
    statement::{Body, Expr, Grouping, Query, Relation, Select},
};

/// A piece of a statement.
enum Piece<'a> {
    Query(&'a mut Query),
    Select(&'a mut Select),
    Expr(&'a mut Expr),
}

/// What can be made simpler of a piece.
type Ways<T> = Vec<Box<dyn FnOnce(&mut T)>>;

/// The statement with one thing made simpler, for each thing and each way, from the outermost on.
pub(super) fn simpler(query: &Query) -> impl Iterator<Item = Query> + use<> {
    let original = query.clone();
    let mut pieces = 0;
    visit(&mut original.clone(), &mut |_| pieces += 1);
    (0..pieces).flat_map(move |piece| {
        let original = original.clone();
        (0..).map_while(move |way| change(&original, piece, way))
    })
}

/// The statement with that piece simplified that way; `None` when there is no such way.
fn change(query: &Query, wanted: usize, way: usize) -> Option<Query> {
    let mut changed = query.clone();
    let (mut number, mut done) = (0, false);
    visit(&mut changed, &mut |piece| {
        if number == wanted {
            done = match piece {
                Piece::Query(query) => simplify_query(query, way),
                Piece::Select(select) => simplify_select(select, way),
                Piece::Expr(expr) => simplify_expr(expr, way),
            };
        }
        number += 1;
    });
    done.then_some(changed)
}

fn simplify_query(query: &mut Query, way: usize) -> bool {
    let mut ways: Ways<Query> = Vec::new();
    if let Body::Set { left, right, .. } = &query.body {
        let (left, right) = (left.body.clone(), right.body.clone());
        ways.push(Box::new(|query| query.body = left));
        ways.push(Box::new(|query| query.body = right));
    }
    if let Body::Values(rows) = &query.body
        && rows.len() > 1
    {
        ways.push(Box::new(|query| {
            if let Body::Values(rows) = &mut query.body {
                rows.pop();
            }
        }));
    }
    if query.limit.is_some() || query.offset > 0 {
        ways.push(Box::new(|query| (query.limit, query.offset) = (None, 0)));
    }
    if query.offset > 0 && query.limit.is_some() {
        ways.push(Box::new(|query| query.offset = 0));
    }
    let is_chosen = query.select().is_some_and(|select| !select.distinct_on.is_empty());
    if !query.order.is_empty() && query.limit.is_none() && query.offset == 0 && !is_chosen {
        ways.push(Box::new(|query| query.order.clear()));
    }
    for number in 0..query.with.len() {
        ways.push(Box::new(move |query| drop(query.with.remove(number))));
    }
    apply(query, ways, way)
}

fn simplify_select(select: &mut Select, way: usize) -> bool {
    let mut ways: Ways<Select> = Vec::new();
    if select.filter.is_some() {
        ways.push(Box::new(|select| select.filter = None));
    }
    if select.having.is_some() {
        ways.push(Box::new(|select| select.having = None));
    }
    if select.grouping.is_several() {
        ways.push(Box::new(|select| select.grouping = Grouping::Plain));
    }
    if !select.distinct_on.is_empty() {
        ways.push(Box::new(|select| select.distinct_on.clear()));
    }
    if select.distinct {
        ways.push(Box::new(|select| select.distinct = false));
    }
    for number in 1..select.from.len() {
        ways.push(Box::new(move |select| drop(select.from.remove(number))));
    }
    if select.from.len() > 1 {
        ways.push(Box::new(|select| {
            select.from.remove(0);
            select.from[0].join = "";
            select.from[0].on = None;
            select.from[0].using = None;
        }));
    }
    for number in 0..select.items.len() {
        if select.items.len() > 1 {
            ways.push(Box::new(move |select| drop(select.items.remove(number))));
        }
    }
    for number in 0..select.group.len() {
        ways.push(Box::new(move |select| drop(select.group.remove(number))));
    }
    // A derived table that only passes on another one.
    for number in 0..select.from.len() {
        if let Relation::Derived(query) = &select.from[number].relation
            && let Some(inner) = query.select()
            && let [source] = inner.from.as_slice()
            && let Relation::Derived(_) = source.relation
        {
            let inner = source.relation.clone();
            ways.push(Box::new(move |select| select.from[number].relation = inner));
        }
    }
    apply(select, ways, way)
}

fn apply<T>(piece: &mut T, ways: Ways<T>, way: usize) -> bool {
    match ways.into_iter().nth(way) {
        Some(simplify) => {
            simplify(piece);
            true
        }
        None => false,
    }
}

fn simplify_expr(expr: &mut Expr, way: usize) -> bool {
    let kind = expr.kind();
    let mut ways: Vec<Expr> = Vec::new();
    match expr {
        Expr::Literal { .. } => {}
        Expr::Column { .. } => ways.push(literal(kind)),
        Expr::Form(_, args) => {
            ways.extend(args.iter().filter(|arg| arg.kind() == kind).cloned());
            ways.extend(constants(kind));
        }
        Expr::Moment { .. }
        | Expr::In { .. }
        | Expr::Quantified { .. }
        | Expr::Exists { .. }
        | Expr::Grouping(_)
        | Expr::Scalar(..) => ways.extend(constants(kind)),
        Expr::Aggregate { call, args, distinct, filter } => {
            if filter.is_some() {
                ways.push(Expr::Aggregate { call, args: args.clone(), distinct: *distinct, filter: None });
            }
            if *distinct {
                ways.push(Expr::Aggregate { call, args: args.clone(), distinct: false, filter: filter.clone() });
            }
            ways.extend(constants(kind));
        }
        Expr::Window { call, args, filter, partition, order, frame } => {
            let with = |filter: &Option<Box<Expr>>, partition: Vec<Expr>| {
                let (args, filter, order) = (args.clone(), filter.clone(), order.clone());
                Expr::Window { call, args, filter, partition, order, frame }
            };
            if !partition.is_empty() {
                ways.push(with(filter, Vec::new()));
            }
            if filter.is_some() {
                ways.push(with(&None, partition.clone()));
            }
            ways.extend(constants(kind));
        }
    }
    match ways.into_iter().nth(way) {
        Some(simple) => {
            *expr = simple;
            true
        }
        None => false,
    }
}

/// The plainest values of a type.
fn constants(kind: Type) -> Vec<Expr> {
    let mut all = vec![literal(kind)];
    if kind == Type::Bool {
        all.push(Expr::Literal { ours: "FALSE".to_owned(), sqlite: "FALSE".to_owned(), kind });
    }
    all
}

fn literal(kind: Type) -> Expr {
    let (ours, sqlite) = match kind {
        Type::Int | Type::Few => ("1", "1"),
        Type::Text => ("'a'", "'a'"),
        Type::Bool => ("TRUE", "TRUE"),
        Type::Time => ("1760313600000000", "1760313600000000"),
        Type::Date => ("DATE '2025-10-13'", "'2025-10-13'"),
        Type::Json => ("'{}'", "'{}'"),
        Type::Real => ("CAST(1 AS DOUBLE)", "CAST(1 AS REAL)"),
        Type::Pattern => ("'%'", "'%'"),
        Type::Regex => ("'.'", "'.'"),
    };
    Expr::Literal { ours: ours.to_owned(), sqlite: sqlite.to_owned(), kind }
}

/// Every piece but what sorts.
fn visit(query: &mut Query, each: &mut dyn FnMut(Piece<'_>)) {
    each(Piece::Query(query));
    for (_, query) in &mut query.with {
        visit(query, each);
    }
    match &mut query.body {
        Body::Select(select) => visit_select(select, each),
        Body::Set { left, right, .. } => {
            visit(left, each);
            visit(right, each);
        }
        Body::Values(rows) => rows.iter_mut().flatten().for_each(|expr| visit_expr(expr, each)),
        Body::Recursive(_) => {}
    }
}

fn visit_select(select: &mut Select, each: &mut dyn FnMut(Piece<'_>)) {
    each(Piece::Select(select));
    for source in &mut select.from {
        if let Relation::Derived(query) = &mut source.relation {
            visit(query, each);
        }
        if let Some(on) = &mut source.on {
            visit_expr(on, each);
        }
    }
    select.filter.iter_mut().for_each(|expr| visit_expr(expr, each));
    select.items.iter_mut().for_each(|expr| visit_expr(expr, each));
    select.group.iter_mut().for_each(|expr| visit_expr(expr, each));
    select.having.iter_mut().for_each(|expr| visit_expr(expr, each));
}

fn visit_expr(expr: &mut Expr, each: &mut dyn FnMut(Piece<'_>)) {
    each(Piece::Expr(expr));
    match expr {
        Expr::Column { .. } | Expr::Literal { .. } | Expr::Moment { .. } | Expr::Grouping(_) => {}
        Expr::Form(_, args) => args.iter_mut().for_each(|arg| visit_expr(arg, each)),
        Expr::In { value, query, .. } | Expr::Quantified { value, query, .. } => {
            visit_expr(value, each);
            visit(query, each);
        }
        Expr::Exists { query, .. } | Expr::Scalar(query, _) => visit(query, each),
        Expr::Aggregate { args, filter, .. } => {
            for part in args.iter_mut().chain(filter.as_deref_mut()) {
                visit_expr(part, each);
            }
        }
        Expr::Window { args, filter, partition, .. } => {
            for part in args.iter_mut().chain(filter.as_deref_mut()).chain(partition) {
                visit_expr(part, each);
            }
        }
    }
}
