//! `POST /api/v1/media/upload`: takes a file for a conversation.
//!
//! Invariant: no rule of who may upload where is here, and nothing of what may be uploaded: the store has the one,
//! `media` the other. Whatever goes wrong, and whenever the client goes away, nothing stays in the spool.

mod form;
mod slots;

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use kalamdb_engine::Caller;
use kalamdb_protocol::{ConversationId, ConversationType, MediaMetadata, UploadResponse};
use kalamdb_store::{Actor, NewFile, Thumbnail, Uploaded};
pub use slots::UploadSlots;
use utoipa::ToSchema;

use self::form::{ReceivedForm, Terms};
use super::{
    App,
    error::{ApiError, failures},
};
use crate::media::{Facts, Upload};

/// The fields of an upload.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "the document's name for what is read as it comes")]
pub struct UploadForm {
    /// The file; its name and type are the client's own business and not looked at.
    #[schema(value_type = String, format = Binary)]
    pub file: Vec<u8>,
    /// The conversation it is for; created when there is none.
    pub conversation_id: ConversationId,
    /// The conversation's type. When absent: the group of that id the caller is in, else their AI conversation, else
    /// the default.
    #[schema(required = false, nullable = false)]
    pub conversation_type: Option<ConversationType>,
}

failures! {
    /// Failures of an upload.
    UploadFailures: InvalidValue, Unauthorized, Forbidden, MethodNotAllowed, RequestTimeout, Conflict,
    PayloadTooLarge, UnsupportedMediaType, RateLimited, ResourceExhausted, StorageUnavailable, Internal
}

/// Takes a file for a conversation.
///
/// Typed by its first bytes: pictures, sounds, videos and documents are taken, each up to the limit of its kind;
/// programs are not. The answer's `contentRef` goes into a message; until one refers to it, only its uploader can
/// read it, and after a while it is removed.
#[utoipa::path(
    post,
    path = "/api/v1/media/upload",
    tag = "data",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 201, description = "Taken", body = UploadResponse), UploadFailures)
)]
pub async fn upload(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<UploadResponse>), ApiError> {
    let _place = app.uploads().enter(&caller.user).await?;
    let terms = Terms { spool: app.store().spool(), limits: app.media(), patience: app.limits().timeout };
    let form = ReceivedForm::read(request, &terms).await?;
    let mut facts = app.inspector().inspect(&form.upload).await;
    let thumbnail = facts.thumbnail.take();
    let stored = hand_over(&app, &caller, form, thumbnail).await?;
    Ok((StatusCode::CREATED, Json(answer(stored, &facts))))
}

/// Gives the file to the store. The spool's name for it goes when this is over, either way.
async fn hand_over(
    app: &App,
    caller: &Caller,
    form: ReceivedForm,
    thumbnail: Option<Thumbnail>,
) -> Result<Uploaded, ApiError> {
    let Upload { path, media_type, .. } = form.upload;
    let file = NewFile {
        owner: caller.user.clone(),
        conversation: form.conversation,
        conversation_type: form.conversation_type,
        source: path.to_path_buf(),
        content_type: media_type.mime.to_owned(),
        extension: media_type.extension.to_owned(),
        thumbnail,
    };
    let actor = Actor { user: caller.user.clone(), admin: caller.admin };
    Ok(app.store().add_file(&actor, file).await?)
}

fn answer(uploaded: Uploaded, facts: &Facts) -> UploadResponse {
    let Uploaded { file: stored, conversation_created } = uploaded;
    let metadata = MediaMetadata {
        media_type: stored.content_type,
        file_size: stored.bytes,
        width: facts.dimensions.map(|(width, _)| width),
        height: facts.dimensions.map(|(_, height)| height),
        thumbnail_ref: stored.thumbnail,
        duration_seconds: facts.duration.map(|duration| duration.as_secs_f64()),
    };
    UploadResponse { content_ref: stored.path, conversation_created, metadata }
}
