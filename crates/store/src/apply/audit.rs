//! The audit log: who did what to which rows, how many, and when.
//!
//! Invariant: an entry is written by the commit that it speaks of, and holds names and numbers only, never content.

use std::collections::BTreeMap;

use kalamdb_protocol::{AuditAction, ConversationId, UserId};
use serde_json::{Map, Value};

use super::Apply;
use crate::{
    error::{Error, Result},
    keys::{self, Family},
    model::ConversationKey,
    records::{AuditRecord, Record},
};

/// The actor of what happens by itself; no user has this id.
pub(super) const SYSTEM: &str = "system";

/// Audit entries of a commit, each action once: the owner whose log it goes to, the action and its target, and the
/// details that are counted up for it.
pub(super) type Notes = BTreeMap<(UserId, AuditAction, String), Map<String, Value>>;

/// The target of an action on messages: `messages of group/g`.
pub(super) fn messages_of(key: &ConversationKey) -> String {
    format!("messages of {}", conversation(key))
}

/// The target of an action on a conversation: `ai/c1`.
pub(super) fn conversation(key: &ConversationKey) -> String {
    format!("{}/{}", key.kind.as_str(), key.id)
}

/// The target of an action on a participant: `conversationUsers of group/g: bob`.
pub(super) fn participant(group: &ConversationId, user: &UserId) -> String {
    format!("conversationUsers of group/{group}: {user}")
}

impl Apply<'_, '_> {
    /// The details of an action's entry, which is begun unless there is one.
    pub(super) fn note(&mut self, log: &UserId, action: AuditAction, target: String) -> &mut Map<String, Value> {
        self.notes.entry((log.clone(), action, target)).or_default()
    }

    /// Adds to the number of messages of an action's entry: `{"messages":3}`.
    pub(super) fn note_messages(&mut self, log: &UserId, action: AuditAction, target: String, messages: u64) {
        let count = self.note(log, action, target).entry("messages").or_insert_with(|| Value::from(0));
        *count = Value::from(count.as_u64().unwrap_or(0) + messages);
    }

    /// Writes what was noted.
    pub(super) fn write_notes(&mut self) -> Result<()> {
        for ((log, action, target), details) in std::mem::take(&mut self.notes) {
            // Messages, uploads and entries share one line of numbers, so that an entry's id rises with time too.
            let audit_id = self.counters.next_msg_id(self.now)?;
            self.counters.last_msg_id = audit_id;
            let record = AuditRecord {
                timestamp: self.now,
                actor: self.actor.clone(),
                action,
                target,
                details: serde_json::to_string(&details).map_err(|_| Error::corrupt("audit entry"))?,
            };
            self.put(Family::Audit, keys::audit(&log, audit_id), record.encode()?);
            self.touch(&log)?;
        }
        Ok(())
    }

    /// Removes entries of one owner's below an id: their time is up.
    pub(crate) fn trim_audit(&mut self, owner: &UserId, ids: &[i64]) -> Result<()> {
        for id in ids {
            self.overlay.delete(Family::Audit, keys::audit(owner, *id));
        }
        self.touch(owner)
    }
}
