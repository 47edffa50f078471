//! `POST /messages`: one message, without SQL.
//!
//! Invariant: the same proposal as an INSERT of the same row.

use kalamdb_protocol::{SendMessageRequest, SendMessageResponse, SendStatus};
use kalamdb_store::{Change, ErrorKind, Idempotency, NewMessage, Proposal, Receipt, Store};
use sha2::{Digest, Sha256};

use super::{ATTEMPTS, Prepared, Preparing, actor};
use crate::{Caller, Error, Result, read::Reader};

/// Sends a message; a repeated `idempotency_key` gets the first answer.
pub(crate) async fn send(
    store: &Store,
    reader: &Reader,
    caller: &Caller,
    message: SendMessageRequest,
    idempotency_key: Option<String>,
) -> Result<SendMessageResponse> {
    let idempotency = match idempotency_key {
        Some(key) => Some(Idempotency { key, request_hash: request_hash(&message)? }),
        None => None,
    };
    if let Some(idempotency) = &idempotency
        && let Some(receipt) = store.earlier_receipt(&caller.user, idempotency)?
    {
        return response(receipt);
    }
    let change = Change::Send(new_message(caller, message)?);
    let mut attempt = 1;
    loop {
        let mut prepared = Prepared { changes: vec![change.clone()], ..Prepared::default() };
        if matches!(&change, Change::Send(message) if message.msg_id.is_some()) {
            let snapshot = store.snapshot();
            let view = reader.view(caller, snapshot.clone());
            Preparing { snapshot: &snapshot, view: &view }.check_given_ids(&mut prepared).await?;
        }
        let proposal = Proposal {
            actor: actor(caller),
            idempotency: idempotency.clone(),
            expect: prepared.expect,
            changes: prepared.changes,
        };
        match store.commit(proposal).await {
            Err(error) if error.kind == ErrorKind::Changed && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
            Ok(receipt) => return response(receipt),
        }
    }
}

fn response(receipt: Receipt) -> Result<SendMessageResponse> {
    let sent = receipt.sent.into_iter().next().ok_or_else(|| Error::fault("a send without a receipt"))?;
    Ok(SendMessageResponse {
        msg_id: sent.msg_id,
        conversation_id: sent.conversation.id,
        timestamp: sent.timestamp,
        status: SendStatus::Stored,
    })
}

fn request_hash(message: &SendMessageRequest) -> Result<[u8; 32]> {
    let bytes = serde_json::to_vec(message).map_err(|_| Error::fault("a message that does not serialise"))?;
    Ok(Sha256::digest(bytes).into())
}

fn new_message(caller: &Caller, message: SendMessageRequest) -> Result<NewMessage> {
    let metadata = message.metadata.map(|metadata| serde_json::to_string(&metadata)).transpose();
    Ok(NewMessage {
        owner: caller.user.clone(),
        conversation: message.conversation_id,
        kind: message.conversation_type,
        from: message.from,
        msg_id: message.msg_id,
        timestamp: message.timestamp,
        content: message.content,
        content_ref: message.content_ref,
        metadata: metadata.map_err(|_| Error::fault("metadata that does not serialise"))?,
    })
}
