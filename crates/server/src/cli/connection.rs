//! The server to talk to, and the user to be: the only file here that knows the local settings and the secret.
//!
//! Invariant: a token minted here lives for minutes and belongs to one request; only `demo --print-tokens` mints
//! one for a person to keep.

use std::{
    env,
    fs::File,
    io::{self, BufRead as _, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use kalamdb_protocol::UserId;
use serde::Deserialize;

use super::{client::Client, error::Error};
use crate::{
    auth::{Role, Secret},
    settings::{self, Settings, Source},
};

/// A minted token outlives its request, whatever the two clocks say, and is worthless soon after.
const MINTED_TTL: Duration = Duration::from_mins(5);

/// The environment variable for a token that is not to be seen in a list of processes.
const TOKEN_VARIABLE: &str = "KALAMDB_TOKEN";

/// The most that is read of a file in which a token should be: eight times the longest that a server takes.
const MAX_TOKEN_FILE_BYTES: u64 = 64 * 1024;

/// How to reach the server.
#[derive(Debug, clap::Args)]
pub(super) struct ConnectionArgs {
    /// The server's address, such as <http://127.0.0.1:8080> [default: the one of the local settings]
    #[arg(long, value_name = "URL", env = "KALAMDB_URL")]
    url: Option<String>,
    /// A token [env: `KALAMDB_TOKEN`] [default: minted from the local server's secret]
    #[arg(long)]
    token: Option<String>,
    /// The file of a token, which no list of processes shows; `-` is the first line of standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The local server's settings [default: ./config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "KALAMDB_CONFIG")]
    config: Option<PathBuf>,
    /// The local server's data folder, if not the one of the settings
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// The user as whom a client acts.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// The user's id.
    pub user: UserId,
    /// Whether the token says `admin`.
    pub admin: bool,
}

/// The credentials of a client.
pub(super) enum Credentials {
    /// Nothing, for the routes that need no token.
    None,
    /// A token from the command line or the environment.
    Given {
        /// The token's text.
        token: String,
        /// The user that the token names; the server decides whether that is so.
        identity: Option<Identity>,
    },
    /// The secret of a server on this machine.
    Minted {
        /// The server's secret.
        secret: Secret,
        /// The user whom tokens are made for.
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

/// The claims of a token that name its bearer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    user_id: Option<UserId>,
    sub: Option<UserId>,
    role: Option<String>,
}

impl Credentials {
    /// A token that somebody gave.
    pub(super) fn given(token: String) -> Self {
        let said = jsonwebtoken::dangerous::insecure_decode_claims::<Said>(&token).ok();
        let identity = said.and_then(|Said { user_id, sub, role }| {
            Some(Identity { user: user_id.or(sub)?, admin: role.is_some_and(|role| role == "admin") })
        });
        Self::Given { token, identity }
    }

    /// The user who asks, as far as one can tell without the server.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::None => None,
            Self::Given { identity, .. } => identity.as_ref(),
            Self::Minted { identity, .. } => Some(identity),
        }
    }

    /// A token for one request.
    pub(super) fn token(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Given { token, .. } => Some(token.clone()),
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
    /// A client as `identity`, if one was asked for; else with the token of the command line or the environment, else as
    /// the operator.
    pub(super) fn client(&self, identity: Option<Identity>) -> Result<Client, Error> {
        // A user named on the command line counts more than a token in the environment.
        let token = if identity.is_some() { None } else { self.given_token()? };
        if let (Some(url), Some(token)) = (&self.url, &token) {
            return Client::new(checked_url(url)?, Credentials::given(token.clone()));
        }
        let local = self.local()?;
        let url = self.url.as_deref().map_or_else(|| Ok(local.url()), checked_url)?;
        let minted = |identity: Option<Identity>| {
            Ok::<_, Error>(Credentials::Minted {
                secret: local.secret()?,
                identity: identity.unwrap_or_else(Identity::operator),
            })
        };
        let credentials = token.map_or_else(|| minted(identity), |token| Ok(Credentials::given(token)))?;
        Client::new(url, credentials)
    }

    fn given_token(&self) -> Result<Option<String>, Error> {
        if let Some(path) = &self.token_file {
            return read_token(path).map(Some);
        }
        let environment = || env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
        Ok(self.token.clone().or_else(environment))
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
    /// The address at which a server with these settings listens.
    pub(super) fn url(&self) -> String {
        local_url(&self.0.server.host, self.0.server.port)
    }

    /// The folder of its data.
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
                 Start it, or say which one you mean by --config or --data, or by --url and --token-file."
                    .to_owned(),
            )),
            Err(error) => Err(Error::Settings(error.to_string())),
        }
    }
}

fn mint(secret: &Secret, identity: &Identity, ttl: Duration) -> String {
    secret.mint(&identity.user, if identity.admin { Role::Admin } else { Role::User }, ttl)
}

/// The token in a file. Of standard input no more than a line is taken: statements may follow.
fn read_token(path: &Path) -> Result<String, Error> {
    let (mut text, is_input) = (String::new(), path == Path::new("-"));
    let read = if is_input {
        io::stdin().lock().take(MAX_TOKEN_FILE_BYTES).read_line(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text))
    };
    let name = if is_input { "standard input".to_owned() } else { path.display().to_string() };
    read.map_err(|error| Error::Input(format!("The token cannot be read from {name}: {error}.")))?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(token), None) => Ok(token.to_owned()),
        _ => Err(Error::Input(format!("There is no token in {name}: it must be the only thing there."))),
    }
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
