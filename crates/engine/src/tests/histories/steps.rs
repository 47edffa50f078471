//! Random histories: what may happen, and how often.
//!
//! Invariant: a step says what it is about by counting (`nth` of what there is when it comes), so that it still means
//! something when the steps before it are taken away to find the shortest history that fails.

use kalamdb_protocol::ConversationType;
use proptest::{collection::vec, prelude::*, sample::select};

use super::model::{Key, USERS, User};
use crate::tests::world::{LARGE, PREVIEW};

/// Ids of conversations. Groups and AI conversations have the same ones.
pub(super) const IDS: [&str; 2] = ["x", "y"];

/// How long a text is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text {
    Small,
    LargestSmall,
    SmallestLarge,
    Large,
}

/// What an UPDATE of a message sets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Edit {
    Content(Text),
    Metadata,
    Both(Text),
}

/// What somebody does, or what happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// To a group as oneself, to an AI conversation perhaps as the assistant.
    Send {
        user: User,
        to: Key,
        assistant: bool,
        text: Text,
    },
    Upload {
        user: User,
        to: Key,
        bytes: usize,
        thumbnail: bool,
    },
    /// Sends a file that the user can read; or, astray, any file that there ever was, to that conversation.
    SendFile {
        user: User,
        nth: usize,
        astray: Option<Key>,
        text: Text,
    },
    Edit {
        user: User,
        nth: usize,
        edit: Edit,
    },
    Delete {
        user: User,
        nth: usize,
    },
    /// The messages of both conversations of an id up to that one.
    DeleteUpTo {
        user: User,
        nth: usize,
    },
    DeleteConversation {
        user: User,
        key: Key,
    },
    Leave {
        user: User,
        group: &'static str,
    },
    Add {
        by: User,
        user: User,
        group: &'static str,
    },
    Remove {
        by: User,
        user: User,
        group: &'static str,
    },
    Restore {
        user: User,
        nth: usize,
    },
    RestoreAll {
        user: User,
        id: &'static str,
    },
    Purge {
        user: User,
        nth: usize,
    },
    PurgeAll {
        user: User,
        kind: ConversationType,
    },
    /// Every copy of a message.
    AdminDelete {
        nth: usize,
    },
    /// Every copy of what somebody sent.
    AdminDeleteFrom {
        from: User,
    },
    Consolidate {
        user: User,
    },
    Compact {
        user: User,
        all: bool,
    },
    Sweep,
    Wait {
        hours: i64,
    },
    Restart,
}

impl Text {
    /// The `n`-th text: unlike every other, with characters that the first kilobyte ends in the middle of.
    pub(super) fn write(self, n: u32) -> String {
        let bytes = match self {
            Self::Small => return format!("text {n}"),
            Self::LargestSmall => LARGE - 1,
            Self::SmallestLarge => LARGE,
            Self::Large => 3 * PREVIEW,
        };
        let mut text = format!("text {n} ");
        // Two bytes each, from an odd place on.
        if text.len() % 2 == 0 {
            text.push('.');
        }
        while text.len() + 2 <= bytes {
            text.push('é');
        }
        while text.len() < bytes {
            text.push('.');
        }
        text
    }
}

/// A history.
pub(super) fn history(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..=steps)
}

fn user() -> impl Strategy<Value = User> + Clone {
    select(&USERS[..])
}

fn id() -> impl Strategy<Value = &'static str> + Clone {
    select(&IDS[..])
}

fn kind() -> impl Strategy<Value = ConversationType> + Clone {
    // Groups are where copies, participants and files meet.
    prop_oneof![1 => Just(ConversationType::Ai), 2 => Just(ConversationType::Group)]
}

fn key() -> impl Strategy<Value = Key> + Clone {
    (id(), kind()).prop_map(|(id, kind)| Key { id, kind })
}

fn nth() -> impl Strategy<Value = usize> + Clone {
    0..1_000_usize
}

fn text() -> impl Strategy<Value = Text> + Clone {
    prop_oneof![
        4 => Just(Text::Small),
        1 => Just(Text::LargestSmall),
        1 => Just(Text::SmallestLarge),
        3 => Just(Text::Large),
    ]
}

fn edit() -> impl Strategy<Value = Edit> + Clone {
    prop_oneof![3 => text().prop_map(Edit::Content), 1 => Just(Edit::Metadata), 1 => text().prop_map(Edit::Both)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![10 => writing(), 9 => deleting(), 4 => membership(), 8 => housekeeping()]
}

fn writing() -> impl Strategy<Value = Step> {
    let send = (user(), key(), any::<bool>(), text());
    let upload = (user(), key(), 1..5_000_usize, any::<bool>());
    let file = (user(), nth(), prop_oneof![3 => Just(None), 1 => key().prop_map(Some)], text());
    prop_oneof![
        5 => send.prop_map(|(user, to, assistant, text)| Step::Send { user, to, assistant, text }),
        2 => upload.prop_map(|(user, to, bytes, thumbnail)| Step::Upload { user, to, bytes, thumbnail }),
        3 => file.prop_map(|(user, nth, astray, text)| Step::SendFile { user, nth, astray, text }),
        4 => (user(), nth(), edit()).prop_map(|(user, nth, edit)| Step::Edit { user, nth, edit }),
    ]
}

fn deleting() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (user(), nth()).prop_map(|(user, nth)| Step::Delete { user, nth }),
        1 => (user(), nth()).prop_map(|(user, nth)| Step::DeleteUpTo { user, nth }),
        2 => (user(), key()).prop_map(|(user, key)| Step::DeleteConversation { user, key }),
        3 => (user(), nth()).prop_map(|(user, nth)| Step::Restore { user, nth }),
        1 => (user(), id()).prop_map(|(user, id)| Step::RestoreAll { user, id }),
        2 => (user(), nth()).prop_map(|(user, nth)| Step::Purge { user, nth }),
        1 => (user(), kind()).prop_map(|(user, kind)| Step::PurgeAll { user, kind }),
        1 => nth().prop_map(|nth| Step::AdminDelete { nth }),
        1 => user().prop_map(|from| Step::AdminDeleteFrom { from }),
    ]
}

fn membership() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (user(), id()).prop_map(|(user, group)| Step::Leave { user, group }),
        3 => (user(), user(), id()).prop_map(|(by, user, group)| Step::Add { by, user, group }),
        1 => (user(), user(), id()).prop_map(|(by, user, group)| Step::Remove { by, user, group }),
    ]
}

fn housekeeping() -> impl Strategy<Value = Step> {
    // Whole hours: together with the moments that steps take, they never meet a retention exactly.
    let hours = select(vec![1_i64, 13, 73, 271]);
    prop_oneof![
        5 => user().prop_map(|user| Step::Consolidate { user }),
        3 => (user(), any::<bool>()).prop_map(|(user, all)| Step::Compact { user, all }),
        1 => Just(Step::Sweep),
        1 => hours.prop_map(|hours| Step::Wait { hours }),
        1 => Just(Step::Restart),
    ]
}
