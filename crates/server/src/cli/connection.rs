//! Which server to talk to, and as whom: the only file here that knows the local settings and the secret.
//!
//! Invariant: a token minted here lives for minutes and belongs to one request; only `demo --print-tokens` mints
//! one for a person to keep.

use std::{path::PathBuf, time::Duration};

use kalamdb_protocol::UserId;

use super::{client::Client, error::Error};
use crate::{
    auth::{Role, Secret},
    settings::{self, Settings, Source},
};

/// A minted token outlives its request, whatever the two clocks say, and is worthless soon after.
const MINTED_TTL: Duration = Duration::from_mins(5);

/// How to reach the server.
#[derive(Debug, clap::Args)]
pub(super) struct ConnectionArgs {
    /// The server's address, such as <http://127.0.0.1:8080> [default: the one of the local settings]
    #[arg(long, value_name = "URL", env = "KALAMDB_URL")]
    url: Option<String>,
    /// A token [default: minted from the local server's secret]
    #[arg(long, env = "KALAMDB_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The local server's settings [default: ./config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "KALAMDB_CONFIG")]
    config: Option<PathBuf>,
    /// The local server's data folder, if not the one of the settings
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Whose rights a client has.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// The user.
    pub user: UserId,
    /// Whether the token says `admin`.
    pub admin: bool,
}

/// What proves it.
pub(super) enum Credentials {
    /// Nothing, for the routes that need no token.
    None,
    /// A token from the command line.
    Given(String),
    /// The secret of a server on this machine.
    Minted {
        /// The secret.
        secret: Secret,
        /// Who to be.
        identity: Identity,
    },
}

/// The server on this machine, as its settings describe it.
pub(super) struct Local(Settings);

impl Identity {
    /// The operator of this machine.
    pub(super) fn operator() -> Self {
        Self { user: UserId::new("admin").unwrap_or_else(|_| unreachable!("the id is valid")), admin: true }
    }
}

impl Credentials {
    /// A token for one request.
    pub(super) fn token(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Given(token) => Some(token.clone()),
            Self::Minted { secret, identity } => Some(mint(secret, identity, MINTED_TTL)),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl ConnectionArgs {
    /// A client with the given token, else as `identity`.
    pub(super) fn client(&self, identity: Identity) -> Result<Client, Error> {
        if let (Some(url), Some(token)) = (&self.url, &self.token) {
            return Client::new(checked_url(url)?, Credentials::Given(token.clone()));
        }
        let local = self.local()?;
        let url = self.url.as_deref().map_or_else(|| Ok(local.url()), checked_url)?;
        let credentials = match &self.token {
            Some(token) => Credentials::Given(token.clone()),
            None => Credentials::Minted { secret: local.secret()?, identity },
        };
        Client::new(url, credentials)
    }

    /// A client without a token, for a server that may not have started yet and so has no secret.
    pub(super) fn anonymous_client(&self) -> Result<Client, Error> {
        let url = self.url.as_deref().map_or_else(|| Ok(self.local()?.url()), checked_url)?;
        Client::new(url, Credentials::None)
    }

    /// The server on this machine.
    pub(super) fn local(&self) -> Result<Local, Error> {
        let source = Source { config: self.config.clone(), data: self.data.clone(), ..Source::default() };
        let loaded = settings::load(&source).map_err(|error| Error::Settings(error.to_string()))?;
        Ok(Local(loaded.settings))
    }
}

impl Local {
    /// Where it listens.
    pub(super) fn url(&self) -> String {
        local_url(&self.0.server.host, self.0.server.port)
    }

    /// Where its data lies.
    pub(super) fn data(&self) -> PathBuf {
        let folder = &self.0.storage.base_storage_path;
        // Only an unreadable working directory fails; then the path as it was given says most.
        std::path::absolute(folder).unwrap_or_else(|_| folder.clone())
    }

    /// A token for a person to keep for a while.
    pub(super) fn mint(&self, identity: &Identity, ttl: Duration) -> Result<String, Error> {
        Ok(mint(&self.secret()?, identity, ttl))
    }

    fn secret(&self) -> Result<Secret, Error> {
        match Secret::find(&self.0) {
            Ok(Some(secret)) => Ok(secret),
            Ok(None) => Err(Error::Settings(
                "There is no secret to make a token from: the server with these settings has not been started yet. \
                 Start it, or say which one you mean by --config or --data, or by --url and --token."
                    .to_owned(),
            )),
            Err(error) => Err(Error::Settings(error.to_string())),
        }
    }
}

fn mint(secret: &Secret, identity: &Identity, ttl: Duration) -> String {
    secret.mint(&identity.user, if identity.admin { Role::Admin } else { Role::User }, ttl)
}

/// A server that listens on all addresses is reached by the loopback one.
fn local_url(host: &str, port: u16) -> String {
    match host {
        "0.0.0.0" => format!("http://127.0.0.1:{port}"),
        "::" | "[::]" => format!("http://[::1]:{port}"),
        host if host.contains(':') && !host.starts_with('[') => format!("http://[{host}]:{port}"),
        host => format!("http://{host}:{port}"),
    }
}

fn checked_url(url: &str) -> Result<String, Error> {
    let usable = reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if usable {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    Err(Error::Input("The --url must look like http://127.0.0.1:8080 or https://chat.example.org.".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_reached_where_it_listens() {
        assert_eq!(local_url("127.0.0.1", 8080), "http://127.0.0.1:8080");
        assert_eq!(local_url("0.0.0.0", 1), "http://127.0.0.1:1");
        assert_eq!(local_url("::", 1), "http://[::1]:1");
        assert_eq!(local_url("fd00::7", 1), "http://[fd00::7]:1");
    }

    #[test]
    fn a_url_is_checked_before_it_is_used() {
        assert_eq!(checked_url("https://chat.example.org/").unwrap(), "https://chat.example.org");
        for bad in ["", "localhost:8080", "ftp://x", "http://"] {
            assert!(checked_url(bad).is_err(), "{bad}");
        }
    }
}
