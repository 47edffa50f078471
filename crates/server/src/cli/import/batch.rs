//! Bringing conversations to the server: look what is there, write the rest.
//!
//! Invariant: what the server has is never changed. A conversation is written from where its messages there end,
//! if they are the first ones of the file; one that differs is left alone. So an import that broke off goes on,
//! and one that is repeated does nothing.

use std::collections::{HashMap, HashSet};

use kalamdb_protocol::{ConversationId, ConversationType, ErrorCode, QueryResponse, UserId};
use serde_json::Value;

use super::file::{Conversation, Turn};
use crate::cli::{client::Client, error::Error, text::printable};

/// Messages of one INSERT: enough that the commit's sync is shared, few enough that the statement stays small.
pub(super) const STATEMENT_ROWS: usize = 400;

/// Bytes of the messages of one INSERT, below what servers accept as a request.
pub(super) const STATEMENT_BYTES: usize = 512 * 1024;

/// Copies that one INSERT makes, counting each participant's: a commit is applied whole, so it must stay small.
pub(super) const STATEMENT_COPIES: usize = 4_000;

/// Schemas looked at by one question: the server looks up a short list of owners, and goes through everybody's rows
/// for a long one.
const QUESTION_OWNERS: usize = 20;

/// Messages asked for at once when a conversation on the server is too long for one answer.
const PAGE_ROWS: usize = 200;

/// The outcome of an import, in numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Tally {
    /// Conversations looked at.
    pub conversations: u64,
    /// The number of messages written.
    pub written: u64,
    /// Messages that were there.
    pub skipped: u64,
    /// Conversations left alone, because the server's differ from the file's.
    pub differing: u64,
    /// Conversations that the server refused.
    pub refused: u64,
    /// Sentences about the last two.
    pub notes: Vec<String>,
}

/// A copy of a conversation: whose it is, and the conversation's key.
type Copy = (UserId, ConversationId, ConversationType);

/// A conversation as the server has it.
#[derive(Debug, Default)]
struct Present {
    /// A group's participants.
    participants: HashSet<UserId>,
    /// The messages of one holder, in order.
    turns: Vec<There>,
}

/// A message on the server.
#[derive(Debug, Default)]
struct There {
    from: String,
    content: String,
    /// The bytes of a large text, of which `content` is the beginning.
    full_size: Option<usize>,
}

impl There {
    /// Whether it is the file's. Of a large text the beginning and the length have to do: the rest is for those alone
    /// who have the message.
    fn is(&self, turn: &Turn) -> bool {
        let same_text = match self.full_size {
            Some(bytes) => turn.content.len() == bytes && turn.content.starts_with(&self.content),
            None => turn.content == self.content,
        };
        same_text && turn.from == self.from
    }
}

/// The work that a conversation needs.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Write the messages from this one on; the group's participants first, if that is 0.
    Write(usize),
    /// Leave it alone, because it differs.
    Leave,
}

impl Tally {
    /// Adds another tally up, but for its notes.
    pub(super) fn add(&mut self, other: &Self) {
        self.conversations += other.conversations;
        self.written += other.written;
        self.skipped += other.skipped;
        self.differing += other.differing;
        self.refused += other.refused;
    }

    fn refuse(&mut self, conversation: &Conversation, error: &Error) {
        self.refused += 1;
        self.note(conversation, &format!("the server refuses it: {error}"));
    }

    fn note(&mut self, conversation: &Conversation, what: &str) {
        self.notes.push(format!("{}: {what}", printable(conversation.id.as_str())));
    }
}

/// Brings a batch of conversations to the server.
///
/// # Errors
/// Whatever is not about one conversation: no answer, no rights, a server that has no room. What was written
/// stays written.
pub(super) async fn write(client: &Client, batch: &[Conversation]) -> Result<Tally, Error> {
    let mut tally = Tally { conversations: batch.len() as u64, ..Tally::default() };
    let present = look(client, batch).await?;
    let mut pending = Vec::new();
    for (conversation, present) in batch.iter().zip(&present) {
        match plan(conversation, present) {
            Plan::Write(start) => {
                tally.skipped += start as u64;
                if start < conversation.turns.len() {
                    match prepare_group(client, conversation, present).await {
                        Ok(()) => pending.push((conversation, start)),
                        Err(error) if is_about_the_data(&error) => tally.refuse(conversation, &error),
                        Err(error) => return Err(error),
                    }
                }
            }
            Plan::Leave => {
                tally.differing += 1;
                tally.note(conversation, "the messages that are there differ from the file's; left alone");
            }
        }
    }
    insert_all(client, &pending, &mut tally).await?;
    Ok(tally)
}

/// Writes the conversations together; if the server refuses that, one by one, to find whose fault it is.
async fn insert_all(client: &Client, pending: &[(&Conversation, usize)], tally: &mut Tally) -> Result<(), Error> {
    match insert(client, pending, tally).await {
        Err(error) if is_about_the_data(&error) => {
            if let [(conversation, _)] = pending {
                tally.refuse(conversation, &error);
                return Ok(());
            }
            for one in pending {
                // A batch of several conversations is one statement, so nothing of it was written.
                Box::pin(insert_all(client, std::slice::from_ref(one), tally)).await?;
            }
            Ok(())
        }
        other => other,
    }
}

/// Writes messages in as few statements as their bounds allow.
async fn insert(client: &Client, pending: &[(&Conversation, usize)], tally: &mut Tally) -> Result<(), Error> {
    let rows = pending
        .iter()
        .flat_map(|(conversation, start)| conversation.turns[*start..].iter().map(move |turn| (*conversation, turn)));
    let mut statement = Insert::default();
    for (conversation, turn) in rows {
        if !statement.has_room(conversation, turn) {
            tally.written += std::mem::take(&mut statement).run(client).await?;
        }
        statement.push(conversation, turn);
    }
    tally.written += statement.run(client).await?;
    Ok(())
}

/// A multi-row INSERT.
#[derive(Default)]
struct Insert {
    params: Vec<Value>,
    rows: usize,
    bytes: usize,
    copies: usize,
}

impl Insert {
    const COLUMNS: [&str; 7] =
        ["owner", "conversationId", "conversationType", "from", "timestamp", "content", "metadata"];

    fn has_room(&self, conversation: &Conversation, turn: &Turn) -> bool {
        self.rows == 0
            || (self.rows < STATEMENT_ROWS
                && self.bytes + turn.bytes() <= STATEMENT_BYTES
                && self.copies + conversation.holders().len() <= STATEMENT_COPIES)
    }

    fn push(&mut self, conversation: &Conversation, turn: &Turn) {
        self.params.extend([
            Value::from(conversation.sender(turn).as_str()),
            Value::from(conversation.id.as_str()),
            Value::from(conversation.kind.as_str()),
            Value::from(turn.from.as_str()),
            Value::from(turn.timestamp),
            Value::from(turn.content.as_str()),
            Value::from(turn.metadata.clone()),
        ]);
        self.rows += 1;
        self.bytes += turn.bytes();
        self.copies += conversation.holders().len();
    }

    async fn run(self, client: &Client) -> Result<u64, Error> {
        if self.rows == 0 {
            return Ok(0);
        }
        let rows: Vec<String> = (0..self.rows)
            .map(|row| format!("({})", placeholders(row * Self::COLUMNS.len() + 1, Self::COLUMNS.len())))
            .collect();
        let sql = format!("INSERT INTO *.messages ({}) VALUES {}", Self::COLUMNS.join(", "), rows.join(", "));
        client.write(&sql, self.params).await?;
        Ok(self.rows as u64)
    }
}

impl Turn {
    fn bytes(&self) -> usize {
        self.from.len() + self.content.len() + self.metadata.as_ref().map_or(0, String::len)
    }
}

/// Decides from where on a conversation is written.
fn plan(conversation: &Conversation, present: &Present) -> Plan {
    if conversation.turns.iter().zip(&present.turns).all(|(turn, there)| there.is(turn)) {
        // People may have gone on talking there, which is no difference.
        Plan::Write(present.turns.len().min(conversation.turns.len()))
    } else {
        Plan::Leave
    }
}

/// The participant whose copy is looked at: the first one who is in the group.
fn witness<'a>(conversation: &'a Conversation, participants: &HashSet<UserId>) -> Option<&'a UserId> {
    conversation.participants.iter().find(|user| participants.contains(*user))
}

/// Makes sure that a group and its participants are there.
async fn prepare_group(client: &Client, conversation: &Conversation, present: &Present) -> Result<(), Error> {
    // In a group with messages a participant of the file may have left since, and is not brought back.
    if conversation.kind != ConversationType::Group || !present.turns.is_empty() {
        return Ok(());
    }
    let id = Value::from(conversation.id.as_str());
    let participant = witness(conversation, &present.participants);
    let creator = participant.unwrap_or(&conversation.home);
    if participant.is_none() {
        let sql = format!(
            "INSERT INTO {}.conversations (conversationId, conversationType) VALUES ($1, 'group')",
            quoted(creator)
        );
        client.write(&sql, vec![id.clone()]).await?;
    }
    let missing: Vec<&UserId> = conversation
        .participants
        .iter()
        .filter(|user| *user != creator && !present.participants.contains(*user))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let rows: Vec<String> = (2..missing.len() + 2).map(|number| format!("($1, ${number})")).collect();
    let sql = format!(
        "INSERT INTO {}.conversationUsers (conversationId, userId) VALUES {}",
        quoted(creator),
        rows.join(", ")
    );
    let params = std::iter::once(id).chain(missing.iter().map(|user| Value::from(user.as_str()))).collect();
    client.write(&sql, params).await?;
    Ok(())
}

/// Finds out what the server has of each conversation.
async fn look(client: &Client, batch: &[Conversation]) -> Result<Vec<Present>, Error> {
    let mut present = Vec::with_capacity(batch.len());
    let mut rest = batch;
    while !rest.is_empty() {
        let (question, later) = rest.split_at(question_length(rest));
        present.extend(ask(client, question).await?);
        rest = later;
    }
    Ok(present)
}

/// The number of conversations, from the first, that have few enough holders to be asked for together; at least one.
fn question_length(conversations: &[Conversation]) -> usize {
    let mut owners = 0;
    let fits = |conversation: &&Conversation| {
        owners += conversation.holders().len();
        owners <= QUESTION_OWNERS
    };
    conversations.iter().take_while(fits).count().max(1)
}

async fn ask(client: &Client, question: &[Conversation]) -> Result<Vec<Present>, Error> {
    let mut participants = participants(client, question).await?;
    let copies: Vec<Option<Copy>> = question
        .iter()
        .map(|conversation| {
            let holder = match conversation.kind {
                ConversationType::Ai => Some(&conversation.home),
                ConversationType::Group => witness(conversation, participants.get(&conversation.id)?),
            };
            Some((holder?.clone(), conversation.id.clone(), conversation.kind))
        })
        .collect();
    let wanted: Vec<Copy> = copies.iter().flatten().cloned().collect();
    let mut turns = messages(client, &wanted).await?;
    let present = question.iter().zip(copies).map(|(conversation, copy)| Present {
        participants: match conversation.kind {
            ConversationType::Group => participants.remove(&conversation.id).unwrap_or_default(),
            ConversationType::Ai => HashSet::new(),
        },
        turns: copy.and_then(|copy| turns.remove(&copy)).unwrap_or_default(),
    });
    Ok(present.collect())
}

/// The participants of the groups asked for, as participants among them see it; none of a group that is not there.
async fn participants(
    client: &Client,
    question: &[Conversation],
) -> Result<HashMap<ConversationId, HashSet<UserId>>, Error> {
    let groups: Vec<&Conversation> = question.iter().filter(|one| one.kind == ConversationType::Group).collect();
    let mut found: HashMap<ConversationId, HashSet<UserId>> = HashMap::new();
    if groups.is_empty() {
        return Ok(found);
    }
    let owners: Vec<&UserId> = groups.iter().flat_map(|group| group.holders()).collect();
    let sql = format!(
        "SELECT DISTINCT conversationId, userId FROM *.conversationUsers \
         WHERE conversationId IN ({}) AND owner IN ({})",
        placeholders(1, groups.len()),
        placeholders(1 + groups.len(), owners.len()),
    );
    let ids = groups.iter().map(|group| Value::from(group.id.as_str()));
    let params = ids.chain(owners.iter().map(|owner| Value::from(owner.as_str()))).collect();
    let answer = client.rows(&sql, params).await?;
    if answer.truncated {
        let sentence = "The server's query.max_rows is too small for groups of this size; set it to 10000 or more.";
        return Err(Error::Server(sentence.to_owned()));
    }
    for row in answer.rows {
        let [group, user] = texts(row)?;
        found.entry(parsed(&group)?).or_default().insert(parsed(&user)?);
    }
    Ok(found)
}

/// The messages in each copy.
async fn messages(client: &Client, wanted: &[Copy]) -> Result<HashMap<Copy, Vec<There>>, Error> {
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    match read_page(client, wanted, 0, None).await {
        Ok(answer) if !answer.truncated => {
            collect(answer, &mut found)?;
            return Ok(found);
        }
        Ok(_) => {}
        Err(error) if error.code() == Some(ErrorCode::PayloadTooLarge) => {}
        Err(error) => return Err(error),
    }
    // Too much for one answer: one conversation at a time, page by page.
    for copy in wanted {
        let mut after = 0;
        loop {
            let page = read_page(client, std::slice::from_ref(copy), after, Some(PAGE_ROWS)).await?;
            let is_last = page.rows.len() < PAGE_ROWS && !page.truncated;
            match collect(page, &mut found)? {
                Some(msg_id) if !is_last => after = msg_id,
                _ => break,
            }
        }
    }
    Ok(found)
}

async fn read_page(client: &Client, wanted: &[Copy], after: i64, limit: Option<usize>) -> Result<QueryResponse, Error> {
    let limit = limit.map_or(String::new(), |rows| format!(" LIMIT {rows}"));
    let sql = format!(
        "SELECT owner, conversationId, conversationType, from, content, \
         CASE WHEN contentRef LIKE '%/msg-%.bin' THEN TRY_CAST(metadata->>'fullSize' AS BIGINT) END, msgId \
         FROM *.messages \
         WHERE conversationId IN ({}) AND owner IN ({}) AND msgId > $1 ORDER BY msgId{limit}",
        placeholders(2, wanted.len()),
        placeholders(2 + wanted.len(), wanted.len()),
    );
    let ids = wanted.iter().map(|(_, id, _)| Value::from(id.as_str()));
    let owners = wanted.iter().map(|(owner, ..)| Value::from(owner.as_str()));
    client.rows(&sql, std::iter::once(Value::from(after)).chain(ids).chain(owners).collect()).await
}

/// Adds an answer's rows to their copies; the last row's id.
fn collect(answer: QueryResponse, found: &mut HashMap<Copy, Vec<There>>) -> Result<Option<i64>, Error> {
    let mut last = None;
    for mut row in answer.rows {
        last = row.pop().and_then(|id| id.as_i64());
        let full_size = row.pop().and_then(|bytes| bytes.as_u64()).and_then(|bytes| usize::try_from(bytes).ok());
        let [owner, id, kind, from, content] = texts(row)?;
        let kind = ConversationType::parse(&kind).ok_or_else(unexpected)?;
        found.entry((parsed(&owner)?, parsed(&id)?, kind)).or_default().push(There { from, content, full_size });
    }
    Ok(last)
}

fn texts<const N: usize>(row: Vec<Value>) -> Result<[String; N], Error> {
    let texts: Option<Vec<String>> = row
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
        .collect();
    texts.and_then(|texts| texts.try_into().ok()).ok_or_else(unexpected)
}

fn parsed<T: std::str::FromStr>(id: &str) -> Result<T, Error> {
    id.parse().map_err(|_| unexpected())
}

fn unexpected() -> Error {
    Error::Server("The server's answer is not one of this version; import with the server's own program.".to_owned())
}

/// `$first, $first+1, …`
fn placeholders(first: usize, count: usize) -> String {
    let numbers: Vec<String> = (first..first + count).map(|number| format!("${number}")).collect();
    numbers.join(", ")
}

/// The user's schema, as SQL names it.
fn quoted(user: &UserId) -> String {
    format!("\"{}\"", user.as_str().replace('"', "\"\""))
}

/// Whether the server refused what was sent, so that the next conversation may well be accepted.
fn is_about_the_data(error: &Error) -> bool {
    use ErrorCode::{Conflict, Forbidden, InvalidValue, NotFound, PayloadTooLarge};
    matches!(error.code(), Some(Conflict | Forbidden | InvalidValue | NotFound | PayloadTooLarge))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::new(id).unwrap()
    }

    fn turn(from: &str, content: &str) -> Turn {
        Turn { from: from.into(), timestamp: None, content: content.into(), metadata: None }
    }

    fn group(participants: &[&str], turns: Vec<Turn>) -> Conversation {
        Conversation {
            home: user(participants[0]),
            id: ConversationId::new("g").unwrap(),
            kind: ConversationType::Group,
            participants: participants.iter().map(|id| user(id)).collect(),
            turns,
            bytes: 0,
        }
    }

    fn there(from: &str, content: &str, full_size: Option<usize>) -> There {
        There { from: from.to_owned(), content: content.to_owned(), full_size }
    }

    fn present(participants: &[&str], turns: &[(&str, &str)]) -> Present {
        Present {
            participants: participants.iter().map(|id| user(id)).collect(),
            turns: turns.iter().map(|(from, content)| there(from, content, None)).collect(),
        }
    }

    #[test]
    fn only_what_is_missing_at_the_end_is_written() {
        let file = group(&["a", "b"], vec![turn("a", "1"), turn("b", "2")]);
        assert_eq!(plan(&file, &present(&[], &[])), Plan::Write(0));
        assert_eq!(plan(&file, &present(&["a", "b"], &[("a", "1")])), Plan::Write(1));
        assert_eq!(plan(&file, &present(&["b"], &[("a", "1"), ("b", "2")])), Plan::Write(2));
        let went_on = present(&["a"], &[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(plan(&file, &went_on), Plan::Write(2));
    }

    #[test]
    fn what_differs_is_left_alone() {
        let file = group(&["a", "b"], vec![turn("a", "1"), turn("b", "2")]);
        for there in [
            present(&["a"], &[("b", "2")]),
            present(&["a"], &[("a", "1"), ("b", "two")]),
            present(&["a"], &[("b", "1")]),
        ] {
            assert_eq!(plan(&file, &there), Plan::Leave, "{there:?}");
        }
    }

    #[test]
    fn a_large_text_is_known_by_its_beginning_and_length() {
        let large = turn("a", "beginning and end");
        assert!(there("a", "beginning", Some(17)).is(&large));
        for other in [
            there("a", "beginning", Some(18)),
            there("a", "ending", Some(17)),
            there("b", "beginning", Some(17)),
            there("a", "beginning", None),
        ] {
            assert!(!other.is(&large), "{other:?}");
        }
    }

    #[test]
    fn a_question_is_about_few_owners() {
        let pairs =
            |number: usize| -> Vec<Conversation> { (0..number).map(|_| group(&["a", "b"], Vec::new())).collect() };
        assert_eq!(question_length(&pairs(3)), 3);
        assert_eq!(question_length(&pairs(30)), QUESTION_OWNERS / 2);
        let names: Vec<String> = (0..50).map(|number| format!("user_{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(question_length(&[group(&names, Vec::new())]), 1);
    }

    #[test]
    fn a_statement_has_bounds() {
        let mut statement = Insert::default();
        let pair = group(&["a", "b"], Vec::new());
        let small = turn("a", "x");
        while statement.has_room(&pair, &small) {
            statement.push(&pair, &small);
        }
        assert_eq!(statement.rows, STATEMENT_ROWS);
        let mut statement = Insert::default();
        let large = turn("a", &"x".repeat(STATEMENT_BYTES + 1));
        assert!(statement.has_room(&pair, &large), "a statement takes at least one message");
        statement.push(&pair, &large);
        assert!(!statement.has_room(&pair, &small));
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted(&user("we\"ird")), "\"we\"\"ird\"");
        assert_eq!(placeholders(3, 2), "$3, $4");
    }
}
