//! `docs/format.md` against the program: what it names is what there is, and its instances are right.
//!
//! Invariant: the page is read as a reader has it; nothing in it is made from the program.

use std::{collections::BTreeSet, ops::ControlFlow};

use super::{
    Fixture, HOUR, ai,
    formats::{AT, commands, hex},
    group, id,
    replay::local,
};
use crate::{
    command::{Entry, ReleaseIntents},
    database::Read,
    due::{AT_ONCE, Due},
    keys::{self, Family, Key},
    paths,
    records::{GroupRecord, RECORDS, Record},
    segment::DECODED_BYTES,
    segment_schema,
};

const PAGE: &str = include_str!("../../../../docs/format.md");

/// The rows of the table whose first column has that name.
fn table(first_column: &str) -> Vec<Vec<&'static str>> {
    let head = format!("| {first_column} |");
    let rows = PAGE.lines().skip_while(|line| !line.starts_with(&head)).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()).collect()
}

/// The first bytes that a text shows, without the spaces between them.
fn bytes(cell: &str) -> String {
    cell.split('`').next().unwrap_or_default().replace(' ', "")
}

/// The key that the page shows an instance of.
fn instance(family: Family) -> Key {
    let (ann, conversation, path) = (id("ann"), ai("c"), "ann/msg-5.bin");
    match family {
        Family::Meta => "seq".into(),
        Family::Messages | Family::Holdings => keys::message(&ann, &conversation, 5),
        Family::MessageIds => keys::message_id(&ann, 5),
        Family::Conversations | Family::ConversationMetadata | Family::TrashConversations => {
            keys::conversation(&ann, &conversation)
        }
        Family::Groups => "g".into(),
        Family::Participants => keys::participant(&group("g").id, &ann),
        Family::Owners => "ann".into(),
        Family::Segments | Family::Deletions => keys::segment(&ann, 1),
        Family::Intents => paths::segment(&ann, 1, AT).as_str().into(),
        Family::Changes => keys::change(&ann, 7, 2),
        Family::Requests => keys::request(&ann, "key"),
        Family::Files => path.into(),
        Family::References => keys::reference(path, &ann, 5),
        Family::Trash => keys::trash(&ann, 5),
        Family::ColdTrash => keys::cold_trash(&ann, 7, 1),
        Family::Due => Due::Move { path: path.to_owned() }.key(AT_ONCE).into(),
        Family::Audit => keys::audit(&ann, 5),
    }
}

#[test]
fn it_shows_every_family_and_a_key_of_each() {
    let shown: Vec<_> = table("Family").into_iter().map(|row| (row[0], bytes(row[3]))).collect();
    assert_eq!(shown, Family::ALL.map(|family| (family.name(), hex(&instance(family)))));
}

#[test]
fn it_shows_every_record_and_its_version() {
    let shown: BTreeSet<_> = table("Record").into_iter().map(|row| (row[0], row[1].parse().unwrap())).collect();
    assert_eq!(shown, RECORDS.iter().copied().collect());
    let record = GroupRecord { version: 7, created: AT, metadata: None, participants: 2 };
    let value = PAGE.split_once("is `01 07 ").unwrap().1;
    assert_eq!(format!("0107{}", bytes(value)), hex(&record.encode().unwrap()));
}

#[test]
fn it_shows_every_command_and_the_bytes_of_one() {
    let shown: Vec<_> = table("Number").into_iter().map(|row| (row[0].parse().unwrap(), row[1].to_owned())).collect();
    let names = commands().into_iter().map(|(command, _)| {
        let text = format!("{command:?}");
        text.split('(').next().unwrap().to_owned()
    });
    assert_eq!(shown, (0..).zip(names).collect::<Vec<(u32, String)>>());
    let paths = vec![paths::segment(&id("ann"), 1, AT)];
    let entry = Entry { seq: 3, time: AT, command: ReleaseIntents { paths }.into() };
    let value = PAGE.split_once("is\n`01 ").unwrap().1;
    assert_eq!(format!("01{}", bytes(value)), hex(&entry.encode().unwrap()));
    assert!(PAGE.contains(&format!("({}), the commit's number", Entry::VERSION)));
}

#[test]
fn it_shows_the_columns_of_a_segment() {
    let shown: Vec<_> = table("Column").into_iter().map(|row| (row[0], row[1].to_owned(), row[2] == "yes")).collect();
    let schema = segment_schema();
    let fields = schema.fields().iter();
    let columns = fields.map(|field| (field.name().as_str(), field.data_type().to_string(), field.is_nullable()));
    assert_eq!(shown, columns.collect::<Vec<_>>());
    assert!(PAGE.contains(&format!("`{DECODED_BYTES}`")));
}

#[test]
fn it_shows_what_files_are_called() {
    let (ann, c) = (id("ann"), ai("c"));
    let named = [
        paths::segment(&ann, 1, AT),
        paths::text(&ann, &c, 5, None),
        paths::text(&ann, &c, 5, Some(7)),
        paths::media(&ann, &c, 5, "png"),
        paths::thumbnail(&ann, &c, 5, "webp"),
        paths::text(&ann, &group("g"), 5, None),
    ];
    let shown: Vec<_> = table("File").into_iter().map(|row| row[1]).collect();
    assert_eq!(shown, named);
    assert_eq!((paths::owner(&id("Bob")), paths::owner(&id("auth0|123"))), ("%42ob".into(), "auth0%7c123".into()));
    assert!(PAGE.contains("(`Bob` is `%42ob`, `auth0|123` is `auth0%7c123`)"));
}

#[test]
fn it_shows_what_can_be_due() {
    let (owner, conversation, path) = (id("ann"), ai("c"), String::new());
    let all = [
        Due::Move { path: path.clone() },
        Due::Removal { path: path.clone() },
        Due::Trash { owner: owner.clone(), msg_id: 5 },
        Due::ColdTrash { owner: owner.clone(), deletion: 7, segment: 1 },
        Due::Holding { owner: owner.clone(), deletion: 7, conversation: conversation.clone(), msg_id: 5 },
        Due::Conversation { owner, conversation },
        Due::Upload { path },
    ];
    let shown: Vec<_> = table("Kind").into_iter().map(|row| row[0].parse::<u8>().unwrap()).collect();
    assert_eq!(shown, all.map(|due| due.key(AT_ONCE)[8]));
}

#[tokio::test]
async fn it_shows_every_single_value() {
    let fixture = Fixture::new();
    fixture.send("ann", &ai("c"), "hello").await.unwrap();
    fixture.store.forget(HOUR).unwrap();
    fixture.later(2 * HOUR);
    fixture.send("ann", &ai("c"), "hello again").await.unwrap();
    fixture.store.forget(HOUR).unwrap();
    let mut stored = BTreeSet::new();
    let database = &fixture.store.inner.database;
    database
        .scan(Family::Meta, &[], &[u8::MAX], false, &mut |key, _| {
            stored.insert(match local(key) {
                Some(name) => (name.to_owned(), "the folder's"),
                None => (String::from_utf8(key.to_vec()).unwrap(), "the log's"),
            });
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    let name = |row: &[&str]| row[0].split('`').next().unwrap().to_owned();
    let shown: BTreeSet<_> = table("Name").into_iter().map(|row| (name(&row), row[2])).collect();
    assert_eq!(shown, stored);
}
