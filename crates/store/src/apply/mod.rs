//! The rules of a write: what a command does to the rows, decided on the rows as they are.
//!
//! Invariant: a deterministic function of the database and the log's entry, which is the command with its number and
//! time. It asks no clock and no setting, and reads and writes the overlay only; a rule that fails leaves no trace.

mod audit;
mod conversations;
mod files;
mod messages;
mod participants;
mod receipts;
mod segments;
mod tell;
mod trash;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use kalamdb_protocol::{ConversationType, ErrorCode, MAX_MICROS, Micros, MsgId, UserId};
use roaring::RoaringBitmap;

use self::{audit::Notes, participants::ParticipantChange, trash::ColdTrashRows};
use crate::{
    MAX_CHANGES, MAX_PROPOSAL_BYTES,
    command::{self, Adopted, Command, Done, Expired, FileAdded, Reserved, Texts},
    commit::{Actor, Change, Expect, Proposal, Receipt},
    counters::Counters,
    database::Read,
    error::{Error, Result},
    feed::{Gathered, Watched},
    keys::{self, Family, Key},
    model::{ChangeKind, ConversationKey, Seq},
    overlay::{Overlay, Value},
    records::{ChangeRecord, ConversationRecord, MetadataRecord, OwnerRecord, Record, RulesRecord},
    rows,
};

pub(crate) use self::receipts::earlier_receipt;

/// Rows that one commit may write, every participant's copy counted: everybody else waits for it.
const MAX_COMMIT_ROWS: u32 = 200_000;
/// Bytes that one commit may write, every key and value of every copy counted: they are held in memory until they are
/// written.
const MAX_COMMIT_BYTES: usize = 128 << 20;

const _: () = assert!(MAX_CHANGES <= MAX_COMMIT_ROWS as usize, "a proposal of plain changes fits into a commit");
const _: () = assert!(MAX_PROPOSAL_BYTES <= MAX_COMMIT_BYTES, "what passes the door fits into a commit");

/// The rows by which every entry is decided, held in memory by whoever applies entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    /// The counters as the last commit left them.
    pub(crate) counters: Counters,
    /// The rules in force.
    pub(crate) rules: RulesRecord,
}

impl State {
    /// Reads the state that the database holds.
    pub(crate) fn load(read: &impl Read) -> Result<Self> {
        Ok(Self { counters: Counters::load(read)?, rules: rows::rules(read)?.unwrap_or(INITIAL_RULES) })
    }
}

/// The rules until a command sets others, which the first one of every folder does.
const INITIAL_RULES: RulesRecord = RulesRecord {
    default_type: ConversationType::Ai,
    max_group_participants: 100,
    trash_retention: None,
    upload_ttl: 24 * 3_600 * 1_000_000,
};

/// Applies an entry whole, or not at all. Tells what it came to, and what that means for others; nothing when it
/// changed nothing, and its number is free for another one.
pub(crate) fn apply(
    overlay: &mut Overlay<'_>,
    state: &mut State,
    watched: &Watched,
    entry: &command::Entry,
) -> Result<(Done, Option<Aftermath>)> {
    assert!(entry.seq > state.counters.seq, "commit numbers rise");
    assert!(entry.time >= state.counters.time, "the times of commits do not fall");
    let mut next = *state;
    next.counters.seq = entry.seq;
    next.counters.time = entry.time;
    let mut apply = Apply::new(overlay, &mut next, watched, &entry.command);
    match apply.command(&entry.command).and_then(|done| Ok((done, apply.finish()?))) {
        Ok((done, aftermath)) => {
            let changed = overlay.keep();
            if changed {
                *state = next;
            }
            Ok((done, changed.then_some(aftermath)))
        }
        Err(error) => {
            overlay.discard();
            Err(error)
        }
    }
}

/// A commit in the making: what it has decided so far. It reads through the overlay and writes into it.
pub(crate) struct Apply<'a, 'db> {
    overlay: &'a mut Overlay<'db>,
    rules: &'a mut RulesRecord,
    counters: &'a mut Counters,
    now: Micros,
    seq: Seq,
    /// Owners whose counters move, and whether anything that they can see did.
    owners: BTreeMap<UserId, (OwnerRecord, bool)>,
    /// Deletion vectors that grow.
    deletions: BTreeMap<(UserId, u64), RoaringBitmap>,
    /// Conversations that lost their first or last message.
    shortened: BTreeSet<(UserId, ConversationKey)>,
    /// Trash rows of segments that change.
    cold_trash: BTreeMap<(UserId, Seq, u64), ColdTrashRows>,
    /// Files that lost a reference.
    released: BTreeSet<String>,
    /// Files of the spool that this commit names.
    adopted: Vec<Adopted>,
    /// Whether this commit leaves a file that can be removed.
    litters: bool,
    /// The owners who are watched, and the rows that their subscribers will be told of.
    watched: &'a Watched,
    told: Gathered,
    /// Entries for the audit log.
    notes: Notes,
    /// The actor in the audit log: a user's id, or `system`.
    actor: String,
    /// Entries of the change log so far.
    logged: u32,
    /// Rows so far that have changed for their owners.
    rows: u32,
    /// Bytes written so far.
    bytes: usize,
}

/// The first and last id that lie in segments, of each conversation that loses messages.
type ColdEnds = BTreeMap<(UserId, ConversationKey), Option<(MsgId, MsgId)>>;

/// The consequences of a commit for background work and subscribers.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    /// Owners whose counters moved, and their hot messages.
    pub(crate) hot_messages: Vec<(UserId, u64)>,
    /// Whether the commit left a file that can be removed.
    pub(crate) litters: bool,
    /// The changed rows of watched owners, before and after.
    pub(crate) told: Gathered,
}

impl<'a, 'db> Apply<'a, 'db> {
    /// A commit with the number and time that `state` has now.
    fn new(overlay: &'a mut Overlay<'db>, state: &'a mut State, watched: &'a Watched, command: &Command) -> Self {
        let State { counters, rules } = state;
        let (now, seq) = (counters.time, counters.seq);
        let actor = match command {
            Command::Write(write) => Some(&write.proposal.actor),
            Command::AddFile(add) => Some(&add.actor),
            _ => None,
        };
        Self {
            overlay,
            rules,
            counters,
            now,
            seq,
            owners: BTreeMap::new(),
            deletions: BTreeMap::new(),
            shortened: BTreeSet::new(),
            cold_trash: BTreeMap::new(),
            released: BTreeSet::new(),
            adopted: Vec::new(),
            litters: false,
            watched,
            told: Gathered::default(),
            notes: Notes::new(),
            actor: actor.map_or(audit::SYSTEM, |actor| actor.user.as_str()).to_owned(),
            logged: 0,
            rows: 0,
            bytes: 0,
        }
    }

    /// Does what the command says; the actor of a command without a user is the system.
    fn command(&mut self, command: &Command) -> Result<Done> {
        Ok(match command {
            Command::Write(write) => Done::Write(self.write(write)?),
            Command::AddFile(add) => {
                let uploaded = self.add_file(&add.actor, &add.upload)?;
                Done::AddFile(FileAdded { uploaded, adopted: std::mem::take(&mut self.adopted) })
            }
            Command::Expire(expire) => {
                let (messages, uploads) = self.expire(&expire.entries)?;
                Done::Expire(Expired { messages, uploads })
            }
            Command::ReserveSegment(reserve) => {
                let (number, path) = self.reserve_segment(&reserve.owner)?;
                Done::ReserveSegment(Reserved { number, path })
            }
            Command::Moved(moved) => {
                self.settle_moves(&moved.paths)?;
                Done::Moved(())
            }
            Command::Forget(forget) => {
                self.forget_files(&forget.paths);
                Done::Forget(())
            }
            Command::TrimAudit(trim) => {
                self.trim_audit(&trim.owner, &trim.ids)?;
                Done::TrimAudit(())
            }
            Command::PublishSegment(publish) => {
                self.publish_segment(&publish.owner, publish.number, &publish.segment, &publish.rows)?;
                Done::PublishSegment(())
            }
            Command::PublishCompaction(publish) => {
                self.publish_compaction(&publish.owner, &publish.inputs, publish.output.as_ref())?;
                Done::PublishCompaction(())
            }
            Command::ReleaseIntents(release) => {
                self.release_intents(&release.paths);
                Done::ReleaseIntents(())
            }
            Command::SetRules(set) => {
                self.set_rules(set.rules)?;
                Done::SetRules(())
            }
        })
    }

    /// Decides by other rules from the next command on.
    fn set_rules(&mut self, rules: RulesRecord) -> Result<()> {
        if rows::rules(self.overlay)? != Some(rules) {
            self.put(Family::Meta, rows::RULES_KEY.to_vec(), rules.encode()?);
            *self.rules = rules;
        }
        Ok(())
    }

    /// Does everything a proposal asks for; `texts` are those of its changes, by index, that lie in the spool.
    fn proposal(&mut self, proposal: &Proposal, texts: &Texts) -> Result<Receipt> {
        self.check(&proposal.expect)?;
        let mut sent = Vec::new();
        for (index, change) in proposal.changes.iter().enumerate() {
            let text = texts.get(&index);
            match change {
                Change::Send(message) => sent.push(self.send(&proposal.actor, message, text)?),
                Change::Edit { .. } => self.edit(&proposal.actor, change, text)?,
                change => self.change(&proposal.actor, change)?,
            }
        }
        self.settle_ends(proposal)?;
        let rows_affected = proposal.idempotency.as_ref().map_or(0, |request| request.rows_affected);
        Ok(Receipt { seq: self.seq, sent, rows_affected })
    }

    fn change(&mut self, actor: &Actor, change: &Change) -> Result<()> {
        match change {
            // The caller does the first two; what lies in segments is looked at once everything is deleted.
            Change::Send(_) | Change::Edit { .. } | Change::Cold(_) => Ok(()),
            Change::Delete { owner, msg_id, conversation, from, place } => {
                self.delete(owner, *msg_id, conversation, from, *place)
            }
            Change::Restore { owner, msg_id, conversation, from, place } => {
                self.restore(owner, *msg_id, conversation, from, *place)
            }
            Change::Purge { owner, msg_id, conversation, place } => self.purge(owner, *msg_id, conversation, *place),
            Change::AdminStatement { log, action, target } => {
                // A user who is not there (any more) has no log, and a mistyped name shall not make one.
                let known = self.overlay.get(Family::Owners, log.as_str().as_bytes())?.is_some();
                self.note(if known { log } else { &actor.user }, *action, target.clone());
                Ok(())
            }
            Change::CreateConversation { owner, id, kind, created, metadata } => {
                self.create_conversation(owner, id, *kind, *created, metadata.clone())
            }
            Change::SetConversation { owner, key, version, metadata, last_msg_id, last_read } => {
                let set =
                    conversations::ConversationUpdate { metadata, last_msg_id: *last_msg_id, last_read: *last_read };
                self.set_conversation(actor, owner, key, *version, &set)
            }
            Change::DeleteConversation { owner, key, version, cold } => {
                self.delete_conversation(owner, key, *version, cold)
            }
            Change::AddParticipant { owner, group, user, role, metadata } => {
                self.add_participant(ParticipantChange { actor, owner, group, user }, *role, metadata.clone())
            }
            Change::SetParticipant { owner, group, user, version, role, metadata } => {
                let change = ParticipantChange { actor, owner, group, user };
                self.set_participant(change, *version, *role, metadata.as_ref())
            }
            Change::RemoveParticipant { owner, group, user, version } => {
                self.remove_participant(ParticipantChange { actor, owner, group, user }, *version)
            }
        }
    }

    fn check(&self, expectations: &[Expect]) -> Result<()> {
        for expect in expectations {
            let (now, then) = match expect {
                Expect::Cold { owner, version } => (rows::owner(self.overlay, owner)?.cold_version, *version),
                Expect::Group { group, version } => {
                    (rows::group(self.overlay, group)?.map_or(0, |group| group.version), *version)
                }
            };
            if now != then {
                return Err(Error::changed());
            }
        }
        Ok(())
    }

    /// Whether a row is as the preparation saw it: still of `version`, or changed by this very commit.
    fn is_current(&self, now: Seq, version: Seq) -> bool {
        now == version || now == self.seq
    }

    /// Writes what was gathered: doomed files, the audit log, deletion vectors, owners' counters.
    fn finish(mut self) -> Result<Aftermath> {
        self.doom_released()?;
        self.write_cold_trash()?;
        self.write_notes()?;
        self.tell_touched()?;
        for ((owner, number), deleted) in std::mem::take(&mut self.deletions) {
            let rows = rows::segment(self.overlay, &owner, number)?.map_or(0, |segment| segment.rows);
            assert!(deleted.max().is_none_or(|last| last < rows), "a position is a row of its segment");
            self.put(Family::Deletions, keys::segment(&owner, number), rows::encode_deletions(&deleted)?);
        }
        let mut hot_messages = Vec::new();
        for (owner, (mut record, changed)) in std::mem::take(&mut self.owners) {
            assert!(record.change <= self.seq && record.cold_version <= self.seq, "numbers of commits only rise");
            if changed {
                record.change = self.seq;
            }
            self.put(Family::Owners, owner.as_str(), record.encode()?);
            hot_messages.push((owner, record.hot_messages));
        }
        self.check_bounds()?;
        Ok(Aftermath { hot_messages, litters: self.litters, told: self.told })
    }

    /// An owner's counters, to be written at the end.
    fn owner(&mut self, owner: &UserId) -> Result<&mut (OwnerRecord, bool)> {
        Ok(match self.owners.entry(owner.clone()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert((rows::owner(self.overlay, owner)?, false)),
        })
    }

    /// Notes in the change log that something changed for `owner`.
    fn log(&mut self, owner: &UserId, kind: ChangeKind, of: &ConversationKey, msg_id: Option<MsgId>) -> Result<()> {
        self.log_row(owner, change_row(kind, of, msg_id)?)
    }

    /// As [`Self::log`], of a change that is the same for several owners.
    fn log_row(&mut self, owner: &UserId, change: Value) -> Result<()> {
        self.touch(owner)?;
        self.put(Family::Changes, keys::change(owner, self.seq, self.logged), change);
        self.logged += 1;
        self.count_row()
    }

    /// Notes that something changed that the owner can see.
    fn touch(&mut self, owner: &UserId) -> Result<()> {
        self.owner(owner)?.1 = true;
        Ok(())
    }

    /// Writes a row: the one way for a value into this commit, so that each of its bytes counts.
    fn put(&mut self, family: Family, key: impl Into<Key>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.overlay.put(family, key, value);
    }

    /// Counts a row that has changed for its owner.
    fn count_row(&mut self) -> Result<()> {
        self.rows += 1;
        self.check_bounds()
    }

    /// Bounds what one commit does.
    fn check_bounds(&self) -> Result<()> {
        if self.rows > MAX_COMMIT_ROWS || self.bytes > MAX_COMMIT_BYTES {
            return Err(Error::refused(
                ErrorCode::PayloadTooLarge,
                format!(
                    "One statement may change at most {MAX_COMMIT_ROWS} rows and {} MiB, every participant's copy \
                     counted; change fewer at a time.",
                    MAX_COMMIT_BYTES >> 20
                ),
            ));
        }
        Ok(())
    }

    /// Writes an owner's view of a conversation, as changed by this commit.
    fn put_conversation(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        mut record: ConversationRecord,
    ) -> Result<()> {
        self.remember_conversation(owner, key)?;
        record.version = self.seq;
        record.updated = self.now;
        // A new row hands its metadata over like this, and so do rows of older folders and of deleted conversations,
        // which hold their own. This row is written with every message, and is to be small.
        let metadata = record.metadata.take();
        if metadata.is_some() && !rows::shares_metadata(key, &record) {
            self.put_metadata(owner, key, metadata)?;
        }
        self.put(Family::Conversations, keys::conversation(owner, key), record.encode()?);
        Ok(())
    }

    /// Writes the metadata that an owner alone has of a conversation; after the row, whose watchers are told how both
    /// were before.
    fn put_metadata(&mut self, owner: &UserId, key: &ConversationKey, metadata: Option<String>) -> Result<()> {
        let at = keys::conversation(owner, key);
        match metadata {
            Some(text) => self.put(Family::ConversationMetadata, at, MetadataRecord { text }.encode()?),
            None => self.overlay.delete(Family::ConversationMetadata, at),
        }
        Ok(())
    }

    /// A segment's deletion vector, to be written at the end.
    fn deletions(&mut self, owner: &UserId, number: u64) -> Result<&mut RoaringBitmap> {
        let at = (owner.clone(), number);
        if !self.deletions.contains_key(&at) {
            if rows::segment(self.overlay, owner, number)?.is_none() {
                return Err(Error::changed());
            }
            let deleted = rows::deletions(self.overlay, owner, number)?;
            self.deletions.insert(at.clone(), deleted);
        }
        let seq = self.seq;
        self.owner(owner)?.0.cold_version = seq;
        self.deletions.get_mut(&at).ok_or_else(Error::changed)
    }

    /// Marks rows of a segment as deleted; where one is already, another commit was quicker, and the preparation is stale.
    fn mark_deleted(&mut self, owner: &UserId, number: u64, ranges: &[(u32, u32)]) -> Result<()> {
        let deleted = self.deletions(owner, number)?;
        for (start, end) in ranges {
            if deleted.insert_range(*start..*end) != u64::from(end - start) {
                return Err(Error::changed());
            }
        }
        Ok(())
    }

    /// Takes a position out of a segment's deletion vector: its row counts again.
    fn unmark_deleted(&mut self, owner: &UserId, number: u64, position: u32) -> Result<()> {
        if self.deletions(owner, number)?.remove(position) { Ok(()) } else { Err(Error::changed()) }
    }

    /// A time of a proposal; the commit's when absent.
    fn time(&self, given: Option<Micros>) -> Result<Micros> {
        let micros = given.unwrap_or(self.now);
        if micros.unsigned_abs() > MAX_MICROS.unsigned_abs() {
            return Err(invalid("A time must lie between the years 1684 and 2255."));
        }
        Ok(micros)
    }
}

/// An entry of the change log.
fn change_row(kind: ChangeKind, of: &ConversationKey, msg_id: Option<MsgId>) -> Result<Value> {
    let record = ChangeRecord { kind, conversation_id: of.id.as_str().to_owned(), conversation_type: of.kind, msg_id };
    Ok(record.encode()?.into())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::refused(ErrorCode::InvalidValue, message)
}

fn forbidden(message: impl Into<String>) -> Error {
    Error::refused(ErrorCode::Forbidden, message)
}

fn conflict(message: impl Into<String>) -> Error {
    Error::refused(ErrorCode::Conflict, message)
}
