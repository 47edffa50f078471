//! `POST /messages`: one message, without SQL.
//!
//! Invariant: the same proposal as an INSERT of the same row.

use std::{ops::ControlFlow, sync::Arc};

use kalamdb_protocol::{SendMessageRequest, SendMessageResponse, SendStatus, to_micros};
use kalamdb_store::{Change, NewMessage, Receipt, Store};

use super::{Attempts, NamedRequest, Prepared, Preparing};
use crate::{Caller, Error, Result, read::Reader, workers::Stage};

/// Sends a message; a repeated `idempotency_key` gets the first answer.
pub(crate) async fn send(
    store: &Store,
    reader: &Reader,
    caller: &Caller,
    message: SendMessageRequest,
    idempotency_key: Option<String>,
    stage: &Arc<Stage>,
) -> Result<SendMessageResponse> {
    let name = idempotency_key.map(|key| NamedRequest::new(key, &message)).transpose()?;
    if let Some(receipt) = name.as_ref().map(|name| name.earlier(store, caller)).transpose()?.flatten() {
        return response(receipt);
    }
    let change = Change::Send(new_message(caller, message)?);
    let mut attempts = Attempts::new(store, caller, name.as_ref(), stage);
    loop {
        let mut prepared = Prepared { rows_affected: 1, changes: vec![change.clone()], ..Prepared::default() };
        if matches!(&change, Change::Send(message) if message.msg_id.is_some()) {
            let snapshot = store.snapshot();
            let view = reader.view(caller, snapshot.clone()).in_stage(Arc::clone(stage));
            Preparing::new(&snapshot, &view).check_given_ids(&mut prepared).await?;
        }
        if let ControlFlow::Break(receipt) = attempts.commit(prepared).await? {
            return receipt.map_or_else(|| Err(Error::fault("a send without a commit")), response);
        }
    }
}

fn response(receipt: Receipt) -> Result<SendMessageResponse> {
    let sent = receipt.sent.into_iter().next().ok_or_else(|| Error::fault("a send without a receipt"))?;
    Ok(SendMessageResponse {
        msg_id: sent.msg_id,
        conversation_id: sent.conversation.id,
        timestamp: sent.timestamp,
        conversation_created: sent.conversation_created,
        status: SendStatus::Stored,
    })
}

fn new_message(caller: &Caller, message: SendMessageRequest) -> Result<NewMessage> {
    let metadata = message.metadata.map(|metadata| serde_json::to_string(&metadata)).transpose();
    Ok(NewMessage {
        owner: caller.user.clone(),
        conversation: message.conversation_id,
        kind: message.conversation_type,
        from: message.from,
        msg_id: message.msg_id,
        timestamp: message.timestamp.map(to_micros),
        content: message.content,
        content_ref: message.content_ref,
        metadata: metadata.map_err(|_| Error::fault("metadata that does not serialise"))?,
    })
}
