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

/// What a commit's entries will say: in whose log, what, to what; and details.
pub(super) type Notes = BTreeMap<(UserId, AuditAction, String), Map<String, Value>>;

/// What is said of messages: of which conversation.
pub(super) fn messages_of(key: &ConversationKey) -> String {
    format!("messages of {}", conversation(key))
}

/// What is said of a conversation.
pub(super) fn conversation(key: &ConversationKey) -> String {
    format!("{}/{}", key.kind.as_str(), key.id)
}

/// What is said of a participant.
pub(super) fn participant(group: &ConversationId, user: &UserId) -> String {
    format!("conversationUsers of group/{group}: {user}")
}

impl Apply<'_, '_> {
    /// Notes something once, whatever it is noted for.
    pub(super) fn note(&mut self, log: &UserId, action: AuditAction, target: String) -> &mut Map<String, Value> {
        self.notes.entry((log.clone(), action, target)).or_default()
    }

    /// Notes that something was done to so many more messages.
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
