//! The threads that plan and run statements, and who gets a place on them.
//!
//! Invariant: no statement runs anywhere else. A statement ends at its deadline and when nobody waits for it any
//! more; its place is free again only when its work has really ended, so that abandoned work cannot pile up. A
//! panic ends one statement, never the process.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kalamdb_protocol::{ErrorCode, UserId};
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::timeout_at,
};

use crate::{Error, QuerySettings, Result};

/// The planner recurses once for each level of an expression: the statement's depth is limited before, and this
/// holds several times that.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Statements of one user that may wait for a place; more would only wait to time out.
const MAX_WAITING_PER_USER: usize = 256;

/// Statements that may wait altogether, so that a flood costs a bounded amount of memory.
const MAX_WAITING: usize = 4096;

/// The engine's threads.
pub(crate) struct Workers {
    /// `None` once it is gone: a runtime must not be dropped where async code runs.
    runtime: Mutex<Option<Runtime>>,
    threads: Handle,
    gate: Arc<Gate>,
    timeout: Duration,
}

/// Who may come in.
struct Gate {
    places: Arc<Semaphore>,
    max_concurrent: usize,
    per_user: usize,
    /// A user's own places, while one of their statements runs or waits.
    users: Mutex<HashMap<UserId, Arc<User>>>,
    waiting: AtomicUsize,
    closed: AtomicBool,
}

struct User {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place on the threads, and how long it may be held. A clone is the same place, which is free when the last
/// clone is gone.
#[derive(Clone)]
pub(crate) struct Ticket(Arc<Place>);

struct Place {
    threads: Handle,
    started: Instant,
    deadline: Instant,
    // The permits go back before the line, which looks whether anybody else of the user's is in it.
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    _line: Line,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(settings: &QuerySettings) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(settings.threads.max(1))
            .thread_name("kalamdb-engine")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| {
                tracing::error!(%error, "the engine's threads cannot be started");
                Error::new(ErrorCode::ResourceExhausted, "The server cannot start its threads; free some memory.")
            })?;
        let max_concurrent = settings.max_concurrent.max(1);
        let gate = Gate {
            places: Arc::new(Semaphore::new(max_concurrent)),
            max_concurrent,
            per_user: settings.max_concurrent_per_user.clamp(1, max_concurrent),
            users: Mutex::default(),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        };
        let threads = runtime.handle().clone();
        Ok(Self { runtime: Mutex::new(Some(runtime)), threads, gate: Arc::new(gate), timeout: settings.timeout })
    }

    /// Where background work is spawned.
    pub fn handle(&self) -> Handle {
        self.threads.clone()
    }

    /// Waits for a place; the waiting counts against the statement's time.
    ///
    /// # Errors
    /// `query_timeout`, or `resource_exhausted` when too many wait already.
    pub async fn admit(&self, user: &UserId) -> Result<Ticket> {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let line = Line::join(&self.gate, user)?;
        // One's own place first: who has to wait for it holds none of the others' meanwhile.
        let permits = async {
            let own = Arc::clone(&line.user.places).acquire_owned().await;
            let all = Arc::clone(&self.gate.places).acquire_owned().await;
            own.and_then(|own| all.map(|all| (own, all))).map_err(|_| shutting_down())
        };
        let (own, all) = timeout_at(deadline.into(), permits).await.map_err(|_| timed_out())??;
        line.leave_queue();
        if self.gate.closed.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        Ok(Ticket(Arc::new(Place { threads: self.handle(), started, deadline, _own: own, _all: all, _line: line })))
    }

    /// Lets no statement in any more, waits for those inside (each ends at its deadline at the latest), and ends
    /// the threads.
    pub async fn shutdown(&self) {
        self.gate.closed.store(true, Ordering::Release);
        let everybody = u32::try_from(self.gate.max_concurrent).unwrap_or(u32::MAX);
        let empty = timeout_at((Instant::now() + self.timeout).into(), self.gate.places.acquire_many(everybody)).await;
        if empty.is_err() {
            tracing::warn!("statements were still running at shutdown");
        }
        self.gate.places.close();
        // A thread that still let go of the database while the process ends would find RocksDB's globals gone, and
        // abort it.
        let runtime = self.runtime.lock().take();
        if let Some(runtime) = runtime {
            let timeout = self.timeout;
            if tokio::task::spawn_blocking(move || runtime.shutdown_timeout(timeout)).await.is_err() {
                tracing::error!("the engine's threads did not end");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

impl Ticket {
    /// When the statement came.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// Runs the future on the engine's threads. It is stopped, at the next point where it yields, at the deadline
    /// and when the returned future is dropped.
    ///
    /// # Errors
    /// The future's own, `query_timeout`, and `internal` when it panicked.
    pub async fn run<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let place = self.clone();
        let task = self.0.threads.spawn(async move {
            let result = future.await;
            drop(place);
            result
        });
        let _stop = StopOnDrop(task.abort_handle());
        match timeout_at(self.0.deadline.into(), task).await {
            Ok(Ok(result)) => result,
            Ok(Err(broken)) => Err(ended_early(&broken)),
            Err(_) => Err(timed_out()),
        }
    }

    /// Like [`Self::run`], for work that outlives the call: the handle stops it when dropped.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Running<T> {
        let place = self.clone();
        let deadline = self.0.deadline;
        let task = self.0.threads.spawn(async move {
            let result = timeout_at(deadline.into(), future).await.unwrap_or_else(|_| Err(timed_out()));
            drop(place);
            result
        });
        Running { _stop: StopOnDrop(task.abort_handle()), task }
    }
}

/// Work on the engine's threads.
pub(crate) struct Running<T> {
    task: tokio::task::JoinHandle<Result<T>>,
    _stop: StopOnDrop,
}

impl<T> Running<T> {
    /// Waits for its end.
    pub async fn end(self) -> Result<T> {
        let Self { task, _stop } = self;
        task.await.unwrap_or_else(|broken| Err(ended_early(&broken)))
    }
}

struct StopOnDrop(AbortHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One statement's presence among its user's, waiting or running.
struct Line {
    gate: Arc<Gate>,
    name: UserId,
    user: Arc<User>,
    queued: AtomicBool,
}

impl Line {
    fn join(gate: &Arc<Gate>, name: &UserId) -> Result<Self> {
        if gate.closed.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        let user = Arc::clone(gate.users.lock().entry(name.clone()).or_insert_with(|| {
            Arc::new(User { places: Arc::new(Semaphore::new(gate.per_user)), waiting: AtomicUsize::new(0) })
        }));
        // From here on its drop undoes both counts.
        let line = Self { gate: Arc::clone(gate), name: name.clone(), user, queued: AtomicBool::new(true) };
        let all = line.gate.waiting.fetch_add(1, Ordering::AcqRel);
        let own = line.user.waiting.fetch_add(1, Ordering::AcqRel);
        if own >= MAX_WAITING_PER_USER {
            return Err(Error::new(
                ErrorCode::ResourceExhausted,
                "Too many of your statements are waiting; send fewer at a time.",
            ));
        }
        if all >= MAX_WAITING {
            return Err(Error::new(ErrorCode::ResourceExhausted, "The server has too much to do; try again."));
        }
        Ok(line)
    }

    fn leave_queue(&self) {
        if self.queued.swap(false, Ordering::AcqRel) {
            self.gate.waiting.fetch_sub(1, Ordering::AcqRel);
            self.user.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.leave_queue();
        let mut users = self.gate.users.lock();
        // The map's and this one: nobody else of the user's is here, and nobody can come while the lock is held.
        if Arc::strong_count(&self.user) == 2 {
            users.remove(&self.name);
        }
    }
}

fn timed_out() -> Error {
    Error::new(
        ErrorCode::QueryTimeout,
        "The statement took longer than query.timeout_seconds; narrow it, or ask the operator for more time.",
    )
}

fn shutting_down() -> Error {
    Error::new(ErrorCode::ResourceExhausted, "The server is shutting down; try again in a moment.")
}

/// Why a task has no result: it panicked, or the threads it ran on have ended.
pub(crate) fn ended_early(broken: &tokio::task::JoinError) -> Error {
    if broken.is_panic() {
        tracing::error!("a task panicked");
        Error::new(ErrorCode::Internal, "The server made a mistake with this; its log says more.")
    } else {
        shutting_down()
    }
}

#[cfg(test)]
mod tests;
