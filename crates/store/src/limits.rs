//! The size of a proposal: every text that a client hands over counts, whatever it is for.
//!
//! Invariant: asked once, before a proposal is queued; what passes here fits into the queue, and into one commit.

use kalamdb_protocol::{ErrorCode, MAX_ID_CHARS};

use crate::{
    Rules,
    commit::{Change, Proposal},
    error::{Error, Result},
};

/// Changes of one proposal: it is applied by one thread, in one write, while everybody else waits.
pub const MAX_CHANGES: usize = 100_000;
/// Bytes of one proposal, rows that it names as they were counted too.
pub const MAX_PROPOSAL_BYTES: usize = 64 << 20;

/// Refuses what would keep everybody else waiting, and single values that are too long.
pub(crate) fn check(proposal: &Proposal, rules: &Rules) -> Result<()> {
    if proposal.changes.len() > MAX_CHANGES || proposal.bytes() > MAX_PROPOSAL_BYTES {
        return Err(Error::refused(
            ErrorCode::PayloadTooLarge,
            format!(
                "One statement may change at most {MAX_CHANGES} rows and {} MiB; change fewer at a time.",
                MAX_PROPOSAL_BYTES >> 20
            ),
        ));
    }
    for change in &proposal.changes {
        if change.metadata().is_some_and(|metadata| metadata.len() > rules.max_metadata_bytes) {
            return Err(Error::refused(
                ErrorCode::PayloadTooLarge,
                format!(
                    "Metadata may have at most {} bytes (message.max_metadata_bytes); keep what is larger in a message \
                     or an upload.",
                    rules.max_metadata_bytes
                ),
            ));
        }
        if let Change::Send(message) = change
            && message.from.as_ref().is_some_and(|from| is_longer_than_an_id(from))
        {
            return Err(Error::refused(
                ErrorCode::InvalidValue,
                format!("`from` may have at most {MAX_ID_CHARS} characters, as a user id; keep the rest in metadata."),
            ));
        }
    }
    Ok(())
}

fn is_longer_than_an_id(text: &str) -> bool {
    // Bytes first: counting the characters of a megabyte to refuse it would be work for nothing.
    text.len() > MAX_ID_CHARS * 4 || text.chars().count() > MAX_ID_CHARS
}
