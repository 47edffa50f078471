//! The statements that the short way takes, and the page that each asks for.
//!
//! Invariant: every part of a statement is looked at, and one that is not known here leaves the statement to the planner:
//! nothing is overlooked. Names have the spelling that they are known by, as scoping leaves them.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, LimitClause, ObjectName, ObjectNamePart, OrderBy, OrderByKind, Query, Select,
    SelectFlavor, SelectItem, SetExpr, Statement, TableAlias, TableFactor, TableWithJoins, Value, ValueWithSpan,
};
use kalamdb_protocol::{Column, ConversationId, ConversationType, MsgId, TableId};

/// Rows of a page. With more, planning is a small part of the work.
const MAX_ROWS: usize = 1_000;

/// A page of messages: `SELECT content FROM messages WHERE conversationId = 'c' AND msgId < 7 ORDER BY msgId DESC LIMIT 50`,
/// or one message: `SELECT content FROM messages WHERE msgId = 7`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// The schema, as the statement names it after scoping.
    pub schema: String,
    /// The columns of the answer, as indexes of the table's, and what they are called there.
    pub columns: Vec<(usize, String)>,
    /// The selection of rows.
    pub wanted: Wanted,
}

/// A selection of the table's rows, and their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The conversation; `None` only where one message is asked for.
    pub conversation: Option<ConversationId>,
    /// The types that the conversation may have, in the order of the keys.
    pub kinds: Vec<ConversationType>,
    /// The lowest id, inclusive.
    pub first: MsgId,
    /// The highest id, inclusive.
    pub last: MsgId,
    /// Whether the highest id comes first.
    pub newest_first: bool,
    /// The number of rows.
    pub rows: usize,
}

impl Page {
    /// The page that a statement asks for; `None` when it asks for anything else.
    pub fn of(statement: &Statement) -> Option<Self> {
        let Statement::Query(query) = statement else { return None };
        let (select, order, limit) = plain_query(query)?;
        let (projection, from, selection) = plain_select(select)?;
        let (schema, table) = messages(from)?;
        let mut wanted = Wanted {
            conversation: None,
            kinds: ConversationType::ALL.to_vec(),
            first: MsgId::MIN,
            last: MsgId::MAX,
            newest_first: false,
            rows: 1,
        };
        wanted.restrict(selection?, table)?;
        let columns = columns(projection, table)?;
        let one = wanted.first == wanted.last;
        match (order, limit) {
            (None, None) if one => {}
            (order, limit) => {
                wanted.newest_first = match order {
                    Some(order) => descending(order, table, &columns)?,
                    None if one => false,
                    None => return None,
                };
                wanted.rows = match limit {
                    Some(limit) => rows(limit)?,
                    None if one => 1,
                    None => return None,
                };
            }
        }
        (one || wanted.conversation.is_some()).then(|| Self { schema: schema.to_owned(), columns, wanted })
    }
}

/// A query that is a SELECT with at most ORDER BY and LIMIT behind it.
fn plain_query(query: &Query) -> Option<(&Select, Option<&OrderBy>, Option<&LimitClause>)> {
    let Query {
        with: None,
        body,
        order_by,
        limit_clause,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = query
    else {
        return None;
    };
    let SetExpr::Select(select) = body.as_ref() else { return None };
    (locks.is_empty() && pipe_operators.is_empty()).then_some((select, order_by.as_ref(), limit_clause.as_ref()))
}

/// A SELECT of columns of one table with at most a WHERE.
fn plain_select(select: &Select) -> Option<(&[SelectItem], &TableFactor, Option<&Expr>)> {
    let Select {
        select_token: _,
        optimizer_hints,
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: _,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views,
        prewhere: None,
        selection,
        connect_by,
        group_by: GroupByExpr::Expressions(keys, modifiers),
        cluster_by,
        distribute_by,
        sort_by,
        having: None,
        named_window,
        qualify: None,
        window_before_qualify: _,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    } = select
    else {
        return None;
    };
    let [TableWithJoins { relation, joins }] = from.as_slice() else { return None };
    let plain = optimizer_hints.is_empty()
        && lateral_views.is_empty()
        && connect_by.is_empty()
        && keys.is_empty()
        && modifiers.is_empty()
        && cluster_by.is_empty()
        && distribute_by.is_empty()
        && sort_by.is_empty()
        && named_window.is_empty()
        && joins.is_empty();
    plain.then_some((projection, relation, selection.as_ref()))
}

/// The schema of `"schema"."messages"`, and the name that its columns may stand behind.
fn messages(from: &TableFactor) -> Option<(&str, &str)> {
    let TableFactor::Table {
        name: ObjectName(name),
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = from
    else {
        return None;
    };
    let [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(table)] = name.as_slice() else { return None };
    let plain = with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty();
    if !plain || table.value != TableId::Messages.table().name {
        return None;
    }
    let known_as = match alias {
        None => &table.value,
        Some(TableAlias { explicit: _, name, columns, at: None }) if columns.is_empty() => &name.value,
        Some(_) => return None,
    };
    Some((&schema.value, known_as))
}

/// The table's column that an expression is.
fn column(expr: &Expr, table: &str) -> Option<(usize, &'static Column)> {
    let name = match expr {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [of, name] if of.value == table => name,
            _ => return None,
        },
        _ => return None,
    };
    TableId::Messages.table().columns.iter().enumerate().find(|(_, column)| column.name == name.value)
}

/// The columns of the answer and their names.
fn columns(projection: &[SelectItem], table: &str) -> Option<Vec<(usize, String)>> {
    if let [SelectItem::Wildcard(options)] = projection {
        let all = TableId::Messages.table().columns.iter().enumerate();
        let plain = options.opt_ilike.is_none()
            && options.opt_exclude.is_none()
            && options.opt_except.is_none()
            && options.opt_replace.is_none()
            && options.opt_rename.is_none()
            && options.opt_alias.is_none();
        return plain.then(|| all.map(|(index, column)| (index, column.name.to_owned())).collect());
    }
    let columns = projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(expr) => column(expr, table).map(|(index, column)| (index, column.name.to_owned())),
        SelectItem::ExprWithAlias { expr, alias } if is_a_word(&alias.value) => {
            column(expr, table).map(|(index, _)| (index, alias.value.clone()))
        }
        _ => None,
    });
    columns.collect()
}

/// A name that is nothing else: columns that are told apart for the planner have others.
fn is_a_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether `ORDER BY msgId` is from the highest on; `None` where it is another order, or a name of the answer stands for
/// another column there.
fn descending(order: &OrderBy, table: &str, columns: &[(usize, String)]) -> Option<bool> {
    let OrderBy { kind: OrderByKind::Expressions(exprs), interpolate: None } = order else { return None };
    let [first] = exprs.as_slice() else { return None };
    let (by, key) = column(&first.expr, table).filter(|(_, column)| column.name == "msgId")?;
    let shadowed = columns.iter().any(|(index, name)| name.eq_ignore_ascii_case(key.name) && *index != by);
    if shadowed || first.with_fill.is_some() || first.options.nulls_first.is_some() {
        return None;
    }
    Some(first.options.asc == Some(false))
}

/// The number of a LIMIT.
fn rows(limit: &LimitClause) -> Option<usize> {
    let LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by } = limit else { return None };
    let rows = usize::try_from(number(limit)?).ok()?;
    (limit_by.is_empty() && (1..=MAX_ROWS).contains(&rows)).then_some(rows)
}

impl Wanted {
    /// Takes in a condition: comparisons of the key's columns with values, all of which hold.
    fn restrict(&mut self, condition: &Expr, table: &str) -> Option<()> {
        let (left, op, right) = match condition {
            Expr::Nested(inner) => return self.restrict(inner, table),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.restrict(left, table)?;
                return self.restrict(right, table);
            }
            Expr::BinaryOp { left, op, right } => (left, op, right),
            _ => return None,
        };
        match (column(left, table)?.1.name, op) {
            ("conversationId", BinaryOperator::Eq) => {
                let id = ConversationId::new(text(right)?).ok()?;
                match self.conversation.replace(id) {
                    Some(before) if self.conversation != Some(before.clone()) => None,
                    _ => Some(()),
                }
            }
            ("conversationType", BinaryOperator::Eq) => {
                let kind = ConversationType::parse(text(right)?)?;
                self.kinds.retain(|wanted| *wanted == kind);
                Some(())
            }
            ("msgId", op) => self.restrict_id(op, number(right)?),
            _ => None,
        }
    }

    fn restrict_id(&mut self, op: &BinaryOperator, id: MsgId) -> Option<()> {
        let (first, last) = match op {
            BinaryOperator::Eq => (id, id),
            BinaryOperator::Lt => (MsgId::MIN, id.checked_sub(1)?),
            BinaryOperator::LtEq => (MsgId::MIN, id),
            BinaryOperator::Gt => (id.checked_add(1)?, MsgId::MAX),
            BinaryOperator::GtEq => (id, MsgId::MAX),
            _ => return None,
        };
        (self.first, self.last) = (self.first.max(first), self.last.min(last));
        Some(())
    }
}

/// The value of a whole number that is not negative.
fn number(expr: &Expr) -> Option<MsgId> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, false), .. }) => digits.parse().ok(),
        _ => None,
    }
}

/// The value of a text.
fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};

    use super::*;

    fn page(rest: &str) -> Option<Page> {
        let sql = format!("SELECT {rest}").replace("FROM messages", r#"FROM "ann"."messages" AS "messages""#);
        let sql = sql.replace("msgId", r#""msgId""#).replace("conversationId", r#""conversationId""#);
        let sql = sql.replace("conversationType", r#""conversationType""#);
        Page::of(&Parser::parse_sql(&GenericDialect {}, &sql).unwrap_or_else(|error| panic!("{sql}: {error}"))[0])
    }

    fn wanted(conversation: Option<&str>, ids: (MsgId, MsgId), newest_first: bool, rows: usize) -> Wanted {
        Wanted {
            conversation: conversation.map(|id| ConversationId::new(id).unwrap()),
            kinds: ConversationType::ALL.to_vec(),
            first: ids.0,
            last: ids.1,
            newest_first,
            rows,
        }
    }

    #[test]
    fn pages_and_keys_are_taken() {
        let all = (MsgId::MIN, MsgId::MAX);
        for (sql, expected) in [
            (
                "content FROM messages WHERE conversationId = 'c' ORDER BY msgId LIMIT 50",
                wanted(Some("c"), all, false, 50),
            ),
            (
                "content AS c FROM messages WHERE (messages.conversationId = 'c') AND msgId < 9 AND msgId >= 3 \
                 ORDER BY messages.msgId DESC LIMIT 1",
                wanted(Some("c"), (3, 8), true, 1),
            ),
            ("* FROM messages WHERE msgId = 7", wanted(None, (7, 7), false, 1)),
            (
                "content FROM messages WHERE msgId = 7 AND conversationId = 'c' LIMIT 5",
                wanted(Some("c"), (7, 7), false, 5),
            ),
        ] {
            let page = page(sql).unwrap_or_else(|| panic!("not taken: {sql}"));
            assert_eq!((page.schema.as_str(), page.wanted), ("ann", expected), "{sql}");
        }
        let page = page("content, msgId AS id FROM messages WHERE msgId = 7").unwrap();
        assert_eq!(page.columns, [(5, "content".to_owned()), (0, "id".to_owned())]);
    }

    #[test]
    fn anything_else_is_the_planner_s() {
        for sql in [
            "content FROM messages",
            "content FROM messages LIMIT 5",
            "content FROM messages WHERE conversationId = 'c' LIMIT 5",
            "content FROM messages WHERE conversationId = 'c' ORDER BY msgId",
            "content FROM messages WHERE conversationId = 'c' ORDER BY msgId LIMIT 0",
            "content FROM messages WHERE conversationId = 'c' ORDER BY msgId LIMIT 1001",
            "content FROM messages WHERE conversationId = 'c' ORDER BY msgId LIMIT 5 OFFSET 1",
            "content FROM messages WHERE conversationId = 'c' ORDER BY msgId NULLS FIRST LIMIT 5",
            "content FROM messages WHERE conversationId = 'c' ORDER BY msgId, content LIMIT 5",
            "content FROM messages WHERE conversationId = 'c' ORDER BY timestamp LIMIT 5",
            "content AS msgId FROM messages WHERE conversationId = 'c' ORDER BY msgId LIMIT 5",
            "content FROM messages WHERE conversationId = 'c' OR msgId = 7",
            "content FROM messages WHERE conversationId = 'c' AND conversationId = 'd' ORDER BY msgId LIMIT 5",
            "content FROM messages WHERE conversationId = 7 ORDER BY msgId LIMIT 5",
            "content FROM messages WHERE conversationId = NULL ORDER BY msgId LIMIT 5",
            "content FROM messages WHERE msgId = '7'",
            "content FROM messages WHERE msgId = 7.0",
            "content FROM messages WHERE msgId = 99999999999999999999",
            "content FROM messages WHERE msgId = 7 AND content = 'x'",
            "content FROM messages WHERE msgId = 7 FETCH FIRST 1 ROW ONLY",
            "DISTINCT content FROM messages WHERE msgId = 7",
            "upper(content) FROM messages WHERE msgId = 7",
            "content, * FROM messages WHERE msgId = 7",
            "* EXCLUDE (content) FROM messages WHERE msgId = 7",
            "count(*) FROM messages WHERE msgId = 7",
            "content FROM messages WHERE msgId = 7 GROUP BY content",
            "content FROM messages, messages WHERE msgId = 7",
            "content FROM \"ann\".\"conversations\" WHERE msgId = 7",
            "nothing FROM messages WHERE msgId = 7",
            "1 UNION SELECT content FROM messages WHERE msgId = 7",
        ] {
            assert_eq!(page(sql), None, "{sql}");
        }
    }
}
