//! The actions that the audit log records: a closed set of actions.
//!
//! Invariant: an action, once published, keeps its meaning; none of them carries content.

use serde::{Deserialize, Serialize};

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)+) => {
        /// The actions of the column `action` of `auditLog`: `message.delete`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum AuditAction { $($(#[$doc])* $variant),+ }

        impl AuditAction {
            /// Every action, in declaration order; new ones go at the end, because their numbers are stored.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The action as it stands in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

actions! {
    /// Messages left `messages`, by a DELETE of them; they can be restored while they are in `deletedMessages`.
    MessageDelete = "message.delete";
    /// Deleted messages came back.
    MessageRestore = "message.restore";
    /// Deleted messages are gone for good: by a DELETE, because soft deletion is off, or because their time was up.
    MessagePurge = "message.purge";
    /// A conversation was deleted, with the messages in it.
    ConversationDelete = "conversation.delete";
    /// A participant was added to a group.
    MemberAdd = "member.add";
    /// A participant left a group.
    MemberLeave = "member.leave";
    /// A participant was removed from a group by somebody else.
    MemberRemove = "member.remove";
    /// A participant's role changed.
    MemberRole = "member.role";
    /// An admin read somebody else's schema, or everybody's.
    AdminSelect = "admin.select";
    /// An admin wrote rows into it.
    AdminInsert = "admin.insert";
    /// An admin changed rows of it.
    AdminUpdate = "admin.update";
    /// An admin deleted rows of it.
    AdminDelete = "admin.delete";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_actions_share_a_name() {
        let names: std::collections::BTreeSet<_> = AuditAction::ALL.iter().map(|action| action.as_str()).collect();
        assert_eq!(names.len(), AuditAction::ALL.len());
    }
}
