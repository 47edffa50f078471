//! The sender of a request: signed tokens, verified and minted.
//!
//! Invariant: the algorithm and the key come from the configuration, never from the token; no token and no
//! secret is in an error or in a log.

mod link;
mod secret;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use kalamdb_engine::Caller;
use kalamdb_protocol::{IdError, UserId};
pub use link::{Link, Links};
use moka::sync::Cache;
pub use secret::{Error, Secret, check_configured};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::settings::JwtAlgorithm;

/// The longest token that is looked at: longer ones are nothing but work.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Memory of the tokens that were verified: those of some ten thousand users.
const CACHE_BYTES: u64 = 8 << 20;
/// Bytes of a verified token besides its text, about.
const VERIFIED_BYTES: usize = 256;

/// The time by which the clock of whoever issues tokens may be ahead of ours. For the end of a token there is no such
/// leeway: a token that says it is over is over.
const NOT_BEFORE_LEEWAY_SECONDS: u64 = 60;

/// The roles that a token can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads and writes its user's own schema.
    User,
    /// Reads and writes every schema.
    Admin,
}

/// Why a request is not let in. Each is a sentence that tells the client what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No `Authorization: Bearer …`.
    #[error(
        "Send the header `Authorization: Bearer <token>`; on the server's machine, `kalamdb token --user NAME` makes one."
    )]
    Missing,
    /// Not three parts of base64 and JSON.
    #[error("The token is not a JSON Web Token; send the whole of it, unchanged.")]
    Malformed,
    /// Another algorithm than the configured one.
    #[error("The token is signed with another algorithm than this server accepts (`server.jwt_algorithm`).")]
    Algorithm,
    /// Signed with another secret, or changed since.
    #[error("The token's signature is not this server's; get a token that is signed with its secret.")]
    Signature,
    /// Past its `exp`.
    #[error("The token has expired; get a new one.")]
    Expired,
    /// The token's `nbf` lies ahead.
    #[error("The token is not valid yet; look at the clocks of its issuer and of this server.")]
    NotYet,
    /// The token has no `exp`.
    #[error("The token has no end; it needs the claim `exp`.")]
    Endless,
    /// Neither `userId` nor `sub`.
    #[error("The token names no user; it needs the claim `userId` or `sub`.")]
    Nobody,
    /// A user id that cannot be one.
    #[error("The token's user id cannot be used: {0}.")]
    User(#[from] IdError),
    /// A link that we did not sign, or that was changed since.
    #[error(
        "The link is not one of this server's, or not the whole of it; ask for one with POST /api/v1/content/link."
    )]
    Link,
    /// A link past its end.
    #[error("The link has expired; ask for another with POST /api/v1/content/link.")]
    LinkExpired,
}

impl Denied {
    /// The reason as a program sees it: what to do differs for a token that has merely expired.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed | Self::Endless | Self::Nobody | Self::User(_) => "malformed",
            Self::Algorithm => "algorithm",
            Self::Signature | Self::Link => "signature",
            Self::Expired | Self::LinkExpired => "expired",
            Self::NotYet => "not_yet",
        }
    }
}

/// The claims that are read from a token: `{"sub":"ann","role":"user","exp":1760000000}`. Unknown ones are the issuer's
/// business.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    exp: Option<Number>,
    nbf: Option<Number>,
    user_id: Option<String>,
    sub: Option<String>,
    /// Anything: only the text `admin` means something.
    role: Option<serde_json::Value>,
}

/// The claims that are put into a token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MintedClaims<'a> {
    user_id: &'a UserId,
    role: Role,
    exp: u64,
}

/// The verification of tokens, with the server's secret.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
    /// The tokens that were verified last: a client sends the same one with each request. What a token says and who
    /// signed it never change, so an entry is never stale; its times are looked at each time.
    verified: Cache<String, Arc<Verified>>,
}

/// A token that the server's secret has signed.
struct Verified {
    caller: Caller,
    /// Seconds since the Unix epoch.
    start: Option<u64>,
    end: u64,
}

impl Verifier {
    /// A verifier of tokens that are signed with the secret in that way.
    pub fn new(secret: &Secret, algorithm: JwtAlgorithm) -> Self {
        let mut validation = Validation::new(library_algorithm(algorithm));
        // The library would ask the machine's clock; we check the times ourselves, against a clock that a test
        // can own. An audience we have none of.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let weigh = |token: &String, _: &Arc<Verified>| u32::try_from(token.len() + VERIFIED_BYTES).unwrap_or(u32::MAX);
        let verified = Cache::builder().max_capacity(CACHE_BYTES).weigher(weigh).build();
        Self { key: DecodingKey::from_secret(secret.as_bytes()), validation, verified }
    }

    /// The sender of the token, if it is valid at that time (seconds since the Unix epoch).
    ///
    /// # Errors
    /// [`Denied`] says why not.
    pub fn verify(&self, token: &str, now: u64) -> Result<Caller, Denied> {
        self.verify_until(token, now).map(|(caller, _)| caller)
    }

    /// The sender of the token, and when the token ends (in the same seconds): for what goes on after the request.
    ///
    /// # Errors
    /// [`Denied`] says why not.
    pub fn verify_until(&self, token: &str, now: u64) -> Result<(Caller, u64), Denied> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Denied::Malformed);
        }
        let verified = if let Some(verified) = self.verified.get(token) {
            verified
        } else {
            let verified = Arc::new(self.decode(token)?);
            self.verified.insert(token.to_owned(), Arc::clone(&verified));
            verified
        };
        if verified.end <= now {
            return Err(Denied::Expired);
        }
        if verified.start.is_some_and(|start| start > now + NOT_BEFORE_LEEWAY_SECONDS) {
            return Err(Denied::NotYet);
        }
        Ok((verified.caller.clone(), verified.end))
    }

    fn decode(&self, token: &str) -> Result<Verified, Denied> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Denied::Algorithm,
                ErrorKind::InvalidSignature => Denied::Signature,
                _ => Denied::Malformed,
            })?
            .claims;
        let end = seconds(&claims.exp.ok_or(Denied::Endless)?);
        let start = claims.nbf.map(|start| seconds(&start));
        let user = UserId::new(&claims.user_id.or(claims.sub).ok_or(Denied::Nobody)?)?;
        let admin = claims.role.is_some_and(|role| role == "admin");
        Ok(Verified { caller: Caller { user, admin }, start, end })
    }
}

impl Secret {
    /// A token for that user, valid for `ttl` from now.
    pub fn mint(&self, user: &UserId, role: Role, ttl: Duration) -> String {
        let exp = now_seconds().saturating_add(ttl.as_secs());
        let key = EncodingKey::from_secret(self.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &MintedClaims { user_id: user, role, exp }, &key)
            // Only a key of another family, or claims that are no JSON, can fail; these are neither.
            .expect("HMAC over three plain claims")
    }
}

/// Now, in seconds since the Unix epoch, as tokens count.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn library_algorithm(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
    }
}

/// A time in a token, which may have a fraction. What is out of range saturates: before the epoch is long ago,
/// beyond 64 bits is never.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn seconds(number: &Number) -> u64 {
    number.as_u64().unwrap_or_else(|| number.as_f64().unwrap_or_default() as u64)
}
