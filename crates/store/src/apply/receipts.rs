//! Requests that have a client's name: the second one of a name gets the first one's receipt.
//!
//! Invariant: whether a receipt is still remembered is decided by the commit's time. One that has expired is as good as
//! gone, whether RocksDB holds its row still or has let it go.

use kalamdb_protocol::{ErrorCode, Micros, UserId};

use super::Apply;
use crate::{
    command::{Write, Written},
    commit::{Idempotency, Proposal, Receipt},
    database::Read,
    error::{Error, Result},
    keys::{self, Family},
    records::{Record, RequestRecord},
};

/// The time for which a client's name for a request is remembered.
const REQUEST_MEMORY: Micros = 24 * 3_600 * 1_000_000;

/// The receipt of the request of that name, if there was one of the same content that is remembered at `now`.
pub(crate) fn earlier_receipt(
    read: &impl Read,
    user: &UserId,
    idempotency: &Idempotency,
    now: Micros,
) -> Result<Option<Receipt>> {
    let Some(bytes) = read.get(Family::Requests, &keys::request(user, &idempotency.key))? else { return Ok(None) };
    let request = RequestRecord::decode(&bytes)?;
    if request.expires < now {
        Ok(None)
    } else if request.request_hash == idempotency.request_hash {
        Ok(Some(request.receipt))
    } else {
        Err(Error::refused(
            ErrorCode::Conflict,
            "This Idempotency-Key was used for another request; use a new key for each request.",
        ))
    }
}

impl Apply<'_, '_> {
    /// Does what a proposal asks for, unless it was done before under the client's name for it.
    pub(super) fn write(&mut self, write: &Write) -> Result<Written> {
        let Write { proposal, texts } = write;
        if let Some(idempotency) = &proposal.idempotency
            && let Some(receipt) = earlier_receipt(self.overlay, &proposal.actor.user, idempotency, self.now)?
        {
            return Ok(Written { receipt, adopted: Vec::new() });
        }
        let receipt = self.proposal(proposal, texts)?;
        self.remember(proposal, &receipt)?;
        Ok(Written { receipt, adopted: std::mem::take(&mut self.adopted) })
    }

    fn remember(&mut self, proposal: &Proposal, receipt: &Receipt) -> Result<()> {
        let Some(idempotency) = &proposal.idempotency else { return Ok(()) };
        let record = RequestRecord {
            expires: self.now.saturating_add(REQUEST_MEMORY),
            request_hash: idempotency.request_hash,
            receipt: receipt.clone(),
        };
        let key = keys::request(&proposal.actor.user, &idempotency.key);
        self.put(Family::Requests, key, record.encode()?);
        Ok(())
    }
}
