//! The changes that commits make, for subscribers: each row before and after, in commit order.
//!
//! Invariant: only commits that are written are told of, in their order, and none is left out silently: where the
//! listener does not keep up it is told so, and the sequencer never waits for it. One owner's rows take half of the room
//! at most; what is beyond that is missed by them alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use kalamdb_protocol::{ConversationId, MsgId, UserId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc};

use crate::model::{Conversation, ConversationKey, Message, Participant, Seq};

/// Commits that may wait for the listener.
const QUEUE: usize = 4_096;
/// Bytes of rows that may wait with them.
const QUEUE_BYTES: usize = 64 << 20;

/// A commit, as far as it changed rows of watched owners.
#[derive(Debug)]
pub struct Commit {
    /// The commit's number.
    pub seq: Seq,
    /// The changes of watched owners' rows, in order.
    pub events: Vec<Event>,
    /// Bytes of rows in it, roughly.
    bytes: usize,
}

/// A change of one owner's row.
#[derive(Debug, Clone)]
pub struct Event {
    /// The owner of the row.
    pub owner: UserId,
    /// The change's number within the commit; together with the commit's number it is the position that clients resume
    /// from.
    pub n: u32,
    /// The row before and after.
    pub change: RowChange,
}

/// A row before and after a commit.
#[derive(Debug, Clone)]
pub enum RowChange {
    /// A message came, was edited, went, or came back.
    Message {
        /// The message's id.
        msg_id: MsgId,
        /// The message's conversation.
        conversation: ConversationKey,
        /// The message before the commit.
        before: RowState<Message>,
        /// The message after it.
        after: RowState<Message>,
    },
    /// All of the owner's messages of a conversation are gone.
    MessagesGone {
        /// The conversation's key.
        conversation: ConversationKey,
    },
    /// The owner's view of a conversation; `None` where there is none.
    Conversation {
        /// The view before the commit.
        before: Option<Arc<Conversation>>,
        /// The view after it.
        after: Option<Arc<Conversation>>,
    },
    /// The participants of a group that the owner sees: none where the owner takes no part.
    Participants {
        /// The group's id.
        group: ConversationId,
        /// The participants before the commit.
        before: Arc<[Participant]>,
        /// The participants after it.
        after: Arc<[Participant]>,
    },
}

/// A row at some moment.
#[derive(Debug, Clone)]
pub enum RowState<T> {
    /// There was none.
    Absent,
    /// The row with its values.
    There(Arc<T>),
    /// The row lies in a segment, which a commit does not read.
    Cold,
}

/// An item that comes out of a feed.
#[derive(Debug)]
pub enum FeedItem {
    /// A commit that changed watched rows.
    Commit(Arc<Commit>),
    /// Commits were left out, because the listener did not keep up: whoever watches must start again from what they
    /// saw last.
    Missed,
    /// Commits were left out of these owners' rows only: whoever watches one of them must start again.
    MissedOf(BTreeSet<UserId>),
}

/// The commits from some moment on.
pub struct Feed {
    commits: mpsc::Receiver<Arc<Commit>>,
    behind: Arc<Behind>,
}

/// The listener's backlog, shared by both ends of the feed.
#[derive(Debug, Default)]
struct Behind {
    queued_bytes: AtomicUsize,
    /// Commits are being left out, until the listener has been told so.
    missing: AtomicBool,
    missed: Notify,
    owners: Mutex<Owners>,
}

/// The backlog by owner, so that one owner's rows cannot take all of the room.
#[derive(Debug, Default)]
struct Owners {
    queued: HashMap<UserId, Queued>,
    /// Owners whose rows are being left out, until the listener has been told so.
    missing: BTreeSet<UserId>,
}

#[derive(Debug, Default)]
struct Queued {
    commits: usize,
    bytes: usize,
}

impl Owners {
    /// Takes a commit in, without the rows of those who have too much waiting already; whether somebody's were left out.
    fn enter(&mut self, commit: &mut Commit) -> bool {
        let before = self.missing.len();
        for owner in commit.owners() {
            let queued = self.queued.get(owner);
            if queued.is_some_and(|queued| queued.commits >= QUEUE / 2 || queued.bytes > QUEUE_BYTES / 2) {
                self.missing.insert(owner.clone());
            }
        }
        if !self.missing.is_empty() {
            commit.events.retain(|event| !self.missing.contains(&event.owner));
        }
        for owner in commit.owners() {
            let Queued { commits, bytes } = match self.queued.get_mut(owner) {
                Some(queued) => queued,
                None => self.queued.entry(owner.clone()).or_default(),
            };
            *commits += 1;
            *bytes += commit.bytes;
        }
        self.missing.len() > before
    }

    /// Takes a commit out of the backlog.
    fn leave(&mut self, commit: &Commit) {
        for owner in commit.owners() {
            if let Some(queued) = self.queued.get_mut(owner) {
                queued.commits -= 1;
                queued.bytes -= commit.bytes;
                if queued.commits == 0 {
                    self.queued.remove(owner);
                }
            }
        }
    }
}

impl Commit {
    /// The owners of the rows in it.
    fn owners(&self) -> BTreeSet<&UserId> {
        self.events.iter().map(|event| &event.owner).collect()
    }
}

impl Feed {
    /// The next; `None` when the store has closed. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<FeedItem> {
        loop {
            tokio::select! {
                biased;
                // Commits from before a gap are told before the gap.
                commit = self.commits.recv() => {
                    let commit = commit?;
                    self.behind.queued_bytes.fetch_sub(commit.bytes, Ordering::Relaxed);
                    self.behind.owners.lock().leave(&commit);
                    return Some(FeedItem::Commit(commit));
                }
                () = self.behind.missed.notified() => {
                    let missed = std::mem::take(&mut self.behind.owners.lock().missing);
                    if self.behind.missing.swap(false, Ordering::SeqCst) {
                        return Some(FeedItem::Missed);
                    }
                    if !missed.is_empty() {
                        return Some(FeedItem::MissedOf(missed));
                    }
                }
            }
        }
    }
}

/// The owners who are watched; of others nothing is gathered.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    owners: RwLock<HashMap<UserId, usize>>,
    everybody: AtomicUsize,
}

impl Watched {
    /// Adds a watcher of an owner's rows, or with `None` of everybody's.
    pub(crate) fn add(&self, owner: Option<&UserId>) {
        match owner {
            Some(owner) => *self.owners.write().entry(owner.clone()).or_default() += 1,
            None => drop(self.everybody.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Takes such a watcher away.
    pub(crate) fn remove(&self, owner: Option<&UserId>) {
        let Some(owner) = owner else {
            self.everybody.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let mut owners = self.owners.write();
        if let Some(count) = owners.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                owners.remove(owner);
            }
        }
    }

    /// Whether nobody is watched.
    pub(crate) fn is_empty(&self) -> bool {
        self.everybody.load(Ordering::Relaxed) == 0 && self.owners.read().is_empty()
    }

    pub(crate) fn contains(&self, owner: &UserId) -> bool {
        self.everybody.load(Ordering::Relaxed) > 0 || self.owners.read().contains_key(owner)
    }
}

/// Keeps an owner, or everybody, watched.
pub struct Watching {
    watched: Arc<Watched>,
    owner: Option<UserId>,
}

impl Watching {
    pub(crate) fn new(watched: Arc<Watched>, owner: Option<UserId>) -> Self {
        watched.add(owner.as_ref());
        Self { watched, owner }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.watched.remove(self.owner.as_ref());
    }
}

/// The sequencer's end of a feed.
pub(crate) struct FeedSender {
    commits: mpsc::Sender<Arc<Commit>>,
    behind: Arc<Behind>,
}

/// A feed and where to tell it.
pub(crate) fn channel() -> (FeedSender, Feed) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let behind = Arc::new(Behind::default());
    (FeedSender { commits: sender, behind: Arc::clone(&behind) }, Feed { commits: receiver, behind })
}

impl FeedSender {
    /// Tells of a commit that is written. Never waits.
    pub(crate) fn tell(&self, mut commit: Commit) {
        if commit.events.is_empty() || self.behind.missing.load(Ordering::SeqCst) {
            return;
        }
        if self.behind.owners.lock().enter(&mut commit) {
            self.behind.missed.notify_one();
        }
        if commit.events.is_empty() {
            return;
        }
        let (bytes, commit) = (commit.bytes, Arc::new(commit));
        let queued_bytes = &self.behind.queued_bytes;
        let fits = queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= QUEUE_BYTES;
        let sent = fits && self.commits.try_send(Arc::clone(&commit)).is_ok();
        if !sent {
            // A listener that has gone is not told this either.
            queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.behind.owners.lock().leave(&commit);
            self.behind.missing.store(true, Ordering::SeqCst);
            self.behind.missed.notify_one();
        }
    }
}

/// Rows as they were before a commit, with the number of the change that touched each first.
type Before<K, V> = BTreeMap<K, (u32, V)>;
/// Conversations, by owner; `None` where there was none.
pub(crate) type Conversations = Before<(UserId, ConversationKey), Option<Arc<Conversation>>>;
/// Groups' participants, by group.
pub(crate) type Groups = Before<ConversationId, Arc<[Participant]>>;

/// Bytes of a change besides its texts, about: ids, numbers, its place in lists.
const EVENT_BYTES: usize = 256;

fn len(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

/// Bytes of the rows of a change, roughly. A row that several owners share is counted for each, because the bound is
/// for the worst case; but for a group's participants, which may be many and are always shared.
fn weight(change: &RowChange) -> usize {
    let message = |row: &RowState<Message>| match row {
        RowState::There(row) => {
            row.from.len() + row.content.len() + len(row.content_ref.as_ref()) + len(row.metadata.as_ref())
        }
        RowState::Absent | RowState::Cold => 0,
    };
    let conversation = |row: &Option<Arc<Conversation>>| {
        row.as_ref().map_or(0, |row| row.storage_path.len() + len(row.metadata.as_ref()))
    };
    EVENT_BYTES
        + match change {
            RowChange::Message { before, after, .. } => message(before) + message(after),
            RowChange::Conversation { before, after } => conversation(before) + conversation(after),
            RowChange::MessagesGone { .. } | RowChange::Participants { .. } => 0,
        }
}

/// Changes of watched rows, gathered while a commit is decided.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    events: Vec<Event>,
    bytes: usize,
    conversations: Conversations,
    groups: Groups,
}

impl Gathered {
    /// A row changed.
    pub(crate) fn push(&mut self, owner: &UserId, n: u32, change: RowChange) {
        self.bytes += weight(&change);
        self.events.push(Event { owner: owner.clone(), n, change });
    }

    /// Counts a group's participants, once for all who are told of them.
    pub(crate) fn count_participants(&mut self, participants: &[Participant]) {
        self.bytes +=
            participants.iter().map(|participant| EVENT_BYTES + len(participant.metadata.as_ref())).sum::<usize>();
    }

    /// Whether the conversation's row from before this commit is noted.
    pub(crate) fn knows_conversation(&self, owner: &UserId, key: &ConversationKey) -> bool {
        self.conversations.contains_key(&(owner.clone(), key.clone()))
    }

    /// Notes a conversation's row from before this commit.
    pub(crate) fn conversation_was(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        n: u32,
        before: Option<Conversation>,
    ) {
        self.conversations.insert((owner.clone(), key.clone()), (n, before.map(Arc::new)));
    }

    pub(crate) fn knows_group(&self, group: &ConversationId) -> bool {
        self.groups.contains_key(group)
    }

    /// Notes a group's participants from before this commit.
    pub(crate) fn group_was(&mut self, group: &ConversationId, n: u32, before: Vec<Participant>) {
        self.count_participants(&before);
        self.groups.insert(group.clone(), (n, before.into()));
    }

    /// Conversations and groups that this commit touched, as they were.
    pub(crate) fn take_touched(&mut self) -> (Conversations, Groups) {
        (std::mem::take(&mut self.conversations), std::mem::take(&mut self.groups))
    }

    /// The commit, once it has its number.
    pub(crate) fn into_commit(mut self, seq: Seq) -> Commit {
        self.events.sort_by_key(|event| event.n);
        Commit { seq, events: self.events, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use kalamdb_protocol::{ConversationType, Role};

    use super::*;

    fn conversation(metadata: &str) -> Arc<Conversation> {
        let key = ConversationKey { id: ConversationId::new("g").unwrap(), kind: ConversationType::Group };
        Arc::new(Conversation {
            key,
            user_id: None,
            first_msg_id: None,
            last_msg_id: None,
            created: 0,
            updated: 0,
            storage_path: String::new(),
            metadata: Some(metadata.to_owned()),
            last_read_msg_id: None,
            unread_count: 0,
            joined: true,
            version: 1,
        })
    }

    #[test]
    fn conversations_and_participants_count_as_messages_do() {
        let owner = UserId::new("ann").unwrap();
        let (large, small) = ("m".repeat(10_000), String::new());
        let mut told = Gathered::default();
        told.push(
            &owner,
            0,
            RowChange::Conversation { before: Some(conversation(&large)), after: Some(conversation(&small)) },
        );
        assert!(told.bytes >= 10_000, "{}", told.bytes);
        let group = ConversationId::new("g").unwrap();
        let participant = Participant {
            user: owner.clone(),
            group: group.clone(),
            role: Role::Member,
            created: 0,
            updated: 0,
            metadata: Some(large),
            version: 1,
        };
        told.group_was(&group, 1, vec![participant.clone()]);
        told.count_participants(&[participant]);
        assert!(told.bytes >= 30_000, "{}", told.bytes);
        assert!(told.into_commit(7).bytes >= 30_000, "the commit keeps the count");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_told_as_missed() {
        let (sender, mut feed) = channel();
        let heavy = |owner, seq, bytes| {
            let events = vec![Event {
                owner: UserId::new(owner).unwrap(),
                n: 0,
                change: RowChange::Conversation { before: None, after: None },
            }];
            Commit { seq, events, bytes }
        };
        sender.tell(heavy("ann", 1, QUEUE_BYTES));
        sender.tell(heavy("bob", 2, 1));
        assert!(matches!(feed.next().await, Some(FeedItem::Commit(commit)) if commit.seq == 1));
        assert!(matches!(feed.next().await, Some(FeedItem::Missed)));
        sender.tell(heavy("bob", 3, 1));
        assert!(matches!(feed.next().await, Some(FeedItem::Commit(commit)) if commit.seq == 3));
    }
}
