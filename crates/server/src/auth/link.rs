//! Links to content: each reads one file for one user, where a token cannot be sent (`<img>`, `<video>`, a download).
//!
//! Invariant: links have a signing key of their own, so that no link is taken for a token and no token for a link. A link
//! gives no right: it says who asked for which file, and whether they may read it is looked up at each use.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, crypto};
use kalamdb_protocol::UserId;
use serde::{Deserialize, Serialize};

use super::{Denied, MAX_TOKEN_BYTES, Secret};

/// The text that makes the key of the secret. It has spaces, which nothing has that a token's signature is made of: so
/// no token shows the key.
const KEY_LABEL: &[u8] = b"kalamdb links to content, version 1";

/// The facts that a link is made of: `{"userId":"ann","contentRef":"ann/media-5.jpg","exp":1760000600}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// The user who asked for it.
    #[serde(rename = "userId")]
    pub user: UserId,
    /// The file.
    pub content_ref: String,
    /// The end, in seconds since the Unix epoch.
    #[serde(rename = "exp")]
    pub end: u64,
}

/// The signing of links, and the verification.
pub struct Links {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
}

impl Links {
    /// Links that are signed with a key made of the server's secret.
    pub fn new(secret: &Secret) -> Self {
        let key = crypto::sign(KEY_LABEL, &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256)
            // Only a key of another family can fail.
            .expect("HMAC over a text");
        let mut validation = Validation::new(Algorithm::HS256);
        // As for tokens, we look at the time ourselves, against a clock that a test can own.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        Self {
            signing: EncodingKey::from_secret(key.as_bytes()),
            verifying: DecodingKey::from_secret(key.as_bytes()),
            validation,
        }
    }

    /// The link's text: letters, digits, `-`, `_` and `.`, as an address takes them.
    pub fn sign(&self, link: &Link) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), link, &self.signing)
            // As for the key; and what a link says is plain JSON.
            .expect("HMAC over three plain claims")
    }

    /// What the link says, if it is ours and has not ended at that time (seconds since the Unix epoch).
    ///
    /// # Errors
    /// [`Denied::Link`] and [`Denied::LinkExpired`].
    pub fn verify(&self, text: &str, now: u64) -> Result<Link, Denied> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Denied::Link);
        }
        let link = jsonwebtoken::decode::<Link>(text, &self.verifying, &self.validation);
        let link = link.map_err(|_| Denied::Link)?.claims;
        if link.end <= now { Err(Denied::LinkExpired) } else { Ok(link) }
    }
}
