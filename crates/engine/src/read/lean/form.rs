//! The questions that are read the short way.
//!
//! Invariant: a question says all that its statement says; a statement that says anything more is not one.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Statement};
use kalamdb_protocol::{ConversationId, ConversationType, MsgId, TableId};

use super::clauses::{Named, Plain, count_of_rows, number, text};
use crate::sql::Values;

/// Rows of a page. With more, planning is a small part of the work.
const MAX_ROWS: usize = 1_000;

/// A statement that needs no planner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The schema, as the statement names it after scoping.
    pub schema: String,
    /// The rows that are asked for.
    pub asked: Asked,
}

/// The rows that a question asks for. Columns of an answer are indexes of the table's, and what they are called there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// `SELECT content FROM messages WHERE conversationId = 'c' AND msgId < 7 ORDER BY msgId DESC LIMIT 50`, the same over
    /// all conversations, or one message: `SELECT content FROM messages WHERE msgId = 7`.
    Page { columns: Vec<(usize, String)>, wanted: Wanted },
    /// `SELECT COUNT(*) AS name FROM messages WHERE conversationId = 'c'`, or of all messages.
    Count { name: String, conversation: Option<ConversationId>, kinds: Vec<ConversationType> },
    /// `SELECT conversationId FROM conversations ORDER BY lastMsgId DESC LIMIT 20`
    Listing { table: TableId, columns: Vec<(usize, String)>, listed: Listed },
}

/// A selection of the rows of `messages`, and their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The conversation; `None`: all.
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

/// A selection of the rows of `conversations` or `conversationUsers`, and their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// The conversation; `None`: all.
    pub conversation: Option<ConversationId>,
    /// The types that a conversation may have, in the order of the keys.
    pub kinds: Vec<ConversationType>,
    /// The columns that the rows are ordered by, each with whether the highest comes first and whether NULL does.
    pub order: Vec<(usize, bool, bool)>,
    /// The number of rows.
    pub rows: Option<usize>,
}

impl Question {
    /// The question that a statement is; `None` when it needs the planner.
    pub fn of(statement: &Statement, values: Values) -> Option<Self> {
        let plain = Plain::of(statement)?;
        let asked = match plain.table.table.id {
            TableId::Messages => page(&plain, values).or_else(|| count(&plain, values)),
            TableId::Conversations | TableId::ConversationUsers => listing(&plain, values),
            _ => None,
        };
        asked.map(|asked| Self { schema: plain.schema.to_owned(), asked })
    }
}

/// The key that the condition of an UPDATE or DELETE names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// `WHERE conversationId = 'c' AND conversationType = 'ai'`: the conversation, and the types that it may have.
    Conversation(ConversationId, Vec<ConversationType>),
    /// `WHERE msgId = 7 AND conversationId = 'c'`
    Message(Wanted),
}

impl Key {
    /// The key; `None` when the condition says anything more, or other rows.
    pub fn of(plain: &Plain) -> Option<Self> {
        match plain.table.table.id {
            TableId::Messages => {
                let mut wanted = Wanted::everything();
                wanted.restrict(plain.condition?, plain.table, Values::None)?;
                (wanted.first == wanted.last).then_some(Self::Message(wanted))
            }
            TableId::Conversations => {
                let (conversation, kinds) = of_conversation(plain, Values::None)?;
                Some(Self::Conversation(conversation?, kinds))
            }
            _ => None,
        }
    }
}

fn page(plain: &Plain, values: Values) -> Option<Asked> {
    let mut wanted = Wanted::everything();
    if let Some(condition) = plain.condition {
        wanted.restrict(condition, plain.table, values)?;
    }
    let columns = plain.table.columns(plain.projection)?;
    let one = wanted.first == wanted.last;
    wanted.newest_first = match plain.order {
        [] if one => false,
        [by] => match plain.table.order(by, &columns)? {
            (by, descending, _) if plain.table.table.columns[by].name == "msgId" => descending,
            _ => return None,
        },
        _ => return None,
    };
    match plain.limit {
        Some(limit) => wanted.rows = rows(limit, values).filter(|rows| *rows <= MAX_ROWS)?,
        None if one => {}
        None => return None,
    }
    Some(Asked::Page { columns, wanted })
}

fn count(plain: &Plain, values: Values) -> Option<Asked> {
    let name = count_of_rows(plain.projection)?;
    if !plain.order.is_empty() || plain.limit.is_some() {
        return None;
    }
    let (conversation, kinds) = of_conversation(plain, values)?;
    let is_known = conversation.is_some() || kinds == ConversationType::ALL;
    is_known.then_some(Asked::Count { name, conversation, kinds })
}

fn listing(plain: &Plain, values: Values) -> Option<Asked> {
    let columns = plain.table.columns(plain.projection)?;
    let order = plain.order.iter().map(|by| plain.table.order(by, &columns)).collect::<Option<_>>()?;
    let rows = match plain.limit {
        Some(limit) => Some(rows(limit, values)?),
        None => None,
    };
    let (conversation, kinds) = of_conversation(plain, values)?;
    let table = plain.table.table.id;
    Some(Asked::Listing { table, columns, listed: Listed { conversation, kinds, order, rows } })
}

/// The conversation that a condition names, if there is one, and the types that it leaves.
fn of_conversation(plain: &Plain, values: Values) -> Option<(Option<ConversationId>, Vec<ConversationType>)> {
    let (mut conversation, mut kinds) = (None, ConversationType::ALL.to_vec());
    if let Some(condition) = plain.condition {
        restrict(condition, &mut |left, op, right| match (plain.table.column(left)?.1.name, op) {
            ("conversationId", BinaryOperator::Eq) => same(&mut conversation, text(right, values)?),
            ("conversationType", BinaryOperator::Eq) => of_kind(&mut kinds, text(right, values)?),
            _ => None,
        })?;
    }
    Some((conversation, kinds))
}

/// Takes in a condition: comparisons, all of which hold.
fn restrict(condition: &Expr, comparison: &mut impl FnMut(&Expr, &BinaryOperator, &Expr) -> Option<()>) -> Option<()> {
    match condition {
        Expr::Nested(inner) => restrict(inner, comparison),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            restrict(left, comparison)?;
            restrict(right, comparison)
        }
        Expr::BinaryOp { left, op, right } => comparison(left, op, right),
        _ => None,
    }
}

/// The conversation is this one; `None` where it is another already.
fn same(conversation: &mut Option<ConversationId>, id: &str) -> Option<()> {
    let id = ConversationId::new(id).ok()?;
    (*conversation.get_or_insert_with(|| id.clone()) == id).then_some(())
}

fn of_kind(kinds: &mut Vec<ConversationType>, kind: &str) -> Option<()> {
    let kind = ConversationType::parse(kind)?;
    kinds.retain(|wanted| *wanted == kind);
    Some(())
}

/// The number of a LIMIT.
fn rows(limit: &Expr, values: Values) -> Option<usize> {
    usize::try_from(number(limit, values)?).ok().filter(|rows| *rows > 0)
}

impl Wanted {
    /// One row of any.
    fn everything() -> Self {
        let (kinds, first, last) = (ConversationType::ALL.to_vec(), MsgId::MIN, MsgId::MAX);
        Self { conversation: None, kinds, first, last, newest_first: false, rows: 1 }
    }

    /// Takes in a condition: comparisons of the key's columns with values, all of which hold.
    fn restrict(&mut self, condition: &Expr, table: Named, values: Values) -> Option<()> {
        restrict(condition, &mut |left, op, right| match (table.column(left)?.1.name, op) {
            ("conversationId", BinaryOperator::Eq) => same(&mut self.conversation, text(right, values)?),
            ("conversationType", BinaryOperator::Eq) => of_kind(&mut self.kinds, text(right, values)?),
            ("msgId", op) => self.restrict_id(op, number(right, values)?),
            _ => None,
        })
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

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser};

    use super::*;

    fn asked(rest: &str) -> Option<Asked> {
        let mut sql = format!("SELECT {rest}");
        for table in ["messages", "conversations", "conversationUsers"] {
            sql = sql.replace(&format!("FROM {table}"), &format!(r#"FROM "ann"."{table}" AS "{table}""#));
        }
        let statement = Parser::parse_sql(&GenericDialect {}, &sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let question = Question::of(&statement[0], Values::None)?;
        assert_eq!(question.schema, "ann");
        Some(question.asked)
    }

    fn page(rest: &str) -> (Vec<(usize, String)>, Wanted) {
        match asked(rest) {
            Some(Asked::Page { columns, wanted }) => (columns, wanted),
            other => panic!("{rest}: {other:?}"),
        }
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
            ("content FROM messages ORDER BY msgId DESC LIMIT 20", wanted(None, all, true, 20)),
            ("content FROM messages WHERE msgId > 7 ORDER BY msgId LIMIT 20", wanted(None, (8, all.1), false, 20)),
            (
                "content FROM messages WHERE msgId = 7 AND conversationId = 'c' LIMIT 5",
                wanted(Some("c"), (7, 7), false, 5),
            ),
        ] {
            assert_eq!(page(sql).1, expected, "{sql}");
        }
        let (columns, _) = page("content, msgId AS id FROM messages WHERE msgId = 7");
        assert_eq!(columns, [(5, "content".to_owned()), (0, "id".to_owned())]);
    }

    #[test]
    fn counts_and_lists_are_taken() {
        let conversation = ConversationId::new("c").unwrap();
        let kinds = ConversationType::ALL.to_vec();
        let count = |conversation| Asked::Count { name: "n".to_owned(), conversation, kinds: kinds.clone() };
        let of = "count(*) AS n FROM messages";
        assert_eq!(asked(&format!("{of} WHERE conversationId = 'c'")), Some(count(Some(conversation.clone()))));
        assert_eq!(asked(of), Some(count(None)));
        let listed = Listed { conversation: None, kinds, order: vec![(4, true, true)], rows: Some(20) };
        let (table, columns) = (TableId::Conversations, vec![(0, "conversationId".to_owned())]);
        let listing = Asked::Listing { table, columns, listed };
        assert_eq!(asked("conversationId FROM conversations ORDER BY lastMsgId DESC LIMIT 20"), Some(listing));
        let rest = "role FROM conversationUsers WHERE conversationId = 'c' ORDER BY created, userId DESC NULLS LAST";
        let kinds = ConversationType::ALL.to_vec();
        let order = vec![(3, false, false), (0, true, false)];
        let listed = Listed { conversation: Some(conversation), kinds, order, rows: None };
        let (table, columns) = (TableId::ConversationUsers, vec![(2, "role".to_owned())]);
        assert_eq!(asked(rest), Some(Asked::Listing { table, columns, listed }));
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
            "count(*) FROM messages WHERE conversationType = 'ai'",
            "count(content) FROM messages WHERE conversationId = 'c'",
            "count(DISTINCT content) FROM messages WHERE conversationId = 'c'",
            "count(*) FILTER (WHERE msgId > 7) FROM messages WHERE conversationId = 'c'",
            "count(*) OVER () FROM messages WHERE conversationId = 'c'",
            "count(*), 1 FROM messages WHERE conversationId = 'c'",
            "count(*) FROM messages WHERE conversationId = 'c' LIMIT 1",
            "count(*) FROM conversations WHERE conversationId = 'c'",
            "created FROM conversations WHERE created > 7",
            "created AS lastMsgId FROM conversations ORDER BY lastMsgId",
            "created FROM conversations ORDER BY 1",
            "role FROM conversationUsers WHERE conversationType = 'group'",
            "role FROM conversationUsers WHERE conversationId = 'c' OR role = 'owner'",
            "role FROM conversationUsers LIMIT 5 OFFSET 5",
            "action FROM auditLog",
            "content FROM messages WHERE msgId = 7 GROUP BY content",
            "content FROM messages, messages WHERE msgId = 7",
            "content FROM \"ann\".\"conversations\" WHERE msgId = 7",
            "nothing FROM messages WHERE msgId = 7",
            "1 UNION SELECT content FROM messages WHERE msgId = 7",
        ] {
            assert_eq!(asked(sql), None, "{sql}");
        }
    }
}
