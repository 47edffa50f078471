//! `POST /messages`: one message or several, without SQL.
//!
//! Invariant: the same proposal as an INSERT of the same rows.

use std::{ops::ControlFlow, sync::Arc};

use kalamdb_protocol::{ErrorCode, SendMessageRequest, SendMessageResponse, SendRequest, SendStatus, to_micros};
use kalamdb_store::{Change, NewMessage, Receipt, Store};

use super::{Attempts, NamedRequest, Prepared, Preparing};
use crate::{Caller, Error, Result, read::Reader, workers::Stage};

/// Sends messages, all or none, and answers in their order; a repeated `idempotency_key` gets the first answer.
pub(crate) async fn send(
    store: &Store,
    reader: &Reader,
    caller: &Caller,
    request: SendRequest,
    idempotency_key: Option<String>,
    stage: &Arc<Stage>,
) -> Result<Vec<SendMessageResponse>> {
    let name = idempotency_key.map(|key| NamedRequest::new(key, &request)).transpose()?;
    if let Some(receipt) = name.as_ref().map(|name| name.earlier(store, caller)).transpose()?.flatten() {
        return Ok(responses(receipt));
    }
    let messages = request.into_messages();
    if messages.is_empty() {
        return Err(Error::new(ErrorCode::InvalidValue, "There is no message in the array; give at least one."));
    }
    let gives_ids = messages.iter().any(|message| message.msg_id.is_some());
    let changes = messages
        .into_iter()
        .map(|message| new_message(caller, message).map(Change::Send))
        .collect::<Result<Vec<_>>>()?;
    let mut attempts = Attempts::new(store, caller, name.as_ref(), stage);
    loop {
        let rows_affected = changes.len() as u64;
        let mut prepared = Prepared { rows_affected, changes: changes.clone(), ..Prepared::default() };
        if gives_ids {
            let snapshot = store.snapshot();
            let view = reader.view(caller, snapshot.clone()).in_stage(Arc::clone(stage));
            Preparing::new(&snapshot, &view).check_given_ids(&mut prepared).await?;
        }
        if let ControlFlow::Break(receipt) = attempts.commit(prepared).await? {
            return receipt.map(responses).ok_or_else(|| Error::fault("a send without a commit"));
        }
    }
}

fn responses(receipt: Receipt) -> Vec<SendMessageResponse> {
    let sent = receipt.sent.into_iter();
    sent.map(|sent| SendMessageResponse {
        msg_id: sent.msg_id,
        conversation_id: sent.conversation.id,
        timestamp: sent.timestamp,
        conversation_created: sent.conversation_created,
        status: SendStatus::Stored,
    })
    .collect()
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
