//! What is stored stays readable: bytes of every record and command in each version that was ever written.
//!
//! Invariant: a line of bytes here is never changed, only added to. A test that fails says that an encoding has changed
//! without a new version; folders that hold the old one exist.

use std::{collections::BTreeSet, fmt::Debug};

use kalamdb_protocol::{AuditAction, ConversationType, Role};

use super::{ai, group, id, message};
use crate::{
    Actor, Change, ChangeKind, ColdSummary, Expect, FileKind, Idempotency, Message, NewMessage, Place, Proposal,
    Receipt, Sent,
    command::{
        AddFile, Command, CompactedSegment, Entry, Expire, Forget, Moved, PublishCompaction, PublishSegment,
        ReleaseIntents, ReserveSegment, RowVersion, SetRules, Spooled, SpooledThumbnail, Texts, TrimAudit, Upload,
        Write,
    },
    records::*,
};

/// Some time of 2025, as every one of these bytes has it.
pub(super) const AT: i64 = 1_760_313_600_000_000;

pub(super) fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A value that is stored, with the bytes of each version of its encoding, the first one first.
struct Stored<'a> {
    name: &'static str,
    version: u8,
    encoded: Vec<u8>,
    sample: String,
    decode: &'a dyn Fn(&[u8]) -> String,
    versions: &'a [&'a str],
}

impl Stored<'_> {
    fn check(&self) {
        let Self { name, version, versions, .. } = self;
        assert_eq!(
            versions.len(),
            usize::from(*version),
            "{name}: every version has its bytes here; those of version {version}: {}",
            hex(&self.encoded)
        );
        assert_eq!(
            versions.last(),
            Some(&hex(&self.encoded).as_str()),
            "{name}: its encoding has changed; give it a new version, and read the old one"
        );
        for (version, bytes) in (1_u8..).zip(*versions) {
            let bytes = unhex(bytes);
            assert_eq!(bytes[0], version, "{name}");
            assert_eq!((self.decode)(&bytes), self.sample, "{name}, version {version}");
        }
    }
}

/// Checks a record, and notes that it was.
fn check<R: Record + Debug>(checked: &mut BTreeSet<(&'static str, u8)>, sample: &R, versions: &[&str]) {
    Stored {
        name: R::NAME,
        version: R::VERSION,
        encoded: sample.encode().unwrap(),
        sample: format!("{sample:?}"),
        decode: &|bytes| format!("{:?}", R::decode(bytes).unwrap()),
        versions,
    }
    .check();
    let unknown = [&[R::VERSION + 1], &sample.encode().unwrap()[1..]].concat();
    assert!(R::decode(&unknown).is_err() && R::decode(&[]).is_err(), "{}", R::NAME);
    checked.insert((R::NAME, R::VERSION));
}

fn message_record() -> MessageRecord {
    MessageRecord {
        from: "ann".to_owned(),
        timestamp: AT,
        content: "héllo".to_owned(),
        content_ref: Some("ann/msg-1.bin".to_owned()),
        metadata: Some("{\"a\":1}".to_owned()),
    }
}

fn conversation_record() -> ConversationRecord {
    ConversationRecord {
        version: 300,
        first: Some(1),
        last: Some(AT),
        shown_last: Some(None),
        created: AT,
        updated: AT + 1,
        metadata: Some("{}".to_owned()),
        last_read: None,
        unread: 2,
        joined: true,
    }
}

fn segment_record() -> SegmentRecord {
    SegmentRecord {
        path: "ann/batch-20251013-001.parquet".to_owned(),
        rows: 2,
        bytes: 4_096,
        created: AT,
        msg_ids: (1, AT),
        timestamps: (-1, AT),
        conversations: (ai("c"), group("g")),
    }
}

fn file_record() -> FileRecord {
    FileRecord {
        owner: id("ann"),
        conversation: group("g"),
        kind: FileKind::Media,
        content_type: "image/png".to_owned(),
        bytes: 70_000,
        created: AT,
        thumbnail: Some("t".to_owned()),
        thumbnail_of: None,
        moving_from: Some("7".to_owned()),
        unsent: Some(Unsent { until: AT, number: 5 }),
        doomed: false,
    }
}

fn rules() -> RulesRecord {
    RulesRecord {
        default_type: ConversationType::Group,
        max_group_participants: 100,
        trash_retention: Some(86_400_000_000),
        upload_ttl: 3_600_000_000,
    }
}

#[test]
fn the_rows_of_a_schema_keep_their_encodings() {
    let mut checked = BTreeSet::new();
    let message = message_record();
    Stored {
        name: "message",
        version: MessageRecord::VERSION,
        encoded: message.encode(300).unwrap(),
        sample: format!("{:?}", (300, &message)),
        decode: &|bytes| format!("{:?}", MessageRecord::decode(bytes).unwrap()),
        versions: &["01000000000000012c03616e6e808092addebfa0060668c3a96c6c6f010d616e6e2f6d73672d312e62696e01077b2261\
             223a317d"],
    }
    .check();
    checked.insert(("message", MessageRecord::VERSION));
    check(
        &mut checked,
        &conversation_record(),
        &["01ac02010201808092addebfa0060100808092addebfa006828092addebfa00601027b7d000201"],
    );
    check(&mut checked, &MetadataRecord { text: "{}".to_owned() }, &["01027b7d"]);
    let record = GroupRecord { version: 7, created: AT, metadata: None, participants: 2 };
    check(&mut checked, &record, &["0107808092addebfa0060002"]);
    let metadata = Some("{}".to_owned());
    let record = ParticipantRecord { version: 7, role: Role::Admin, created: AT, updated: AT, metadata };
    check(&mut checked, &record, &["010701808092addebfa006808092addebfa00601027b7d"]);
    let record = OwnerRecord { change: 9, cold_version: 8, hot_messages: 7, hot_since: Some(AT), last_segment: 6 };
    check(&mut checked, &record, &["0109080701808092addebfa00606"]);
    let record = ChangeRecord {
        kind: ChangeKind::MessageEdited,
        conversation_id: "c".to_owned(),
        conversation_type: ConversationType::Ai,
        msg_id: Some(AT),
    };
    check(&mut checked, &record, &["010101630001808092addebfa006"]);
    let record = TrashRecord {
        version: 7,
        conversation: ai("c"),
        message: message_record(),
        deleted_at: AT,
        expires_at: AT + 1,
    };
    check(
        &mut checked,
        &record,
        &["010701630003616e6e808092addebfa0060668c3a96c6c6f010d616e6e2f6d73672d312e62696e01077b2261223a317d\
             808092addebfa006828092addebfa006"],
    );
    let record = TrashConversationRecord { conversation: conversation_record(), expires_at: AT };
    check(
        &mut checked,
        &record,
        &["01ac02010201808092addebfa0060100808092addebfa006828092addebfa00601027b7d000201808092addebfa006"],
    );
    let record = AuditRecord {
        timestamp: AT,
        actor: "root".to_owned(),
        action: AuditAction::AdminDelete,
        target: "ann.messages".to_owned(),
        details: "{}".to_owned(),
    };
    check(&mut checked, &record, &["01808092addebfa00604726f6f740b0c616e6e2e6d65737361676573027b7d"]);
    files_and_segments(&mut checked);
    assert_eq!(checked, RECORDS.iter().copied().collect(), "every record has its bytes here");
}

fn files_and_segments(checked: &mut BTreeSet<(&'static str, u8)>) {
    check(
        checked,
        &segment_record(),
        &["011e616e6e2f62617463682d32303235313031332d3030312e70617271756574028020808092addebfa00602808092ad\
             debfa00601808092addebfa006016300016701"],
    );
    check(checked, &IntentRecord { created: AT }, &["01808092addebfa006"]);
    check(
        checked,
        &file_record(),
        &["0103616e6e0167010109696d6167652f706e67f0a204808092addebfa0060101740001013701808092addebfa0060a00"],
    );
    check(checked, &ReferenceRecord::Hidden { deletion: 300 }, &["0101ac02"]);
    let record = ColdTrashRecord { deleted_at: AT, expires_at: AT + 1, positions: vec![1, 2, 3] };
    check(checked, &record, &["01808092addebfa006828092addebfa00603010203"]);
    check(checked, &RemovalRecord { released: 300 }, &["01ac02"]);
    let sent = vec![Sent { msg_id: 3, conversation: ai("c"), timestamp: 9, conversation_created: false }];
    let receipt = Receipt { seq: 5, sent, rows_affected: 1 };
    let hash = hex(&[7; 32]);
    let versions = [format!("0114{hash}05010601630012"), format!("0214{hash}050106016300120001")];
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    check(checked, &RequestRecord { expires: 10, request_hash: [7; 32], receipt }, &versions);
    check(checked, &rules(), &["010164018080bbdd830580909de91a"]);
}

/// One of each kind of change.
fn changes() -> Vec<Change> {
    let (owner, msg_id, from) = (id("ann"), 5, "ann".to_owned());
    let (conversation, key) = (ai("c"), group("g"));
    let cold = Place::Cold { segment: 1, position: 2 };
    let old = Message {
        msg_id,
        conversation: ai("c"),
        from: from.clone(),
        timestamp: AT,
        content: "old".to_owned(),
        content_ref: None,
        metadata: None,
    };
    vec![
        Change::Send(NewMessage { msg_id: Some(msg_id), timestamp: Some(AT), ..message("ann", &key, "text") }),
        Change::Edit {
            owner: owner.clone(),
            message: old,
            content: Some("new".to_owned()),
            metadata: Some(None),
            copies: vec![(owner.clone(), Place::Hot { version: 3 }), (id("bob"), cold)],
        },
        Change::Delete {
            owner: owner.clone(),
            msg_id,
            conversation: conversation.clone(),
            from: from.clone(),
            place: cold,
        },
        Change::Restore {
            owner: owner.clone(),
            msg_id,
            conversation: conversation.clone(),
            from,
            place: Place::TrashedHot { version: 3 },
        },
        Change::Purge {
            owner: owner.clone(),
            msg_id,
            conversation: conversation.clone(),
            place: Place::TrashedCold { deletion: 3, segment: 1, position: 2 },
        },
        Change::AdminStatement {
            log: owner.clone(),
            action: AuditAction::AdminSelect,
            target: "ann.messages".to_owned(),
        },
        Change::Cold(ColdSummary { owner: owner.clone(), conversation, msg_ids: Some((1, 2)) }),
        Change::CreateConversation {
            owner: owner.clone(),
            id: key.id.clone(),
            kind: None,
            created: None,
            metadata: None,
        },
        Change::SetConversation {
            owner: owner.clone(),
            key: key.clone(),
            version: 3,
            metadata: Some(None),
            last_msg_id: Some(Some(5)),
            last_read: Some((Some(5), 0)),
        },
        Change::DeleteConversation {
            owner: owner.clone(),
            key: key.clone(),
            version: 3,
            cold: vec![(1, vec![(2, 4)])],
        },
        Change::AddParticipant {
            owner: owner.clone(),
            group: key.id.clone(),
            user: id("bob"),
            role: Some(Role::Member),
            metadata: None,
        },
        Change::SetParticipant {
            owner: owner.clone(),
            group: key.id.clone(),
            user: id("bob"),
            version: 3,
            role: Some(Role::Admin),
            metadata: None,
        },
        Change::RemoveParticipant { owner, group: key.id, user: id("bob"), version: 3 },
    ]
}

/// One of each command, in their order, and the bytes of its entry.
pub(super) fn commands() -> Vec<(Command, &'static str)> {
    let owner = id("ann");
    let spooled = |name: &str| Spooled { name: name.to_owned(), bytes: 3_000 };
    let proposal = Proposal {
        actor: Actor { user: owner.clone(), admin: false },
        idempotency: Some(Idempotency { key: "k".to_owned(), request_hash: [7; 32], rows_affected: 1 }),
        expect: vec![
            Expect::Cold { owner: owner.clone(), version: 3 },
            Expect::Group { group: group("g").id, version: 4 },
        ],
        changes: changes(),
    };
    let upload = Upload {
        owner: owner.clone(),
        conversation: ai("c").id,
        conversation_type: None,
        file: spooled("1"),
        content_type: "image/png".to_owned(),
        extension: "png".to_owned(),
        thumbnail: Some(SpooledThumbnail {
            file: spooled("2"),
            content_type: "image/webp".to_owned(),
            extension: "webp".to_owned(),
        }),
    };
    let paths = vec!["ann/msg-5.bin".to_owned()];
    let rows = vec![RowVersion { conversation: ai("c"), msg_id: 5, version: 3 }];
    let inputs = vec![CompactedSegment { number: 1, moved_to: vec![0, u32::MAX] }];
    vec![
        (
            Write { proposal, texts: Texts::from([(0, spooled("1"))]) }.into(),
            "010000000000000003000640fef2d240000003616e6e0001016b07070707070707070707070707070707070707070707\
             0707070707070707070701020003616e6e03010167040d0003616e6e0167010100010a01808092addebfa00604746578\
             7400000103616e6e0a01630003616e6e808092addebfa006036f6c64000001036e657701000203616e6e000303626f62\
             0101020203616e6e0a01630003616e6e0101020303616e6e0a01630003616e6e02030403616e6e0a0163000303010205\
             03616e6e080c616e6e2e6d657373616765730603616e6e0163000102040703616e6e01670000000803616e6e01670103\
             010001010a01010a000903616e6e0167010301010102040a03616e6e016703626f620102000b03616e6e016703626f62\
             030101000c03616e6e016703626f620301000131b817",
        ),
        (
            AddFile { actor: Actor { user: owner.clone(), admin: true }, upload }.into(),
            "010000000000000003000640fef2d240000103616e6e0103616e6e0163000131b81709696d6167652f706e6703706e67\
             010132b8170a696d6167652f776562700477656270",
        ),
        (Moved { paths: paths.clone() }.into(), "010000000000000003000640fef2d2400002010d616e6e2f6d73672d352e62696e"),
        (Expire { entries: vec![vec![0, 1, 255]] }.into(), "010000000000000003000640fef2d240000301030001ff"),
        (Forget { paths: paths.clone() }.into(), "010000000000000003000640fef2d2400004010d616e6e2f6d73672d352e62696e"),
        (
            TrimAudit { owner: owner.clone(), ids: vec![AT] }.into(),
            "010000000000000003000640fef2d240000503616e6e01808092addebfa006",
        ),
        (ReserveSegment { owner: owner.clone() }.into(), "010000000000000003000640fef2d240000603616e6e"),
        (
            PublishSegment { owner: owner.clone(), number: 1, segment: segment_record(), rows }.into(),
            "010000000000000003000640fef2d240000703616e6e011e616e6e2f62617463682d32303235313031332d3030312e70\
             617271756574028020808092addebfa00602808092addebfa00601808092addebfa006016300016701010163000a03",
        ),
        (
            PublishCompaction { owner, inputs, output: Some((2, segment_record())) }.into(),
            "010000000000000003000640fef2d240000803616e6e01010200ffffffff0f01021e616e6e2f62617463682d32303235\
             313031332d3030312e70617271756574028020808092addebfa00602808092addebfa00601808092addebfa006016300\
             016701",
        ),
        (ReleaseIntents { paths }.into(), "010000000000000003000640fef2d2400009010d616e6e2f6d73672d352e62696e"),
        (SetRules { rules: rules() }.into(), "010000000000000003000640fef2d240000a0164018080bbdd830580909de91a"),
    ]
}

#[test]
fn the_log_keeps_its_encoding() {
    assert_eq!(Entry::VERSION, 1, "a new version of the log has its own bytes here, and the old ones stay readable");
    for (number, (command, bytes)) in (0..).zip(commands()) {
        let entry = Entry { seq: 3, time: AT, command };
        Stored {
            name: "entry",
            version: Entry::VERSION,
            encoded: entry.encode().unwrap(),
            sample: format!("{entry:?}"),
            decode: &|bytes| format!("{:?}", Entry::decode(bytes).unwrap()),
            versions: &[bytes],
        }
        .check();
        assert_eq!(unhex(bytes)[17], number, "commands keep their numbers");
    }
    assert!(Entry::decode(&[2]).is_err() && Entry::decode(&[1; 10]).is_err());
}
