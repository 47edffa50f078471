//! Content files and what refers to them.
//!
//! Invariant: a reference is a row, one for each (file, owner, message), written and removed together with the
//! message's copy, so a count is a scan and never drifts. A commit that removes a file's last reference dooms it, and
//! a doomed file takes no new reference.

use kalamdb_protocol::{ConversationType, MsgId, UserId};

use super::{Apply, invalid};
use crate::{
    command::{Adopted, Spooled, Upload},
    commit::Actor,
    due::{AT_ONCE, Due},
    error::Result,
    keys::{self, Family},
    model::{ConversationKey, FileKind, Uploaded},
    paths,
    records::{FileRecord, Record, ReferenceRecord, RemovalRecord, Unsent},
    rows,
};

impl Apply<'_, '_> {
    /// Takes an upload in: creates its conversation if there is none, and gives the file its name.
    pub(crate) fn add_file(&mut self, actor: &Actor, upload: &Upload) -> Result<Uploaded> {
        let kind = self.kind_of(&upload.owner, &upload.conversation, upload.conversation_type)?;
        let key = ConversationKey { id: upload.conversation.clone(), kind };
        let conversation_created = if kind == ConversationType::Group {
            self.recipients(actor, &upload.owner, &key)?.1
        } else {
            rows::conversation(self.overlay, &upload.owner, &key)?.is_none()
        };
        if conversation_created && kind == ConversationType::Ai {
            self.create_conversation(&upload.owner, &key.id, Some(kind), None, None)?;
        }
        // Messages and uploads take their numbers from one counter, so that a file's name is never given twice.
        let number = self.counters.next_msg_id(self.now)?;
        self.counters.last_msg_id = number;
        let path = paths::media(&upload.owner, &key, number, &upload.extension);
        let until = self.now.saturating_add(self.rules.upload_ttl);
        let mut record = FileRecord {
            owner: upload.owner.clone(),
            conversation: key.clone(),
            kind: FileKind::Media,
            content_type: upload.content_type.clone(),
            bytes: upload.file.bytes,
            created: self.now,
            thumbnail: None,
            thumbnail_of: None,
            moving_from: None,
            unsent: Some(Unsent { until, number }),
            doomed: false,
        };
        if let Some(thumbnail) = &upload.thumbnail {
            let of = paths::thumbnail(&upload.owner, &key, number, &thumbnail.extension);
            let small = FileRecord {
                kind: FileKind::Thumbnail,
                content_type: thumbnail.content_type.clone(),
                bytes: thumbnail.file.bytes,
                thumbnail_of: Some(path.clone()),
                unsent: None,
                ..record.clone()
            };
            self.adopt(&of, small, &thumbnail.file)?;
            record.thumbnail = Some(of);
        }
        self.put(Family::Due, Due::Upload { path: path.clone() }.key(until), Vec::new());
        self.put(Family::Holdings, keys::message(&upload.owner, &key, number), path.clone().into_bytes());
        let stored = rows::public_file(path.clone(), record.clone(), 0);
        self.adopt(&path, record, &upload.file)?;
        Ok(Uploaded { file: stored, conversation_created })
    }

    /// Takes a large message's text in; gives its path.
    pub(super) fn add_text(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        edited: bool,
        file: &Spooled,
    ) -> Result<String> {
        let mut path = paths::text(owner, key, msg_id, edited.then_some(self.seq));
        // A given id may be that of an earlier message whose file is still there.
        if rows::file(self.overlay, &path)?.is_some() {
            path = paths::text(owner, key, msg_id, Some(self.seq));
        }
        let record = FileRecord {
            owner: owner.clone(),
            conversation: key.clone(),
            kind: FileKind::Text,
            content_type: "text/plain; charset=utf-8".to_owned(),
            bytes: file.bytes,
            created: self.now,
            thumbnail: None,
            thumbnail_of: None,
            moving_from: None,
            unsent: None,
            doomed: false,
        };
        self.adopt(&path, record, file)?;
        Ok(path)
    }

    /// Names a file of the spool, which will be moved to that place.
    fn adopt(&mut self, path: &str, mut record: FileRecord, file: &Spooled) -> Result<()> {
        record.moving_from = Some(file.name.clone());
        self.put_file(path, &record)?;
        self.put(Family::Due, Due::Move { path: path.to_owned() }.key(AT_ONCE), Vec::new());
        self.adopted.push(Adopted { path: path.to_owned(), spooled: file.name.clone() });
        Ok(())
    }

    /// Notes that files are in their places.
    pub(crate) fn settle_moves(&mut self, paths: &[String]) -> Result<()> {
        for path in paths {
            if let Some(mut record) = rows::file(self.overlay, path)? {
                record.moving_from = None;
                self.put_file(path, &record)?;
            }
            self.overlay.delete(Family::Due, Due::Move { path: path.clone() }.key(AT_ONCE));
        }
        Ok(())
    }

    fn put_file(&mut self, path: &str, record: &FileRecord) -> Result<()> {
        self.put(Family::Files, path.as_bytes().to_vec(), record.encode()?);
        Ok(())
    }

    /// Checks that a message of this owner's may refer to a file that the client names.
    pub(super) fn check_given(&self, actor: &Actor, owner: &UserId, key: &ConversationKey, path: &str) -> Result<()> {
        // All reasons get the same sentence, because it is nobody else's business whether a file exists.
        let unknown = || invalid("contentRef must name a file of this conversation; there is none of that name.");
        let file = rows::file(self.overlay, path)?.ok_or_else(unknown)?;
        let in_conversation =
            &file.conversation == key && (key.kind == ConversationType::Group || &file.owner == owner);
        let readable = rows::may_read(self.overlay, owner, path, &file)? || (actor.admin && !file.doomed);
        if file.kind != FileKind::Media || !in_conversation || !readable {
            return Err(unknown());
        }
        Ok(())
    }

    /// Lets a message refer to a file.
    pub(super) fn refer(
        &mut self,
        path: &str,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        reference: ReferenceRecord,
    ) -> Result<()> {
        if let Some(mut file) = rows::file(self.overlay, path)?
            && self.is_sent(path, &mut file)
        {
            self.put_file(path, &file)?;
        }
        self.put(Family::References, keys::reference(path, owner, msg_id), reference.encode()?);
        self.put(Family::Holdings, keys::message(owner, key, msg_id), path.as_bytes().to_vec());
        Ok(())
    }

    /// An upload waits no more; whether it did.
    fn is_sent(&mut self, path: &str, file: &mut FileRecord) -> bool {
        let Some(Unsent { until, number }) = file.unsent.take() else { return false };
        self.overlay.delete(Family::Due, Due::Upload { path: path.to_owned() }.key(until));
        self.overlay.delete(Family::Holdings, keys::message(&file.owner, &file.conversation, number));
        true
    }

    /// A message's reference to a file: shown, hidden, or none.
    pub(super) fn reference_of(
        &self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
    ) -> Result<Option<(String, ReferenceRecord)>> {
        let Some(path) = rows::holding(self.overlay, owner, key, msg_id)? else { return Ok(None) };
        let reference = rows::reference(self.overlay, &path, owner, msg_id)?;
        Ok(reference.map(|reference| (path, reference)))
    }

    /// Shows or hides the file that a message refers to, if it does; tells whether it does.
    pub(super) fn mark_reference(
        &mut self,
        owner: &UserId,
        key: &ConversationKey,
        msg_id: MsgId,
        reference: ReferenceRecord,
    ) -> Result<bool> {
        let Some(path) = rows::holding(self.overlay, owner, key, msg_id)? else { return Ok(false) };
        self.put(Family::References, keys::reference(&path, owner, msg_id), reference.encode()?);
        Ok(true)
    }

    /// A message refers to no file any more.
    pub(super) fn release(&mut self, owner: &UserId, key: &ConversationKey, msg_id: MsgId) -> Result<()> {
        let Some(path) = rows::holding(self.overlay, owner, key, msg_id)? else { return Ok(()) };
        self.overlay.delete(Family::References, keys::reference(&path, owner, msg_id));
        self.overlay.delete(Family::Holdings, keys::message(owner, key, msg_id));
        self.released.insert(path);
        Ok(())
    }

    /// Dooms the files that lost a reference and have none left; at the end, when all is moved that will be.
    pub(super) fn doom_released(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.released) {
            if !rows::is_referred_to(self.overlay, &path)? {
                self.doom(&path)?;
            }
        }
        Ok(())
    }

    /// A file takes no new reference from now on, and is removed.
    pub(super) fn doom(&mut self, path: &str) -> Result<()> {
        let Some(mut file) = rows::file(self.overlay, path)? else { return Ok(()) };
        if file.doomed {
            return Ok(());
        }
        self.is_sent(path, &mut file);
        file.doomed = true;
        self.put_file(path, &file)?;
        self.remove_later(path)?;
        match &file.thumbnail {
            Some(thumbnail) => self.doom(thumbnail),
            None => Ok(()),
        }
    }

    /// Has a file removed once nobody reads a snapshot from before this commit.
    pub(super) fn remove_later(&mut self, path: &str) -> Result<()> {
        let key = Due::Removal { path: path.to_owned() }.key(AT_ONCE);
        self.put(Family::Due, key, RemovalRecord { released: self.seq }.encode()?);
        self.litters = true;
        Ok(())
    }

    /// Forgets files that are removed.
    pub(crate) fn forget_files(&mut self, paths: &[String]) {
        for path in paths {
            self.overlay.delete(Family::Files, path.as_bytes().to_vec());
            self.overlay.delete(Family::Due, Due::Removal { path: path.clone() }.key(AT_ONCE));
        }
    }

    /// Dooms the owner's uploads to a conversation that were never sent: they leave it.
    pub(super) fn doom_unsent(&mut self, owner: &UserId, key: &ConversationKey) -> Result<()> {
        for (_, path) in rows::holdings(self.overlay, owner, key)? {
            if rows::file(self.overlay, &path)?.is_some_and(|file| file.unsent.is_some()) {
                self.doom(&path)?;
            }
        }
        Ok(())
    }
}
