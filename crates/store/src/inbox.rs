//! One's conversations by their last message and by their last change, in memory, for owners who have many.
//!
//! Invariant: an inbox is what the conversations' rows say as of one commit. The change log names the conversations that
//! any other commit has otherwise, and these are read again: no commit does anything for it, and each answer is that of
//! the reader's own snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use kalamdb_protocol::{ConversationType, UserId};
use parking_lot::Mutex;

use crate::{
    database::{DatabaseSnapshot, Read},
    error::Result,
    horizon::Horizon,
    keys::{self, Family},
    model::{ConversationKey, Seq},
    records::{ChangeRecord, ConversationRecord, Record},
    rows,
};

/// Conversations of an owner from which on there is an inbox: fewer are read in less time than all else of a request takes.
const MANY: usize = if cfg!(test) { 8 } else { 256 };
/// Whoever wants more than one of so many conversations reads them all: to read one by its key takes as long as to read
/// some of them in a row.
const PART: usize = 4;
/// Conversations in all inboxes, each of which takes some 200 bytes.
const MOST: usize = if cfg!(test) { 1 << 8 } else { 1 << 17 };
/// Changes that are read again, at the most, where the owner has fewer conversations than these.
const MANY_CHANGES: usize = 1_024;

/// The column by which conversations are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxColumn {
    /// `lastMsgId`, which may be NULL.
    LastMsgId,
    /// `updated`.
    Updated,
}

/// An order of conversations by one column, and how many of the first ones are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxOrder {
    /// The column.
    pub by: InboxColumn,
    /// Whether the highest value comes first.
    pub descending: bool,
    /// Whether NULL does.
    pub nulls_first: bool,
    /// The number of conversations.
    pub most: usize,
}

/// The values that a conversation has a place by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    last: Option<i64>,
    updated: i64,
}

impl Place {
    fn of(record: &ConversationRecord) -> Self {
        Self { last: record.shown_last.unwrap_or(record.last), updated: record.updated }
    }
}

/// An owner's conversations in their orders.
#[derive(Debug, Default, PartialEq, Eq)]
struct Inbox {
    /// The last commit that changed anything for the owner.
    at: Seq,
    places: BTreeMap<ConversationKey, Place>,
    /// Those whose last message is NULL, and the others by it.
    without: BTreeSet<ConversationKey>,
    by_last: BTreeSet<(i64, ConversationKey)>,
    by_updated: BTreeSet<(i64, ConversationKey)>,
}

/// The inboxes that are held, by owner; those that are asked for again stay.
#[derive(Default)]
struct Held {
    inboxes: BTreeMap<UserId, Kept>,
    /// Rises with each question.
    now: u64,
}

struct Kept {
    inbox: Arc<Mutex<Inbox>>,
    /// Its conversations when it was built.
    conversations: usize,
    /// When it was asked for last.
    used: u64,
}

/// The inboxes of owners who asked for the first of many conversations.
pub(crate) struct Inboxes {
    horizon: Arc<Horizon>,
    held: Mutex<Held>,
}

/// An owner's rows as a reader sees them.
#[derive(Clone, Copy)]
struct View<'a> {
    snapshot: &'a DatabaseSnapshot,
    owner: &'a UserId,
    /// The last commit in it that changed anything for the owner.
    at: Seq,
}

impl<'a> View<'a> {
    fn new(snapshot: &'a DatabaseSnapshot, owner: &'a UserId) -> Result<Self> {
        Ok(Self { snapshot, owner, at: rows::owner(snapshot, owner)?.change })
    }

    fn place(&self, key: &ConversationKey) -> Result<Option<Place>> {
        Ok(rows::conversation(self.snapshot, self.owner, key)?.as_ref().map(Place::of))
    }
}

impl Inboxes {
    /// None yet; `horizon` is that of the change log.
    pub(crate) fn new(horizon: Arc<Horizon>) -> Self {
        Self { horizon, held: Mutex::default() }
    }

    /// Reads an owner's conversations, so that the first ones are at hand from now on, where enough of them were `seen`.
    pub(crate) fn gather(
        &self,
        snapshot: &DatabaseSnapshot,
        owner: &UserId,
        order: InboxOrder,
        seen: usize,
    ) -> Result<()> {
        if !(MANY..=MOST).contains(&seen) || order.most > seen / PART {
            return Ok(());
        }
        let inbox = Inbox::read(View::new(snapshot, owner)?)?;
        let kept = Kept { conversations: inbox.places.len(), inbox: Arc::new(Mutex::new(inbox)), used: 0 };
        self.held.lock().keep(owner, kept);
        Ok(())
    }

    /// Conversations among which are the first ones of the owner by this order, of the kinds that are `wanted`, and all that
    /// share the last one's place. `None` where the owner's were not gathered, and where one may as well read them all.
    pub(crate) fn first(
        &self,
        snapshot: &DatabaseSnapshot,
        owner: &UserId,
        order: InboxOrder,
        wanted: &[ConversationType],
    ) -> Result<Option<Vec<ConversationKey>>> {
        let Some(cell) = self.held.lock().get(owner) else { return Ok(None) };
        let (view, mut inbox) = (View::new(snapshot, owner)?, cell.lock());
        if view.at < inbox.at {
            return self.before(&inbox, view, order, wanted);
        }
        let conversations = inbox.places.len();
        if conversations > MOST {
            // Somebody else has read it meanwhile, and let go of it.
            return Ok(None);
        }
        if view.at > inbox.at && !self.catch_up(&mut inbox, view)? {
            *inbox = Inbox::read(view)?;
        }
        if inbox.places.len() != conversations {
            self.held.lock().recount(owner, inbox.places.len());
        }
        if inbox.places.len() > MOST {
            // It is let go of, and may not be whole.
            return Ok(None);
        }
        let most = inbox.places.len() / PART;
        Ok((order.most <= most).then(|| inbox.first(order, |key| wanted.contains(&key.kind))))
    }

    /// Brings an inbox to a later commit. `false` where it is better read anew.
    fn catch_up(&self, inbox: &mut Inbox, view: View<'_>) -> Result<bool> {
        let most = MANY_CHANGES.max(inbox.places.len() / 2);
        let Some(changed) = self.changed(view.snapshot, view.owner, (inbox.at, view.at), most)? else {
            return Ok(false);
        };
        for key in changed {
            let place = view.place(&key)?;
            inbox.put(key, place);
        }
        inbox.at = view.at;
        Ok(true)
    }

    /// The first ones as of an earlier commit than an inbox is: those of it that have not changed since, and beside them all
    /// that have, and were there.
    fn before(
        &self,
        inbox: &Inbox,
        view: View<'_>,
        order: InboxOrder,
        wanted: &[ConversationType],
    ) -> Result<Option<Vec<ConversationKey>>> {
        let since = (view.at, inbox.at);
        let changed = self.changed(&view.snapshot.of_now(), view.owner, since, MANY_CHANGES)?;
        let Some(changed) = changed else { return Ok(None) };
        let mut first = inbox.first(order, |key| wanted.contains(&key.kind) && !changed.contains(key));
        for key in changed {
            if wanted.contains(&key.kind) && view.place(&key)?.is_some() {
                first.push(key);
            }
        }
        Ok(Some(first))
    }

    /// The owner's conversations that the commits after the first and up to the second may have changed; `None` where the log
    /// does not reach back that far, or tells of more changes than `most`.
    fn changed(
        &self,
        snapshot: &DatabaseSnapshot,
        owner: &UserId,
        (after, until): (Seq, Seq),
        most: usize,
    ) -> Result<Option<BTreeSet<ConversationKey>>> {
        let (from, to) = (keys::change(owner, after + 1, 0), keys::change(owner, until + 1, 0));
        let (mut changed, mut entries) = (BTreeSet::new(), 0);
        snapshot.scan(Family::Changes, &from, &to, false, &mut |_, value| {
            changed.insert(ChangeRecord::decode(value)?.conversation()?);
            entries += 1;
            Ok(if entries > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        // The log is let go whatever snapshots there are, so what was read may not be all there was.
        Ok((entries <= most && !self.horizon.is_past_change(after + 1)).then_some(changed))
    }
}

impl Held {
    fn get(&mut self, owner: &UserId) -> Option<Arc<Mutex<Inbox>>> {
        self.now += 1;
        let kept = self.inboxes.get_mut(owner)?;
        kept.used = self.now;
        Some(Arc::clone(&kept.inbox))
    }

    fn keep(&mut self, owner: &UserId, kept: Kept) {
        self.inboxes.insert(owner.clone(), Kept { used: self.now, ..kept });
        self.let_go();
    }

    /// An inbox has so many conversations now.
    fn recount(&mut self, owner: &UserId, conversations: usize) {
        if let Some(kept) = self.inboxes.get_mut(owner) {
            kept.conversations = conversations;
            self.let_go();
        }
    }

    /// Lets go of the inboxes that were not asked for the longest, while there are too many conversations in all.
    fn let_go(&mut self) {
        while self.inboxes.values().map(|kept| kept.conversations).sum::<usize>() > MOST {
            let oldest = self.inboxes.iter().min_by_key(|(_, kept)| kept.used).map(|(owner, _)| owner.clone());
            let Some(oldest) = oldest else { return };
            self.inboxes.remove(&oldest);
        }
    }
}

impl Inbox {
    /// Reads all of an owner's conversations; of too many only one more than are held, which answers nothing.
    fn read(View { snapshot, owner, at }: View<'_>) -> Result<Self> {
        let mut inbox = Self { at, ..Self::default() };
        let prefix = keys::id_prefix(owner.as_str());
        snapshot.scan(Family::Conversations, &prefix, &keys::after_prefix(&prefix), false, &mut |key, value| {
            inbox.put(keys::parse_conversation(key)?, Some(Place::of(&ConversationRecord::decode(value)?)));
            Ok(if inbox.places.len() > MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(inbox)
    }

    /// Gives a conversation its place; none where it is gone.
    fn put(&mut self, key: ConversationKey, place: Option<Place>) {
        let before = match place {
            Some(place) => self.places.insert(key.clone(), place),
            None => self.places.remove(&key),
        };
        if before == place {
            return;
        }
        if let Some(Place { last, updated }) = before {
            self.by_updated.remove(&(updated, key.clone()));
            match last {
                Some(last) => self.by_last.remove(&(last, key.clone())),
                None => self.without.remove(&key),
            };
        }
        if let Some(Place { last, updated }) = place {
            self.by_updated.insert((updated, key.clone()));
            match last {
                Some(last) => self.by_last.insert((last, key)),
                None => self.without.insert(key),
            };
        }
    }

    /// The first ones by this order that are wanted, and all that share the last one's place.
    fn first(&self, order: InboxOrder, wanted: impl Fn(&ConversationKey) -> bool) -> Vec<ConversationKey> {
        let (values, without) = match order.by {
            InboxColumn::LastMsgId => (&self.by_last, Some(&self.without)),
            InboxColumn::Updated => (&self.by_updated, None),
        };
        let ordered: Box<dyn Iterator<Item = &(i64, ConversationKey)>> =
            if order.descending { Box::new(values.iter().rev()) } else { Box::new(values.iter()) };
        let ordered = ordered.map(|(value, key)| (Some(*value), key));
        let nulls = without.into_iter().flatten().map(|key| (None, key));
        let all: Box<dyn Iterator<Item = (Option<i64>, &ConversationKey)>> =
            if order.nulls_first { Box::new(nulls.chain(ordered)) } else { Box::new(ordered.chain(nulls)) };
        let (mut first, mut last) = (Vec::new(), None);
        for (value, key) in all.filter(|(_, key)| wanted(key)) {
            if first.len() >= order.most && last != Some(value) {
                break;
            }
            last = Some(value);
            first.push(key.clone());
        }
        first
    }
}
