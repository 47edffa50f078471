//! The identifiers of the system, each valid by construction.
//!
//! Invariant: a value of these types has been checked; nobody downstream checks it again.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A message's key within its owner's messages: positive, and below 2^53 so that JavaScript reads it exactly.
pub type MsgId = i64;

/// The longest user or conversation id, in characters.
pub const MAX_ID_CHARS: usize = 128;

/// User ids that name something else where a user's schema could stand.
pub const RESERVED_USER_IDS: [&str; 5] = ["shared", "system", "information_schema", "userId", "*"];

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, or longer than [`MAX_ID_CHARS`].
    #[error("an id must be 1 to {MAX_ID_CHARS} characters long")]
    Length,
    /// Holds a control or invisible formatting character.
    #[error("an id may hold printable characters only")]
    Unprintable,
    /// The id is one of [`RESERVED_USER_IDS`].
    #[error("the user id is reserved; choose another")]
    Reserved,
}

/// Control characters, line separators and the invisible characters that make two ids look alike.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{00AD}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2064}' | '\u{FEFF}')
}

fn check(text: &str) -> Result<(), IdError> {
    // Bytes first: counting the characters of a megabyte to refuse it would be work for nothing.
    if text.is_empty() || text.len() > MAX_ID_CHARS * 4 || text.chars().count() > MAX_ID_CHARS {
        return Err(IdError::Length);
    }
    if text.chars().all(is_printable) { Ok(()) } else { Err(IdError::Unprintable) }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, min_length = 1, max_length = 128)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id, if `text` is one.
            ///
            /// # Errors
            /// [`IdError`] says what is wrong with it.
            pub fn new(text: &str) -> Result<Self, IdError> {
                #[allow(clippy::redundant_closure_call)]
                ($check)(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

id_type!(
    /// The id of a user, as the token says it: compared exactly, case included.
    UserId,
    |text: &str| match check(text) {
        Ok(()) if RESERVED_USER_IDS.contains(&text) => Err(IdError::Reserved),
        other => other,
    }
);

id_type!(
    /// The id of a conversation: global for a group, its owner's own for an AI conversation.
    ConversationId,
    check
);

// `tt` and not `literal`: a literal would be wrapped, and the document of the API would not see the name in it.
macro_rules! name_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used in SQL and JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value of that name, exactly spelt.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

name_enum!(
    /// The kind of a conversation; part of its key.
    ConversationType {
        /// A conversation of one user and an assistant; the user owns both sides.
        Ai = "ai",
        /// Several users; each message is copied to every participant.
        Group = "group",
    }
);

name_enum!(
    /// The roles of participants, by which it is decided what they may do in the group.
    Role {
        /// Created the group or inherited it; changes roles.
        Owner = "owner",
        /// Adds and removes members.
        Admin = "admin",
        /// Reads and writes messages.
        Member = "member",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_once_and_for_all() {
        for good in ["user_john", "auth0|123", "a+b@x.org", "名前", "Zoë 🙂", &"x".repeat(128)] {
            assert_eq!(UserId::new(good).map(|id| id.as_str().to_owned()), Ok(good.to_owned()));
        }
        assert_eq!(UserId::new(""), Err(IdError::Length));
        assert_eq!(UserId::new(&"x".repeat(129)), Err(IdError::Length));
        for bad in ["a\0b", "a\nb", "a\u{200b}b", "\u{202e}x"] {
            assert_eq!(ConversationId::new(bad), Err(IdError::Unprintable), "{bad:?}");
        }
        for reserved in RESERVED_USER_IDS {
            assert_eq!(UserId::new(reserved), Err(IdError::Reserved));
            assert!(ConversationId::new(reserved).is_ok());
        }
    }
}
