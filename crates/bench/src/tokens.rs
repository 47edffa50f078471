//! Tokens, as the servers here take them: KalamDB and the thin server share a secret that this program knows.
//!
//! Invariant: the secret is written here for everybody to read, so nothing but a server of a measurement, on the loopback
//! address and gone after it, is ever given it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// What signs the tokens.
pub(crate) const SECRET: &str = "known to everybody, good for a measurement alone";

/// No run takes longer.
const LIFETIME: Duration = Duration::from_hours(24);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    user_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    exp: u64,
}

/// A token of that user.
pub(crate) fn token(user: &str, admin: bool) -> Result<String, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims =
        Claims { user_id: user.to_owned(), role: admin.then(|| "admin".to_owned()), exp: (now + LIFETIME).as_secs() };
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .map_err(|error| Failure(format!("no token could be made: {error}")))
}

/// Checks tokens.
pub(crate) struct Checker {
    key: DecodingKey,
    rules: Validation,
}

impl Checker {
    /// One for the tokens of [`token`].
    pub(crate) fn new() -> Self {
        Self { key: DecodingKey::from_secret(SECRET.as_bytes()), rules: Validation::new(Algorithm::HS256) }
    }

    /// The user, if the header `Authorization` holds a token of theirs.
    pub(crate) fn user(&self, authorization: &str) -> Option<String> {
        let token = authorization.strip_prefix("Bearer ")?;
        decode::<Claims>(token, &self.key, &self.rules).ok().map(|token| token.claims.user_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_one_that_was_changed_says_nothing() {
        let checker = Checker::new();
        let token = token("ann", false).unwrap();
        assert_eq!(checker.user(&format!("Bearer {token}")).as_deref(), Some("ann"));
        assert_eq!(checker.user(&token), None);
        let changed = token.replacen('.', ".A", 1);
        assert_eq!(checker.user(&format!("Bearer {changed}")), None);
    }
}
