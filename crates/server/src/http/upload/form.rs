//! Reads the form of an upload: a file of any size and two short fields, in whatever order they come.
//!
//! Invariant: of the form, no more is in memory than one piece of the file and [`MAX_BESIDE_BYTES`]; a complaint names
//! the field, not what stands in it; a file of a form that is not complete is removed with it.

use std::{
    error::Error,
    iter,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{
        DefaultBodyLimit, FromRequest as _, Multipart, Request,
        multipart::{Field, MultipartError},
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kalamdb_protocol::{ConversationId, ConversationType, ErrorCode};

use super::super::{
    body::{announced, late, refuse_encoded},
    error::ApiError,
};
use crate::media::{Intake, Limits, Refusal, Upload};

/// Bytes that may stand beside the file: boundaries, headers and the other fields. The parser keeps what it cannot make
/// sense of yet, and would keep a header without end. One piece as it comes from the network, up to 80 KiB, has to fit.
const MAX_BESIDE_BYTES: u64 = 512 << 10;

/// The longest field but the file: an id of as many bytes as it may have.
const MAX_FIELD_BYTES: usize = 512;

/// A form that is complete.
pub struct ReceivedForm {
    /// The file, in the spool.
    pub upload: Upload,
    /// `conversationId`.
    pub conversation: ConversationId,
    /// `conversationType`, which may be absent.
    pub conversation_type: Option<ConversationType>,
}

/// The terms on which files are taken.
pub struct Terms<'a> {
    /// The folder of a file while it arrives.
    pub spool: &'a Path,
    /// The sizes that files may have.
    pub limits: Limits,
    /// The time for which nothing may come.
    pub patience: Duration,
}

/// Why a body ended before the form did.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("The upload broke off; send it again.")]
    BrokenOff,
    #[error(
        "Nothing of the upload arrived for {} seconds (`server.request_timeout_seconds`); send it again.", .0.as_secs()
    )]
    Silent(Duration),
    #[error("The form holds too much besides the file; it has `file`, `conversationId` and `conversationType`.")]
    TooMuchBeside,
}

impl ReceivedForm {
    /// Reads a request's body.
    pub async fn read(request: Request, terms: &Terms<'_>) -> Result<Self, ApiError> {
        refuse_encoded(request.headers())?;
        refuse_announced(&request, terms.limits)?;
        // Grows with what is taken off the parser's hands.
        let allowed = Arc::new(AtomicU64::new(MAX_BESIDE_BYTES));
        let mut request = request.map(|body| Body::from_stream(piecewise(body, terms.patience, Arc::clone(&allowed))));
        // A file's limit depends on what it is, and is counted while it arrives.
        DefaultBodyLimit::disable().apply(&mut request);
        let mut fields = Multipart::from_request(request, &()).await.map_err(|_| {
            invalid(
                "The body must be a form (`multipart/form-data`); `curl -F file=@NAME -F conversationId=ID` sends one.",
            )
        })?;
        let mut parts = FormFields::default();
        while let Some(field) = fields.next_field().await.map_err(|error| unreadable(&error))? {
            parts.take(field, terms, &allowed).await?;
        }
        parts.complete()
    }
}

/// The fields of a form that have come so far.
#[derive(Default)]
struct FormFields {
    file: Option<Upload>,
    conversation: Option<ConversationId>,
    conversation_type: Option<ConversationType>,
}

impl FormFields {
    async fn take(&mut self, field: Field<'_>, terms: &Terms<'_>, allowed: &AtomicU64) -> Result<(), ApiError> {
        match field.name() {
            Some("file") => {
                once("file", self.file.is_none())?;
                self.file = Some(receive(field, terms, allowed).await?);
            }
            Some("conversationId") => {
                once("conversationId", self.conversation.is_none())?;
                let id = ConversationId::new(&text("conversationId", field).await?);
                let refuse = |error| invalid(format!("The form's `conversationId` cannot be used: {error}."));
                self.conversation = Some(id.map_err(refuse)?);
            }
            Some("conversationType") => {
                once("conversationType", self.conversation_type.is_none())?;
                let given = ConversationType::parse(&text("conversationType", field).await?);
                let refuse = || invalid("The form's `conversationType` must be `ai` or `group`.");
                self.conversation_type = Some(given.ok_or_else(refuse)?);
            }
            _ => {
                return Err(invalid(
                    "The form has a field too many; it has `file`, `conversationId` and `conversationType`.",
                ));
            }
        }
        Ok(())
    }

    fn complete(self) -> Result<ReceivedForm, ApiError> {
        let missing = |name| move || invalid(format!("The form lacks the field `{name}`."));
        Ok(ReceivedForm {
            upload: self.file.ok_or_else(missing("file"))?,
            conversation: self.conversation.ok_or_else(missing("conversationId"))?,
            conversation_type: self.conversation_type,
        })
    }
}

async fn receive(mut field: Field<'_>, terms: &Terms<'_>, allowed: &AtomicU64) -> Result<Upload, ApiError> {
    let mut intake = Intake::open(terms.spool, terms.limits).await?;
    while let Some(piece) = field.chunk().await.map_err(|error| unreadable(&error))? {
        intake.take(&piece).await?;
        allowed.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(intake.finish().await?)
}

async fn text(name: &str, mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| unreadable(&error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_FIELD_BYTES {
            return Err(invalid(format!("The form's `{name}` is too long.")));
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid(format!("The form's `{name}` must be text in UTF-8.")))
}

fn once(name: &str, is_first: bool) -> Result<(), ApiError> {
    if is_first { Ok(()) } else { Err(invalid(format!("The form has the field `{name}` twice; send it once."))) }
}

/// A file that no limit allows is refused before any of it is sent, if the client says how much there is.
fn refuse_announced(request: &Request, limits: Limits) -> Result<(), ApiError> {
    let announced = announced(request.headers());
    let largest = limits.largest();
    if announced.is_some_and(|bytes| bytes > largest.saturating_add(MAX_BESIDE_BYTES)) {
        let message = format!("No file may have more than {largest} bytes here, whatever it is.");
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, message).with("maxBytes", largest));
    }
    Ok(())
}

/// The body, piece by piece, as long as pieces come and no more of them than are allowed.
fn piecewise(
    body: Body,
    patience: Duration,
    allowed: Arc<AtomicU64>,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
    futures::stream::try_unfold((body.into_data_stream(), 0), move |(mut pieces, given)| {
        let allowed = Arc::clone(&allowed);
        async move {
            // The parser takes all that is ready before it looks at any of it. This way one piece is ready at a time.
            tokio::task::yield_now().await;
            let next = tokio::time::timeout(patience, pieces.next()).await.map_err(|_| BodyError::Silent(patience))?;
            let Some(piece) = next.transpose().map_err(|_| BodyError::BrokenOff)? else { return Ok(None) };
            let given = given + piece.len() as u64;
            if given > allowed.load(Ordering::Relaxed) {
                return Err(BodyError::TooMuchBeside);
            }
            Ok(Some((piece, (pieces, given))))
        }
    })
}

/// Why the parser gave up: for a reason of the body's, or because of what stands in it.
fn unreadable(error: &MultipartError) -> ApiError {
    let mut causes = iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source());
    match causes.find_map(|cause| cause.downcast_ref::<BodyError>()) {
        Some(BodyError::TooMuchBeside) => invalid(BodyError::TooMuchBeside.to_string()),
        Some(ended) => late(ended.to_string()),
        None => invalid("The form is broken or ends early; it must be `multipart/form-data`, up to its last boundary."),
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidValue, message)
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::TooLarge { max_bytes, .. } => {
                Self::new(ErrorCode::PayloadTooLarge, message).with("maxBytes", max_bytes)
            }
            Refusal::Disk(error) => {
                tracing::error!(%error, "an upload could not be written");
                Self::new(ErrorCode::StorageUnavailable, message)
            }
            Refusal::Empty | Refusal::Executable | Refusal::Unknown | Refusal::Unwanted(_) => invalid(message),
        }
    }
}

#[cfg(test)]
mod tests;
