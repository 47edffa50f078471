//! `kalamdb token`: mints a token with the server's secret.
//!
//! Invariant: prints the token and nothing else, so that `$(kalamdb token --user ann)` works.

use std::{io::Write as _, path::PathBuf, time::Duration};

use kalamdb_protocol::UserId;

use crate::{
    Failure,
    auth::{Role, Secret},
    settings::{self, Source},
};

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    /// Whose token
    #[arg(long)]
    user: UserId,
    /// What it may do
    #[arg(long, value_enum, default_value = "user")]
    role: Role,
    /// How long it is valid, as in 90s, 30m, 12h or 7d
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// The server's settings file [default: config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "KALAMDB_CONFIG")]
    config: Option<PathBuf>,
    /// The server's data folder, where it keeps the secret that it made
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing configured, and no server has made one.
    #[error(
        "There is no secret yet: no `server.jwt_secret` is set and {} is not there. Start `kalamdb serve` once, or \
         name its folder with --data or its settings with --config.", .0.display()
    )]
    NoSecret(PathBuf),
}

/// Prints one.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let source = Source { config: arguments.config.clone(), data: arguments.data.clone(), ..Source::default() };
    let settings = settings::load(&source)?.settings;
    let secret = Secret::find(&settings)?.ok_or_else(|| Error::NoSecret(Secret::path(&settings)))?;
    writeln!(std::io::stdout().lock(), "{}", secret.mint(&arguments.user, arguments.role, arguments.ttl))?;
    Ok(())
}

/// Whole seconds, because a token's end is one.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok();
    parsed
        .map(|ttl| Duration::from_secs(ttl.as_secs()))
        .filter(|ttl| !ttl.is_zero())
        .ok_or_else(|| "a number and a unit are wanted, as in 90s, 30m, 12h, 7d or 1h 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_a_number_and_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1_800),
            ("12h", 43_200),
            ("7d", 604_800),
            ("1w", 604_800),
            ("1.5h", 5_400),
            ("1h 30m", 5_400),
            ("1 h", 3_600),
        ] {
            assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in ["", "h", "1", "-1h", "0s", "0", "1ms", "1x", "99999999999999999999d", "9999999999999999999d"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
