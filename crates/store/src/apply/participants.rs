//! The participants of a group, and their roles.
//!
//! Invariant: a group has an owner as long as it has participants, and never more participants than allowed.

use kalamdb_protocol::{AuditAction, ConversationId, ConversationType, Role, UserId};

use super::{Apply, audit, conflict, forbidden, invalid, messages::not_a_participant};
use crate::{
    commit::Actor,
    error::{Error, Result},
    keys::{self, Family},
    model::{ChangeKind, ConversationKey, Seq},
    records::{ParticipantRecord, Record},
    rows,
};

fn group_key(group: &ConversationId) -> ConversationKey {
    ConversationKey { id: group.clone(), kind: ConversationType::Group }
}

/// A change of one participant: who asks, in whose schema the statement stands, and which row of which group it means.
/// Where `owner` is `user`, somebody changes their own row, or leaves.
#[derive(Clone, Copy)]
pub(super) struct ParticipantChange<'a> {
    pub(super) actor: &'a Actor,
    pub(super) owner: &'a UserId,
    pub(super) group: &'a ConversationId,
    pub(super) user: &'a UserId,
}

impl Apply<'_, '_> {
    /// The role of the schema's owner in the group, by which it is decided what they may do; an admin of the server may
    /// do what its owner may.
    fn role_of_owner(&self, change: ParticipantChange<'_>) -> Result<Role> {
        match rows::participant(self.overlay, change.group, change.owner)? {
            _ if change.actor.admin => Ok(Role::Owner),
            Some(participant) => Ok(participant.role),
            None => Err(not_a_participant()),
        }
    }

    /// Adds a participant.
    pub(super) fn add_participant(
        &mut self,
        change: ParticipantChange<'_>,
        role: Option<Role>,
        metadata: Option<String>,
    ) -> Result<()> {
        let ParticipantChange { actor, owner, group, user } = change;
        let record = match rows::group(self.overlay, group)? {
            Some(record) => record,
            None if actor.admin => return Err(invalid("There is no group of this id; create it first.")),
            None => return Err(not_a_participant()),
        };
        let own = self.role_of_owner(change)?;
        if own == Role::Member {
            return Err(forbidden("Only a group's owner and admins may add participants."));
        }
        let role = role.unwrap_or(Role::Member);
        if role == Role::Owner {
            return Err(invalid(
                "A group has one owner: add a participant, then UPDATE its role to hand the group over.",
            ));
        }
        if role == Role::Admin && own != Role::Owner {
            return Err(forbidden("Only a group's owner may make somebody an admin of it."));
        }
        if rows::participant(self.overlay, group, user)?.is_some() {
            return Err(conflict("This user takes part in the group already."));
        }
        if u64::from(record.participants) >= self.rules.max_group_participants {
            return Err(invalid(format!(
                "A group may have at most {} participants (conversations.max_group_participants).",
                self.rules.max_group_participants
            )));
        }
        for log in [owner, user] {
            let note = self.note(log, AuditAction::MemberAdd, audit::participant(group, user));
            note.insert("role".to_owned(), role.as_str().into());
        }
        self.join(user, &group_key(group), record, role, metadata)
    }

    /// A participant's row, if it is still the version that the preparation saw.
    fn unchanged_participant(&self, group: &ConversationId, user: &UserId, version: Seq) -> Result<ParticipantRecord> {
        match rows::participant(self.overlay, group, user)? {
            Some(participant) if self.is_current(participant.version, version) => Ok(participant),
            _ => Err(Error::changed()),
        }
    }

    fn put_participant(
        &mut self,
        group: &ConversationId,
        user: &UserId,
        mut participant: ParticipantRecord,
    ) -> Result<()> {
        self.remember_group(group)?;
        participant.version = self.seq;
        participant.updated = self.now;
        self.put(Family::Participants, keys::participant(group, user), participant.encode()?);
        Ok(())
    }

    /// Notes that the participants, or their roles, are others now.
    fn bump_group(&mut self, group: &ConversationId, participants: i32) -> Result<()> {
        let Some(mut record) = rows::group(self.overlay, group)? else { return Ok(()) };
        record.version = self.seq;
        record.participants =
            record.participants.checked_add_signed(participants).expect("a group counts who takes part in it");
        if record.participants == 0 {
            self.overlay.delete(Family::Groups, group.as_str().as_bytes().to_vec());
            return Ok(());
        }
        self.put_group(group, &record)
    }

    /// Changes a participant's role or metadata.
    pub(super) fn set_participant(
        &mut self,
        change: ParticipantChange<'_>,
        version: Seq,
        role: Option<Role>,
        metadata: Option<&Option<String>>,
    ) -> Result<()> {
        let ParticipantChange { actor, owner, group, user } = change;
        let mut participant = self.unchanged_participant(group, user, version)?;
        let own = self.role_of_owner(change)?;
        if let Some(metadata) = metadata {
            if user != owner && !actor.admin {
                return Err(forbidden("Only one's own metadata in a group may be changed."));
            }
            participant.metadata.clone_from(metadata);
        }
        if let Some(role) = role
            && role != participant.role
        {
            if own != Role::Owner {
                return Err(forbidden("Only a group's owner may change roles."));
            }
            if participant.role == Role::Owner {
                return Err(invalid("Hand the group over by making another participant its owner."));
            }
            if role == Role::Owner {
                self.dethrone(group)?;
            }
            participant.role = role;
            for log in [owner, user] {
                let note = self.note(log, AuditAction::MemberRole, audit::participant(group, user));
                note.insert("role".to_owned(), role.as_str().into());
            }
        }
        self.put_participant(group, user, participant)?;
        self.bump_group(group, 0)?;
        self.log_to_participants(group, ChangeKind::ParticipantChanged)
    }

    /// The owner becomes an admin: a group has one owner.
    fn dethrone(&mut self, group: &ConversationId) -> Result<()> {
        for (user, mut participant) in rows::participants(self.overlay, group)? {
            if participant.role == Role::Owner {
                participant.role = Role::Admin;
                self.put_participant(group, &user, participant)?;
            }
        }
        Ok(())
    }

    /// Removes a participant, or leaves.
    pub(super) fn remove_participant(&mut self, change: ParticipantChange<'_>, version: Seq) -> Result<()> {
        let ParticipantChange { owner, group, user, .. } = change;
        let participant = self.unchanged_participant(group, user, version)?;
        if user != owner {
            match self.role_of_owner(change)? {
                Role::Member => return Err(forbidden("Only a group's owner and admins may remove participants.")),
                Role::Admin if participant.role == Role::Owner => {
                    return Err(forbidden("A group's owner cannot be removed, only leave."));
                }
                Role::Admin | Role::Owner => {}
            }
        }
        let action = if user == owner { AuditAction::MemberLeave } else { AuditAction::MemberRemove };
        for log in [owner, user] {
            self.note(log, action, audit::participant(group, user));
        }
        let key = group_key(group);
        // A user who leaves keeps the metadata as it is now, whatever becomes of the group's.
        let metadata = rows::group(self.overlay, group)?.and_then(|group| group.metadata);
        self.put_metadata(user, &key, metadata)?;
        self.leave(group, user)?;
        match rows::conversation(self.overlay, user, &key)? {
            // The copies stay, and with them the view of the conversation.
            Some(mut row) if row.first.is_some() => {
                row.joined = false;
                row.metadata = None;
                self.put_conversation(user, &key, row)?;
            }
            _ => self.delete_conversation_row(user, &key)?,
        }
        self.log(user, ChangeKind::ParticipantRemoved, &key, None)
    }

    /// Takes a participant out of a group; when its owner goes, the oldest admin, else the oldest participant, follows.
    pub(super) fn leave(&mut self, group: &ConversationId, user: &UserId) -> Result<()> {
        let Some(leaving) = rows::participant(self.overlay, group, user)? else { return Ok(()) };
        self.remember_group(group)?;
        self.overlay.delete(Family::Participants, keys::participant(group, user));
        if leaving.role == Role::Owner {
            let heir = rows::participants(self.overlay, group)?
                .into_iter()
                .min_by_key(|(user, participant)| (participant.role != Role::Admin, participant.created, user.clone()));
            if let Some((heir, mut participant)) = heir {
                participant.role = Role::Owner;
                self.put_participant(group, &heir, participant)?;
            }
        }
        self.bump_group(group, -1)?;
        self.doom_unsent(user, &group_key(group))?;
        self.log_to_participants(group, ChangeKind::ParticipantRemoved)
    }
}
