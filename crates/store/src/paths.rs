//! Every path below the base path, built in this one file.
//!
//! Invariant: two ids never share a path, also on a disk that does not tell upper from lower case, and no id can
//! lead out of its folder: what is not `a-z 0-9 _ -` goes percent-encoded.

use kalamdb_protocol::{ConversationId, ConversationType, Micros, MsgId, UserId};
use sha2::{Digest, Sha256};

use crate::model::{ConversationKey, Seq};

/// The folder of the server's own state.
pub(crate) const STATE: &str = ".kalamdb";

/// The folder in it for files that no commit has named yet.
pub(crate) const SPOOL: &str = "spool";

/// A file name may have 255 bytes on the usual disks; beyond this an id is cut and told apart by a hash.
const MAX_FOLDER_BYTES: usize = 180;

fn folder(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-') {
            name.push(char::from(byte));
        } else {
            name.push('%');
            name.push(hex(byte >> 4));
            name.push(hex(byte & 15));
        }
    }
    if name.len() > MAX_FOLDER_BYTES {
        name.truncate(MAX_FOLDER_BYTES - 66);
        // `~` stands in no shorter name, so that a cut one is never an uncut one's.
        name.push('~');
        for byte in Sha256::digest(id.as_bytes()) {
            name.push(hex(byte >> 4));
            name.push(hex(byte & 15));
        }
    }
    name
}

/// A hexadecimal digit, in lower case: a path must not change its meaning on a disk that folds case.
fn hex(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

/// An owner's folder: `a%2bb%40x%2eorg` is `a+b@x.org`'s.
pub(crate) fn owner(owner: &UserId) -> String {
    folder(owner.as_str())
}

/// The folder of a conversation's files: the owner's for an AI conversation, `shared/conversations/g` for a group.
pub(crate) fn conversation(owner_id: &UserId, key: &ConversationKey) -> String {
    match key.kind {
        ConversationType::Ai => owner(owner_id),
        ConversationType::Group => group(&key.id),
    }
}

fn group(id: &ConversationId) -> String {
    format!("shared/conversations/{}", folder(id.as_str()))
}

/// The file of a large message: `ann/msg-5.bin`, and for the version that commit 7 wrote `ann/msg-5-7.bin`.
pub(crate) fn text(owner_id: &UserId, key: &ConversationKey, msg_id: MsgId, version: Option<Seq>) -> String {
    let folder = conversation(owner_id, key);
    match version {
        None => format!("{folder}/msg-{msg_id}.bin"),
        Some(version) => format!("{folder}/msg-{msg_id}-{version}.bin"),
    }
}

/// Whether a message's `contentRef` names its own text, of which its row has the beginning, and not an upload.
#[must_use]
pub fn holds_text(content_ref: &str) -> bool {
    content_ref.rsplit_once('/').is_some_and(|(_, name)| name.starts_with("msg-"))
}

/// The file of an upload: `ann/media-6.png`.
pub(crate) fn media(owner_id: &UserId, key: &ConversationKey, number: MsgId, extension: &str) -> String {
    format!("{}/media-{number}.{extension}", conversation(owner_id, key))
}

/// The file of its thumbnail: `ann/media-6-thumb.jpg`.
pub(crate) fn thumbnail(owner_id: &UserId, key: &ConversationKey, number: MsgId, extension: &str) -> String {
    format!("{}/media-{number}-thumb.{extension}", conversation(owner_id, key))
}

/// The path of a file in the spool, by its name: `.kalamdb/spool/17`.
pub(crate) fn spooled(name: &str) -> String {
    format!("{STATE}/{SPOOL}/{name}")
}

/// An owner's segment, by its day (UTC) and number: `ann/batch-20251013-001.parquet`.
pub(crate) fn segment(owner_id: &UserId, number: u64, now: Micros) -> String {
    let (year, month, day) = civil_date(now);
    format!("{}/batch-{year:04}{month:02}{day:02}-{number:03}.parquet", owner(owner_id))
}

/// Year, month and day of a time, UTC; the algorithm is Howard Hinnant's `civil_from_days`.
fn civil_date(micros: Micros) -> (i64, i64, i64) {
    let days = micros.div_euclid(86_400_000_000) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_folders_that_nobody_shares() {
        for (id, expected) in [
            ("user_john", "user_john"),
            ("auth0|123", "auth0%7c123"),
            ("a+b@x.org", "a%2bb%40x%2eorg"),
            ("Bob", "%42ob"),
            ("..", "%2e%2e"),
            ("a/b", "a%2fb"),
        ] {
            assert_eq!(folder(id), expected);
        }
        assert_ne!(folder("Bob").to_lowercase(), folder("bob"));
        let (one, other) = ("A".repeat(128), format!("{}B", "A".repeat(127)));
        assert!(folder(&one).len() <= MAX_FOLDER_BYTES && folder(&one) != folder(&other));
        assert_eq!(folder(&one), folder(&one).to_lowercase());
    }

    #[test]
    fn texts_and_uploads_are_told_apart() {
        let (john, id) = (UserId::new("msg-user").unwrap(), ConversationId::new("msg-1").unwrap());
        for kind in [ConversationType::Ai, ConversationType::Group] {
            let key = ConversationKey { id: id.clone(), kind };
            assert!(holds_text(&text(&john, &key, 5, None)) && holds_text(&text(&john, &key, 5, Some(7))));
            assert!(!holds_text(&media(&john, &key, 5, "png")) && !holds_text(&thumbnail(&john, &key, 5, "png")));
        }
    }

    #[test]
    fn a_segment_is_named_by_its_day_and_number() {
        let john = UserId::new("user_john").unwrap();
        assert_eq!(segment(&john, 1, 1_760_313_600_000_000), "user_john/batch-20251013-001.parquet");
        assert_eq!(segment(&john, 1234, 951_782_400_000_000), "user_john/batch-20000229-1234.parquet");
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(-1), (1969, 12, 31));
    }
}
