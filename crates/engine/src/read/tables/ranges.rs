//! The hot messages that a condition can be true of, as ranges of their keys.
//!
//! Invariant: a range holds at least what the condition lets through, never less; the condition itself is checked
//! on every row besides.

use std::sync::Arc;

use datafusion::{
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr,
        expressions::{BinaryExpr, Column, DynamicFilterPhysicalExpr, InListExpr, IsNullExpr, Literal},
        utils::{Guarantee, LiteralGuarantee},
    },
    scalar::ScalarValue,
};
use kalamdb_protocol::{ConversationId, ConversationType, MsgId};
use kalamdb_store::ConversationKey;

/// With more keys than this, reading everything in order is no slower than looking each of them up.
const MAX_KEYS: usize = 1024;

/// The keys to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// The keys of these messages, ascending.
    Messages(Vec<MsgId>),
    /// The keys of these conversations.
    Conversations(Vec<ConversationKey>),
    /// All keys.
    All,
}

/// Message ids from the first to the second, both included; none when the first is larger.
pub(super) type MsgIds = (MsgId, MsgId);

const EVERY: MsgIds = (MsgId::MIN, MsgId::MAX);
const NONE: MsgIds = (MsgId::MAX, MsgId::MIN);

/// The keys that the condition can be true of.
pub(super) fn keys(condition: Option<&Arc<dyn PhysicalExpr>>) -> Keys {
    let guarantees = condition.map(LiteralGuarantee::analyze).unwrap_or_default();
    let one_of = |column: &str| {
        let wanted =
            |guarantee: &&LiteralGuarantee| guarantee.column.name() == column && guarantee.guarantee == Guarantee::In;
        guarantees.iter().find(wanted).map(|guarantee| &guarantee.literals)
    };
    if let Some(ids) = one_of("msgId").filter(|ids| ids.len() <= MAX_KEYS) {
        let mut ids: Vec<MsgId> = ids.iter().filter_map(number).collect();
        ids.sort_unstable();
        return Keys::Messages(ids);
    }
    let Some(ids) = one_of("conversationId").filter(|ids| ids.len() <= MAX_KEYS) else {
        return Keys::All;
    };
    let kinds: Vec<ConversationType> = match one_of("conversationType") {
        // A name that is no type names no message.
        Some(kinds) => kinds.iter().filter_map(text).filter_map(ConversationType::parse).collect(),
        None => ConversationType::ALL.to_vec(),
    };
    // A text that is no id names no conversation either.
    let ids = ids.iter().filter_map(text).filter_map(|id| ConversationId::new(id).ok());
    let mut keys: Vec<ConversationKey> =
        ids.flat_map(|id| kinds.iter().map(move |kind| ConversationKey { id: id.clone(), kind: *kind })).collect();
    keys.sort_unstable();
    Keys::Conversations(keys)
}

/// The message ids that the condition can be true of, as it stands now: a top-N operator narrows its own while
/// rows come in.
pub(super) fn msg_ids(condition: &Arc<dyn PhysicalExpr>) -> MsgIds {
    let condition = condition.as_ref();
    if let Some(dynamic) = condition.downcast_ref::<DynamicFilterPhysicalExpr>() {
        return dynamic.current().map_or(EVERY, |now| msg_ids(&now));
    }
    if let Some(binary) = condition.downcast_ref::<BinaryExpr>() {
        return compared(binary);
    }
    if let Some(list) = condition.downcast_ref::<InListExpr>() {
        let ids = list.list().iter().map(|item| item.downcast_ref::<Literal>().and_then(|id| number(id.value())));
        return match (is_msg_id(list.expr()) && !list.negated()).then(|| ids.collect::<Option<Vec<_>>>()).flatten() {
            Some(ids) => ids.into_iter().fold(NONE, |all, id| (all.0.min(id), all.1.max(id))),
            None => EVERY,
        };
    }
    // The key is never null; top-N asks anyway.
    if condition.downcast_ref::<IsNullExpr>().is_some_and(|null| is_msg_id(null.arg())) {
        return NONE;
    }
    match condition.downcast_ref::<Literal>().map(Literal::value) {
        Some(ScalarValue::Boolean(Some(false) | None)) => NONE,
        _ => EVERY,
    }
}

fn compared(binary: &BinaryExpr) -> MsgIds {
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And => {
            let (a, b) = (msg_ids(left), msg_ids(right));
            return (a.0.max(b.0), a.1.min(b.1));
        }
        Operator::Or => {
            let (a, b) = (msg_ids(left), msg_ids(right));
            return (a.0.min(b.0), a.1.max(b.1));
        }
        _ => {}
    }
    let (op, id) = if is_msg_id(left) {
        (Some(*binary.op()), right.downcast_ref::<Literal>())
    } else if is_msg_id(right) {
        (binary.op().swap(), left.downcast_ref::<Literal>())
    } else {
        return EVERY;
    };
    let (Some(op), Some(id)) = (op, id.and_then(|id| number(id.value()))) else { return EVERY };
    match op {
        Operator::Eq => (id, id),
        Operator::Lt => id.checked_sub(1).map_or(NONE, |last| (MsgId::MIN, last)),
        Operator::LtEq => (MsgId::MIN, id),
        Operator::Gt => id.checked_add(1).map_or(NONE, |first| (first, MsgId::MAX)),
        Operator::GtEq => (id, MsgId::MAX),
        _ => EVERY,
    }
}

fn is_msg_id(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Column>().is_some_and(|column| column.name() == "msgId")
}

fn number(value: &ScalarValue) -> Option<MsgId> {
    match value {
        ScalarValue::Int64(number) => *number,
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::datatypes::{DataType, Field, Schema},
        common::DFSchema,
        execution::context::SessionContext,
        logical_expr::{Expr, ident, lit},
    };

    use super::*;

    fn physical(expr: Expr) -> Arc<dyn PhysicalExpr> {
        let fields = vec![
            Field::new("msgId", DataType::Int64, false),
            Field::new("conversationId", DataType::Utf8View, false),
            Field::new("conversationType", DataType::Utf8View, false),
        ];
        let schema = DFSchema::try_from(Schema::new(fields)).unwrap();
        SessionContext::new().state().create_physical_expr(expr, &schema).unwrap()
    }

    /// A text as the optimizer leaves it beside a column of this type.
    fn text_lit(value: &str) -> Expr {
        lit(ScalarValue::Utf8View(Some(value.to_owned())))
    }

    fn key(id: &str, kind: ConversationType) -> ConversationKey {
        ConversationKey { id: ConversationId::new(id).unwrap(), kind }
    }

    #[test]
    fn a_pinned_conversation_is_one_range_of_each_type() {
        let condition = physical(ident("conversationId").eq(text_lit("c")).and(ident("msgId").gt(lit(7_i64))));
        assert_eq!(
            keys(Some(&condition)),
            Keys::Conversations(vec![key("c", ConversationType::Ai), key("c", ConversationType::Group)])
        );
        assert_eq!(msg_ids(&condition), (8, MsgId::MAX));

        let typed =
            physical(ident("conversationId").eq(text_lit("c")).and(ident("conversationType").eq(text_lit("group"))));
        assert_eq!(keys(Some(&typed)), Keys::Conversations(vec![key("c", ConversationType::Group)]));
        let nonsense =
            physical(ident("conversationId").eq(text_lit("c")).and(ident("conversationType").eq(text_lit("x"))));
        assert_eq!(keys(Some(&nonsense)), Keys::Conversations(vec![]));
    }

    #[test]
    fn message_ids_are_looked_up() {
        let some = physical(ident("msgId").in_list(vec![lit(5_i64), lit(3_i64)], false));
        assert_eq!(keys(Some(&some)), Keys::Messages(vec![3, 5]));
        assert_eq!(msg_ids(&some), (3, 5));
        assert_eq!(keys(None), Keys::All);
        assert_eq!(keys(Some(&physical(ident("msgId").not_eq(lit(5_i64))))), Keys::All);
    }

    #[test]
    fn ranges_are_never_narrower_than_the_condition() {
        let id = || ident("msgId");
        let cases = [
            (id().between(lit(3_i64), lit(9_i64)), (3, 9)),
            (lit(3_i64).lt(id()), (4, MsgId::MAX)),
            (id().lt(lit(3_i64)).or(id().eq(lit(9_i64))), (MsgId::MIN, 9)),
            (id().lt(lit(3_i64)).or(ident("conversationId").eq(text_lit("c"))), EVERY),
            (id().is_null().or(id().gt(lit(3_i64))), (4, MsgId::MAX)),
            (id().in_list(vec![lit(3_i64), lit(4_i64)], true), EVERY),
            (lit(false), NONE),
        ];
        for (condition, expected) in cases {
            let shown = condition.to_string();
            assert_eq!(msg_ids(&physical(condition)), expected, "{shown}");
        }
    }
}
