//! The threads that plan and run statements, and who gets a place on them.
//!
//! There are two sets of threads. What is bounded and small (the short way of a read, a send) runs on the one, and
//! what needs the planner on the other, which gives way: a user who has all their places taken by joins leaves others'
//! pages as quick as they were.
//!
//! Invariant: no statement runs anywhere else. A statement ends at its deadline and when nobody waits for it any
//! more, unless its commit is on its way: that is waited for, so that the answer is true. Its place is free again only
//! when its work has really ended, so that abandoned work cannot pile up. A panic ends one statement, never the process.

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
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
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

/// Threads that read files for statements: each waits for the disk most of the time.
const MAX_FILE_THREADS: usize = 512;

/// Statements of one user that may wait for a place; more would only wait to time out.
const MAX_WAITING_PER_USER: usize = 256;

/// Statements that may wait altogether, so that a flood costs a bounded amount of memory.
const MAX_WAITING: usize = 4096;

/// The niceness of the threads of planned statements, by which the system shares out the cores (`man 7 sched`): a thread
/// of 0 that wakes up takes the core from one of 10, and where both have work the one of 10 gets a tenth. More would
/// starve statements beside anything else on the machine.
const PLANNED_NICENESS: i8 = 10;

/// Threads of the engine's.
pub(crate) struct Threads {
    /// `None` once it is gone: a runtime must not be dropped where async code runs.
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
}

/// The threads of statements.
pub(crate) struct Workers {
    /// The threads of what is bounded and small.
    short: Threads,
    /// The threads of everything else, which give way.
    planned: Threads,
    gate: Arc<Gate>,
    timeout: Duration,
}

/// The admission of statements: at most so many in all and of each user.
struct Gate {
    places: Arc<Semaphore>,
    max_concurrent: usize,
    per_user: usize,
    /// A user's own places, while one of their statements runs or waits.
    users: Mutex<HashMap<UserId, PresentUser>>,
    waiting: AtomicUsize,
    closed: AtomicBool,
}

/// A user of whom somebody is here.
struct PresentUser {
    seats: Arc<UserSeats>,
    /// The user's statements, waiting or running.
    statements: usize,
}

struct UserSeats {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place on the threads, and how long it may be held. A clone is the same place, which is free when the last
/// clone is gone.
#[derive(Clone)]
pub(crate) struct Ticket(Arc<Seat>);

struct Seat {
    short: Handle,
    planned: Handle,
    started: Instant,
    deadline: Instant,
    stage: Arc<Stage>,
    // The permits go back before the entry: with the user's last entry their places are forgotten.
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
    _entry: QueueEntry,
}

impl Threads {
    /// Starts `workers` threads for what yields, and up to `blocking` for what does not.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(name: &'static str, workers: usize, blocking: usize) -> Result<Self> {
        Self::with(name, workers, blocking, |_| {})
    }

    /// As [`Self::start`], of threads that give way to others.
    ///
    /// # Errors
    /// As there.
    pub fn start_nice(name: &'static str, workers: usize, blocking: usize, niceness: i8) -> Result<Self> {
        Self::with(name, workers, blocking, |builder| {
            builder.on_thread_start(move || give_way(niceness));
        })
    }

    fn with(name: &'static str, workers: usize, blocking: usize, set: impl FnOnce(&mut Builder)) -> Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers).max_blocking_threads(blocking).thread_name(name).enable_all();
        set(builder.thread_stack_size(STACK_BYTES));
        let runtime = builder.build().map_err(|error| {
            tracing::error!(%error, name, "threads cannot be started");
            Error::new(ErrorCode::ResourceExhausted, "The server cannot start its threads; free some memory.")
        })?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Mutex::new(Some(runtime)), handle })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends them, at the latest after `patience`. A thread that still let go of the database while the process ends would
    /// find RocksDB's globals gone, and abort it.
    pub async fn end(&self, patience: Duration) {
        let runtime = self.runtime.lock().take();
        if let Some(runtime) = runtime
            && tokio::task::spawn_blocking(move || runtime.shutdown_timeout(patience)).await.is_err()
        {
            tracing::error!("threads did not end");
        }
    }
}

/// Makes the thread that calls it one of this niceness.
fn give_way(niceness: i8) {
    // The crate counts from 0 (a niceness of 19) to 99 (one of -20).
    let priority = u8::try_from((19 - i32::from(niceness)) * 99 / 39).ok().and_then(|value| value.try_into().ok());
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    let set = priority.map(|priority| {
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(priority), policy)
    });
    if !matches!(set, Some(Ok(()))) {
        // The thread works all the same: others are slower beside it.
        tracing::warn!("a thread keeps its priority");
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(settings: &QuerySettings) -> Result<Self> {
        let max_concurrent = settings.max_concurrent.max(1);
        let threads = settings.threads.max(1);
        // Two for a core: one computes while the other's rows come from the disk.
        let short = Threads::start("kalamdb-short", 2 * threads, MAX_FILE_THREADS)?;
        // The work of a planned statement between two yields is bounded, and can still take long (planning, a window, a
        // sort). With a thread more for each place none of it keeps another statement from a thread: the system shares
        // out the cores.
        let planned =
            Threads::start_nice("kalamdb-engine", threads + max_concurrent, MAX_FILE_THREADS, PLANNED_NICENESS)?;
        let gate = Gate {
            places: Arc::new(Semaphore::new(max_concurrent)),
            max_concurrent,
            per_user: settings.max_concurrent_per_user.clamp(1, max_concurrent),
            users: Mutex::default(),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        };
        Ok(Self { short, planned, gate: Arc::new(gate), timeout: settings.timeout })
    }

    /// The threads of what is bounded and small.
    pub fn short(&self) -> Handle {
        self.short.handle().clone()
    }

    /// Waits for a place; the waiting counts against the statement's time.
    ///
    /// # Errors
    /// `query_timeout`; `rate_limited` when too many of the user's wait already, `resource_exhausted` when too many do.
    pub async fn admit(&self, user: &UserId) -> Result<Ticket> {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let entry = QueueEntry::join(&self.gate, user)?;
        // The user's own place is taken first: who has to wait for it holds none of the others' meanwhile.
        let permits = async {
            let own = Arc::clone(&entry.user.places).acquire_owned().await;
            let all = Arc::clone(&self.gate.places).acquire_owned().await;
            own.and_then(|own| all.map(|all| (own, all))).map_err(|_| shutting_down())
        };
        let (own, all) = timeout_at(deadline.into(), permits).await.map_err(|_| timed_out())??;
        entry.leave_queue();
        if self.gate.closed.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        let (short, planned) = (self.short(), self.planned.handle().clone());
        let stage = Arc::new(Stage::new(deadline));
        Ok(Ticket(Arc::new(Seat { short, planned, started, deadline, stage, _own: own, _all: all, _entry: entry })))
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
        tokio::join!(self.short.end(self.timeout), self.planned.end(self.timeout));
    }
}

impl Ticket {
    /// The time when the statement came.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// The statement's progress, by which it learns whether it is to go on.
    pub fn stage(&self) -> &Arc<Stage> {
        &self.0.stage
    }

    /// Runs the future on the threads of planned statements. It is stopped, at the next point where it yields, at the
    /// deadline and when the returned future is dropped; but not in the middle of a commit, which is waited for.
    ///
    /// # Errors
    /// The future's own, `query_timeout`, and `internal` when it panicked.
    pub async fn run<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.run_on(&self.0.planned, future).await
    }

    /// Like [`Self::run`], for work that is bounded and small: on threads that do not give way.
    ///
    /// # Errors
    /// As there.
    pub async fn run_short<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.run_on(&self.0.short, future).await
    }

    async fn run_on<T: Send + 'static>(
        &self,
        threads: &Handle,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let place = self.clone();
        let mut task = threads.spawn(async move {
            let result = future.await;
            drop(place);
            result
        });
        let _stop = StopOnDrop { task: task.abort_handle(), stage: Arc::clone(&self.0.stage) };
        let ended = match timeout_at(self.0.deadline.into(), &mut task).await {
            Ok(ended) => ended,
            Err(_) if self.0.stage.stop() => return Err(timed_out()),
            // A commit in the queue is made whether or not anybody waits for it: so the answer waits, and is true.
            Err(_) => task.await,
        };
        ended.unwrap_or_else(|broken| Err(ended_early(&broken)))
    }

    /// Like [`Self::run`], for work that outlives the call: the handle stops it when dropped.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Running<T> {
        let place = self.clone();
        let deadline = self.0.deadline;
        let task = self.0.planned.spawn(async move {
            let result = timeout_at(deadline.into(), future).await.unwrap_or_else(|_| Err(timed_out()));
            drop(place);
            result
        });
        Running { _stop: StopOnDrop { task: task.abort_handle(), stage: Arc::clone(&self.0.stage) }, task }
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

/// Stops a task that nobody waits for any more.
struct StopOnDrop {
    task: AbortHandle,
    stage: Arc<Stage>,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if !self.task.is_finished() && self.stage.stop() {
            self.task.abort();
        }
    }
}

/// The progress of a statement: whether it can be stopped, and whether it was. Work that does not yield asks it in its
/// middle.
#[derive(Debug)]
pub(crate) struct Stage {
    deadline: Instant,
    /// The error of a statement that went beyond its deadline.
    late: fn() -> Error,
    at: Mutex<Progress>,
    /// How often it was asked.
    #[cfg(test)]
    pub looks: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The statement may be stopped at any moment.
    Work,
    /// The statement's commit is on its way.
    Commit,
    /// The statement's commit is on its way, and it is stopped after that.
    LastCommit,
    Stopped,
}

impl Stage {
    fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            late: timed_out,
            at: Mutex::new(Progress::Work),
            #[cfg(test)]
            looks: AtomicUsize::new(0),
        }
    }

    /// The progress of work that may take as long as `budget`, and then ends with the error `late`.
    pub fn lasting(budget: Duration, late: fn() -> Error) -> Arc<Self> {
        Arc::new(Self { late, ..Self::new(Instant::now() + budget) })
    }

    /// The progress of work that nobody stops.
    pub fn free() -> Arc<Self> {
        // A year: there is no end of time.
        Arc::new(Self::new(Instant::now() + Duration::from_hours(365 * 24)))
    }

    /// Stops the statement; false when its commit is to be waited for instead.
    pub fn stop(&self) -> bool {
        let mut at = self.at.lock();
        *at = match *at {
            Progress::Work | Progress::Stopped => Progress::Stopped,
            Progress::Commit | Progress::LastCommit => Progress::LastCommit,
        };
        *at == Progress::Stopped
    }

    /// Whether the statement is to go on.
    ///
    /// # Errors
    /// `query_timeout` when not.
    pub fn goes_on(&self) -> Result<()> {
        #[cfg(test)]
        self.looks.fetch_add(1, Ordering::Relaxed);
        if *self.at.lock() == Progress::Work && Instant::now() < self.deadline { Ok(()) } else { Err((self.late)()) }
    }

    /// Begins a commit: until the answer is dropped the statement is not stopped.
    ///
    /// # Errors
    /// `query_timeout` when it has been.
    pub fn commit(self: &Arc<Self>) -> Result<Committing> {
        let mut at = self.at.lock();
        if *at != Progress::Work {
            return Err(timed_out());
        }
        *at = Progress::Commit;
        Ok(Committing(Arc::clone(self)))
    }
}

/// A commit on its way.
pub(crate) struct Committing(Arc<Stage>);

impl Drop for Committing {
    fn drop(&mut self) {
        let mut at = self.0.at.lock();
        *at = if *at == Progress::LastCommit { Progress::Stopped } else { Progress::Work };
    }
}

/// A statement's presence among its user's, waiting or running.
struct QueueEntry {
    gate: Arc<Gate>,
    name: UserId,
    user: Arc<UserSeats>,
    queued: AtomicBool,
}

impl PresentUser {
    fn new(places: usize) -> Self {
        let seats = UserSeats { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0) };
        Self { seats: Arc::new(seats), statements: 0 }
    }
}

impl QueueEntry {
    fn join(gate: &Arc<Gate>, name: &UserId) -> Result<Self> {
        if gate.closed.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        let user = {
            let mut users = gate.users.lock();
            let present = users.entry(name.clone()).or_insert_with(|| PresentUser::new(gate.per_user));
            present.statements += 1;
            Arc::clone(&present.seats)
        };
        // The entry's drop undoes all three counts.
        let entry = Self { gate: Arc::clone(gate), name: name.clone(), user, queued: AtomicBool::new(true) };
        let all = entry.gate.waiting.fetch_add(1, Ordering::AcqRel);
        let own = entry.user.waiting.fetch_add(1, Ordering::AcqRel);
        if own >= MAX_WAITING_PER_USER {
            return Err(Error::new(
                ErrorCode::RateLimited,
                "Too many of your statements are waiting; send fewer at a time.",
            ));
        }
        if all >= MAX_WAITING {
            return Err(Error::new(ErrorCode::ResourceExhausted, "The server has too much to do; try again."));
        }
        Ok(entry)
    }

    fn leave_queue(&self) {
        if self.queued.swap(false, Ordering::AcqRel) {
            self.gate.waiting.fetch_sub(1, Ordering::AcqRel);
            self.user.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        self.leave_queue();
        let mut users = self.gate.users.lock();
        let Some(present) = users.get_mut(&self.name) else { return };
        present.statements -= 1;
        if present.statements == 0 {
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
