//! The model: what the database should hold, as plain maps.
//!
//! Invariant: knows no SQL and no server; each method is a rule of writing in its simplest form.

use std::collections::BTreeMap;

use kalamdb_protocol::{ConversationType, ErrorCode, Role};

/// A conversation's id and type.
pub type Key = (String, ConversationType);

/// One user's copy of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub key: Key,
    pub from: String,
    pub content: String,
}

/// One user's row of a conversation that they take part in.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    pub last_read: Option<i64>,
    /// They left this group once and kept copies: what they had read then is not compared.
    pub left_before: bool,
}

/// One user's schema.
#[derive(Debug, Default)]
struct Schema {
    messages: BTreeMap<i64, Message>,
    conversations: BTreeMap<Key, Conversation>,
}

/// Everything.
#[derive(Debug, Default)]
pub struct World {
    schemas: BTreeMap<String, Schema>,
    /// Participants in the order in which they joined.
    groups: BTreeMap<String, Vec<(String, Role)>>,
}

impl World {
    pub fn messages(&self, user: &str) -> impl Iterator<Item = (i64, &Message)> {
        self.schemas.get(user).into_iter().flat_map(|schema| schema.messages.iter().map(|(id, message)| (*id, message)))
    }

    pub fn conversations(&self, user: &str) -> impl Iterator<Item = (&Key, &Conversation)> {
        self.schemas.get(user).into_iter().flat_map(|schema| &schema.conversations)
    }

    /// All participants of the groups that a user is in, by group and name.
    pub fn visible_participants(&self, user: &str) -> Vec<(String, String, Role)> {
        let mut visible = Vec::new();
        for (group, participants) in self.groups.iter().filter(|(group, _)| self.role(group, user).is_some()) {
            visible.extend(participants.iter().map(|(participant, role)| (group.clone(), participant.clone(), *role)));
        }
        visible.sort();
        visible
    }

    pub fn groups(&self) -> impl Iterator<Item = &String> {
        self.groups.keys()
    }

    pub fn role(&self, group: &str, user: &str) -> Option<Role> {
        self.groups.get(group)?.iter().find(|(participant, _)| participant == user).map(|(_, role)| *role)
    }

    pub fn participants(&self, group: &str) -> Vec<String> {
        self.groups.get(group).into_iter().flatten().map(|(participant, _)| participant.clone()).collect()
    }

    pub fn unread(&self, user: &str, key: &Key) -> usize {
        let read = self.schemas[user].conversations[key].last_read.unwrap_or(0);
        self.messages(user).filter(|(id, message)| message.key == *key && *id > read && message.from != user).count()
    }

    /// The type that a message gets whose type is absent.
    pub fn resolve(&self, user: &str, id: &str) -> ConversationType {
        if self.role(id, user).is_some() { ConversationType::Group } else { ConversationType::Ai }
    }

    /// Whether the message may be sent.
    pub fn may_send(&self, user: &str, key: &Key, from: &str) -> Result<(), ErrorCode> {
        let group = key.1 == ConversationType::Group;
        if group && (self.role(&key.0, user).is_none() || from != user) { Err(ErrorCode::Forbidden) } else { Ok(()) }
    }

    pub fn send(&mut self, user: &str, key: &Key, id: i64, from: &str, content: &str) {
        let receivers =
            if key.1 == ConversationType::Group { self.participants(&key.0) } else { vec![user.to_owned()] };
        for receiver in receivers {
            let schema = self.schemas.entry(receiver).or_default();
            schema.conversations.entry(key.clone()).or_default();
            let message = Message { key: key.clone(), from: from.to_owned(), content: content.to_owned() };
            assert!(schema.messages.insert(id, message).is_none(), "the id {id} was given twice");
        }
    }

    /// Gives each of a user's messages named a new text, in every current participant's copy.
    pub fn edit(&mut self, user: &str, texts: &[(i64, String)]) -> Result<u64, ErrorCode> {
        let own = &self.schemas.entry(user.to_owned()).or_default().messages;
        let keys: Vec<Key> = texts.iter().map(|(id, _)| own[id].key.clone()).collect();
        let foreign = |id: &i64| own[id].key.1 == ConversationType::Group && own[id].from != user;
        if texts.iter().any(|(id, _)| foreign(id)) {
            return Err(ErrorCode::Forbidden);
        }
        for ((id, text), key) in texts.iter().zip(keys) {
            let receivers =
                if key.1 == ConversationType::Group { self.participants(&key.0) } else { vec![user.to_owned()] };
            for receiver in receivers {
                if let Some(copy) = self.schemas.entry(receiver).or_default().messages.get_mut(id) {
                    copy.content.clone_from(text);
                }
            }
        }
        Ok(texts.len() as u64)
    }

    pub fn delete(&mut self, user: &str, ids: &[i64]) -> u64 {
        let messages = &mut self.schemas.entry(user.to_owned()).or_default().messages;
        ids.iter().filter(|id| messages.remove(id).is_some()).count() as u64
    }

    pub fn create(&mut self, user: &str, key: &Key) -> Result<u64, ErrorCode> {
        let schema = self.schemas.entry(user.to_owned()).or_default();
        let taken = match key.1 {
            ConversationType::Ai => schema.conversations.contains_key(key),
            ConversationType::Group => self.groups.contains_key(&key.0),
        };
        if taken {
            return Err(ErrorCode::Conflict);
        }
        schema.conversations.insert(key.clone(), Conversation::default());
        if key.1 == ConversationType::Group {
            self.groups.insert(key.0.clone(), vec![(user.to_owned(), Role::Owner)]);
        }
        Ok(1)
    }

    pub fn delete_conversation(&mut self, user: &str, key: &Key) -> u64 {
        let schema = self.schemas.entry(user.to_owned()).or_default();
        if schema.conversations.remove(key).is_none() {
            return 0;
        }
        schema.messages.retain(|_, message| message.key != *key);
        if key.1 == ConversationType::Group {
            self.drop_participant(&key.0, user);
        }
        1
    }

    pub fn set_read(&mut self, user: &str, key: &Key, read: Option<i64>) {
        let schema = self.schemas.entry(user.to_owned()).or_default();
        schema.conversations.get_mut(key).expect("an existing conversation").last_read = read;
    }

    pub fn add_participant(&mut self, by: &str, group: &str, user: &str) -> Result<u64, ErrorCode> {
        match self.role(group, by) {
            Some(Role::Owner | Role::Admin) => {}
            Some(Role::Member) | None => return Err(ErrorCode::Forbidden),
        }
        if self.role(group, user).is_some() {
            return Err(ErrorCode::Conflict);
        }
        self.groups.get_mut(group).expect("it has participants").push((user.to_owned(), Role::Member));
        let key = (group.to_owned(), ConversationType::Group);
        let schema = self.schemas.entry(user.to_owned()).or_default();
        let left_before = schema.messages.values().any(|message| message.key == key);
        schema.conversations.insert(key, Conversation { last_read: None, left_before });
        Ok(1)
    }

    pub fn remove_participant(&mut self, by: &str, group: &str, user: &str) -> Result<u64, ErrorCode> {
        let (Some(role), Some(_)) = (self.role(group, by), self.role(group, user)) else {
            // A row that one does not see, or that is not there.
            return Ok(0);
        };
        if by != user && role == Role::Member {
            return Err(ErrorCode::Forbidden);
        }
        self.drop_participant(group, user);
        let key = (group.to_owned(), ConversationType::Group);
        self.schemas.entry(user.to_owned()).or_default().conversations.remove(&key);
        Ok(1)
    }

    pub fn set_role(&mut self, by: &str, group: &str, user: &str, role: Role) -> Result<u64, ErrorCode> {
        let (Some(own), Some(_)) = (self.role(group, by), self.role(group, user)) else { return Ok(0) };
        if own != Role::Owner {
            return Err(ErrorCode::Forbidden);
        }
        let participants = self.groups.get_mut(group).expect("it has participants");
        participants.iter_mut().filter(|(participant, _)| participant == user).for_each(|(_, old)| *old = role);
        Ok(1)
    }

    /// Takes somebody out of a group; when they owned it, the oldest admin, else the oldest participant, follows.
    fn drop_participant(&mut self, group: &str, user: &str) {
        let participants = self.groups.get_mut(group).expect("they are in it");
        let place = participants.iter().position(|(participant, _)| participant == user).expect("they are in it");
        let (_, role) = participants.remove(place);
        if participants.is_empty() {
            self.groups.remove(group);
        } else if role == Role::Owner {
            let heir = participants.iter().position(|(_, role)| *role == Role::Admin).unwrap_or(0);
            participants[heir].1 = Role::Owner;
        }
    }
}
