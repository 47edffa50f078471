//! `kalamdb serve`: puts store, engine and HTTP together, and takes them apart again at the end.
//!
//! Invariant: nothing is written before the settings and the secret have passed, and nothing that others on this machine
//! can read; the one line on standard
//! output comes when the server answers, and never earlier.

use std::{
    fs::Permissions,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kalamdb_engine::Engine;
use kalamdb_store::{Components, Store};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    Failure,
    auth::{self, Links, Secret, Verifier},
    http::{self, App, listen},
    log,
    settings::{self, Server, Settings, Source},
};

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken, or the address is not this machine's.
    #[error(
        "The server cannot listen on {host}, port {port}: {error}. Choose another with `--host` and `--port` (`make run \
         ARGS=\"--port 8081\"`), or in the environment, where commands in other terminals find it too: \
         KALAMDB_SERVER__PORT=8081."
    )]
    Listen {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The system's error.
        error: io::Error,
    },
    /// The folder of the data cannot be made, or not be closed to others.
    #[error("The data in {} cannot be opened: {error}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The data cannot be opened.
    #[error("The data in {} cannot be opened: {error}", .path.display())]
    Store {
        /// The folder.
        path: PathBuf,
        /// The store's error.
        error: kalamdb_store::Error,
    },
    /// The engine does not start.
    #[error("The query engine does not start: {0}")]
    Engine(kalamdb_engine::Error),
    /// A part of the machinery around it does not.
    #[error("The server does not start: {0}.")]
    Start(Box<dyn std::error::Error + Send + Sync>),
}

/// Serves until a signal says stop.
pub async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = settings::load(&arguments.source)?.settings;
    log::start(&settings.log);
    http::hush_panics();
    auth::check_configured(&settings)?;

    keep_from_others();
    give_each_thread_an_arena();
    let stop = stop_signal()?;
    // Before the database opens its files.
    let limits = listen::Limits::new(
        connections(settings.server.max_connections, open_files_limit()),
        Duration::from_secs(settings.server.request_timeout_seconds),
    );
    let listener = listen_on(&settings.server).await?;
    let (store, engine) = open(&settings)?;
    // The secret is looked for after the store is open, whose lock keeps a second server out of the folder.
    let secret = Secret::find_or_create(&settings)?;
    let verifier = Verifier::new(&secret, settings.server.jwt_algorithm);
    let counts = http::metrics::install().map_err(|error| Error::Start(error.into()))?;
    let app = App::new(engine.clone(), store, verifier, Links::new(&secret), counts, &settings);

    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    announce(listener.local_addr()?, &settings.storage.base_storage_path)?;
    listen::serve(listener, http::router(app, &settings.server.cors_origins), limits, stop).await;
    engine.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// Connections that may be open without taking the last files from the database, which would then fail for
/// everybody: at most half of what the system lets this process open.
fn connections(wanted: u32, open_files: Option<u32>) -> u32 {
    match open_files.map(|files| (files / 2).max(1)) {
        Some(most) if most < wanted => {
            tracing::warn!(
                "of server.max_connections = {wanted} only {most} are used: the system lets this process open {} \
                 files (`LimitNOFILE` of systemd or `ulimit -Hn` raises that)",
                open_files.unwrap_or_default(),
            );
            most
        }
        _ => wanted,
    }
}

/// The number of files that this process may open, after it has asked for as many as the system lets it have: the limit
/// that a shell sets (1,024, mostly) is meant for programs of another kind.
fn open_files_limit() -> Option<u32> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    // A limit that may not be raised stays, and the connections with it.
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    // Beyond 32 bits is as good as no limit.
    u32::try_from(limit).ok()
}

/// Lets each thread have a part of the heap of its own, as far as glibc goes: by itself it makes eight for a processor,
/// and threads that share one wait for each other. A thread of a long statement, which gives way to others, would make
/// them wait until it has a processor again (a page's slowest hundredth then takes twice as long). A part that is not
/// used takes no memory.
fn give_each_thread_an_arena() {
    #[cfg(target_env = "gnu")]
    {
        /// More than there are threads that compute.
        const ARENAS: i32 = 256;
        #[allow(unsafe_code, reason = "a call into C that takes two numbers, and keeps no reference")]
        // SAFETY: `mallopt` sets a number, under the allocator's own lock.
        let is_set = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS) } == 1;
        if !is_set {
            tracing::warn!("the allocator keeps its own number of arenas");
        }
    }
}

/// Makes the files of this process its own user's alone, also those that RocksDB and Parquet make without being asked.
fn keep_from_others() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

/// The folder of all data, which nobody else enters: messages and uploads lie there as they are. One that others could
/// enter is closed, because an earlier version left it open.
fn private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let permissions = std::fs::metadata(path)?.permissions();
    if permissions.mode() & OTHERS == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(permissions.mode() & !OTHERS))
}

/// The rights of group and world.
const OTHERS: u32 = 0o077;

async fn listen_on(server: &Server) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind((server.host.as_str(), server.port)).await;
    listener.map_err(|error| Error::Listen { host: server.host.clone(), port: server.port, error })
}

fn open(settings: &Settings) -> Result<(Store, Engine), Error> {
    let store = settings.store();
    let path = store.base_path.clone();
    private_folder(&path).map_err(|error| Error::Folder { path: path.clone(), error })?;
    let store = Store::open(store, Components::default()).map_err(|error| Error::Store { path, error })?;
    let engine = Engine::start(store.clone(), settings.engine()).map_err(Error::Engine)?;
    Ok((store, engine))
}

/// Tells a person where the server is and where the data are, and a script which port it got.
fn announce(address: SocketAddr, data: &Path) -> io::Result<()> {
    let (version, data) = (env!("CARGO_PKG_VERSION"), std::path::absolute(data)?);
    let mut out = io::stdout().lock();
    writeln!(out, "KalamDB {version} listens on http://{address}, data in {}", data.display())?;
    out.flush()
}

/// Completes at the first SIGTERM or SIGINT. A second one ends the process at once: somebody means it.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        next().await;
        tracing::info!("stopping: requests that run may finish; a second signal ends them");
        tokio::spawn(async move {
            next().await;
            // The shell's number for a process that an interrupt ended.
            std::process::exit(130);
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_database() {
        assert_eq!(connections(10_000, Some(1_048_576)), 10_000);
        assert_eq!(connections(10_000, Some(1_024)), 512);
        assert_eq!(connections(10_000, Some(0)), 1);
        assert_eq!(connections(10_000, None), 10_000);
        if cfg!(target_os = "linux") {
            assert!(open_files_limit().is_some_and(|files| files > 0));
        }
    }
}
