//! Who watches what: every commit is matched here against the subscriptions of its owners, and of nobody else.
//!
//! Invariant: nothing is computed on the thread that listens. A commit goes to the lanes of the shapes that are
//! concerned, in commit order; where a lane is full, or the store has left commits out, the subscriptions concerned end
//! and are told to resume. Lanes run on a few threads of their own, of which one user has half at most; what takes too
//! long for one commit ends with an error.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use kalamdb_protocol::{ErrorCode, Position, UserId};
use kalamdb_store::{Commit, Feed, Seq, Store, Told, Watching};
use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};

use super::{
    form::{Form, Watch},
    lane::{Entered, Job, Part},
    rows::LiveTable,
    session::{Number, Session},
    shape::Shape,
};
use crate::{
    Error, LiveSettings, Result, Settings,
    read::{Reader, View},
    sql::Schema,
    workers::{Stage, Threads},
};

/// Forms are looked through for ones that nobody has any more when there are twice as many as the last time, and not
/// below this.
const FEW_FORMS: usize = 64;

/// How long a shape may take to tell one commit: a thousand times what most take. Longer, and it ends.
const BUDGET: Duration = Duration::from_secs(1);
/// How long a lane goes on while others wait for its thread.
const TURN: Duration = Duration::from_millis(10);
/// How long the end of the threads is waited for: no turn takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One subscription.
pub(super) struct Subscription {
    pub number: Number,
    pub session: Arc<Session>,
    pub shape: Arc<Shape>,
    pub scope: Schema,
    /// The client's name for it, as JSON text.
    pub id: Box<str>,
    /// Has the store tell of its rows.
    pub _watching: Watching,
}

/// See the module.
pub(crate) struct Hub {
    pub(super) store: Store,
    pub(super) reader: Reader,
    threads: Threads,
    /// Where lanes wait for what they look up.
    lookups: Handle,
    pub(super) settings: LiveSettings,
    /// Threads of lanes that one user may have at the same time.
    share: usize,
    registry: RwLock<Registry>,
    shapes: Mutex<Shapes>,
    /// Users who have open sessions.
    users: Mutex<HashMap<UserId, User>>,
}

/// A user with open sessions.
struct User {
    sessions: usize,
    share: Arc<Semaphore>,
}

/// The subscriptions, by whose rows they are of.
#[derive(Default)]
struct Registry {
    owners: HashMap<UserId, Vec<Arc<Subscription>>>,
    everybody: Vec<Arc<Subscription>>,
}

/// The shapes that somebody has.
#[derive(Default)]
struct Shapes {
    known: HashMap<Arc<Form>, Weak<Shape>>,
    look_at: usize,
}

impl Subscription {
    /// The client's name for it.
    pub fn name(&self) -> String {
        serde_json::from_str(&self.id).unwrap_or_default()
    }
}

impl Hub {
    /// Starts the threads, and hands out what the feed tells, until `stop` says so.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(
        store: Store,
        reader: Reader,
        lookups: Handle,
        settings: &Settings,
        feed: Feed,
        stop: watch::Receiver<bool>,
    ) -> Result<Arc<Self>> {
        let lanes = settings.query.threads.max(2);
        // One thread listens, and one is for beginnings.
        let threads = Threads::start("kalamdb-live", 2, lanes)?;
        let listener = threads.handle().clone();
        let hub = Arc::new(Self {
            store,
            reader,
            threads,
            lookups,
            settings: settings.live.clone(),
            share: lanes / 2,
            registry: RwLock::default(),
            shapes: Mutex::default(),
            users: Mutex::default(),
        });
        listener.spawn(Arc::clone(&hub).run(feed, stop));
        Ok(hub)
    }

    /// Ends the threads.
    pub async fn end(&self) {
        self.threads.end(PATIENCE).await;
    }

    /// Runs what waits most of the time, such as a beginning.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.threads.handle().spawn(future);
    }

    /// Waits, in a lane, for what is looked up.
    pub(super) fn wait_for<T>(&self, lookup: impl Future<Output = T>) -> T {
        self.lookups.block_on(lookup)
    }

    async fn run(self: Arc<Self>, mut feed: Feed, mut stop: watch::Receiver<bool>) {
        loop {
            let told = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                told = feed.next() => told,
            };
            match told {
                Some(Told::Commit(commit)) => self.hand_out(&commit),
                Some(Told::Missed) => self.everybody_lags(),
                Some(Told::MissedOf(owners)) => self.these_lag(&owners),
                None => return,
            }
        }
    }

    /// A place for one more session of the user's, and the user's share of the lanes' threads.
    ///
    /// # Errors
    /// `rate_limited` when there is none.
    pub(super) fn enter(&self, user: &UserId) -> Result<Arc<Semaphore>> {
        let max = self.settings.max_sessions_per_user;
        let mut users = self.users.lock();
        let new = || User { sessions: 0, share: Arc::new(Semaphore::new(self.share)) };
        let user = users.entry(user.clone()).or_insert_with(new);
        if user.sessions >= max {
            let message =
                format!("You have {max} live connections (live.max_connections_per_user); close one of them first.");
            return Err(Error::new(ErrorCode::RateLimited, message));
        }
        user.sessions += 1;
        Ok(Arc::clone(&user.share))
    }

    /// Gives the place back.
    pub(super) fn leave(&self, user: &UserId) {
        let mut users = self.users.lock();
        if let Some(open) = users.get_mut(user) {
            open.sessions -= 1;
            if open.sessions == 0 {
                users.remove(user);
            }
        }
    }

    /// The shape of a form, compiled unless somebody has it already.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub(super) fn shape(&self, view: &View, watch: &Watch) -> Result<Arc<Shape>> {
        if let Some(shape) = self.known_shape(&watch.form) {
            return Ok(shape);
        }
        let compiled = Arc::new(Shape::compile(view, watch)?);
        let mut shapes = self.shapes.lock();
        // Somebody else may have compiled it meanwhile.
        if let Some(shape) = shapes.known.get(&watch.form).and_then(Weak::upgrade) {
            return Ok(shape);
        }
        if shapes.known.len() >= shapes.look_at {
            shapes.known.retain(|_, shape| shape.strong_count() > 0);
            shapes.look_at = (shapes.known.len() * 2).max(FEW_FORMS);
        }
        shapes.known.insert(Arc::clone(&compiled.form), Arc::downgrade(&compiled));
        Ok(compiled)
    }

    fn known_shape(&self, form: &Form) -> Option<Arc<Shape>> {
        self.shapes.lock().known.get(form)?.upgrade()
    }

    /// From now on it is told what commits do.
    pub(super) fn register(&self, subscription: Arc<Subscription>) {
        let mut registry = self.registry.write();
        match &subscription.scope {
            Schema::Owner(owner) => registry.owners.entry(owner.clone()).or_default().push(subscription),
            Schema::All => registry.everybody.push(subscription),
        }
    }

    /// From now on it is not.
    pub(super) fn forget(&self, subscription: &Arc<Subscription>) {
        let take = |all: &mut Vec<Arc<Subscription>>| {
            let at = all.iter().position(|other| Arc::ptr_eq(other, subscription));
            at.map(|at| all.swap_remove(at))
        };
        let mut registry = self.registry.write();
        // It may be the last of its kind, and has better things to do than to be dropped under the lock.
        let taken = match &subscription.scope {
            Schema::All => take(&mut registry.everybody),
            Schema::Owner(owner) => {
                let Some(all) = registry.owners.get_mut(owner) else { return };
                let taken = take(all);
                if all.is_empty() {
                    registry.owners.remove(owner);
                }
                taken
            }
        };
        drop(registry);
        drop(taken);
    }

    /// Everything that is told of a commit has its number and this.
    pub(super) fn position(&self, seq: Seq, n: u32) -> Position {
        Position { epoch: self.store.epoch(), seq, n }
    }

    fn hand_out(self: &Arc<Self>, commit: &Arc<Commit>) {
        for (shape, parts) in self.concerned(commit) {
            match shape.lane.enter(Job::new(Arc::clone(commit), parts)) {
                Entered::Waits => {}
                Entered::First => self.spawn(Arc::clone(self).run_lane(shape)),
                Entered::Full(job) => self.give_up(&job),
            }
        }
    }

    /// Does what waits in a lane, a turn at a time: who wants the same user's threads, or any, gets the next.
    async fn run_lane(self: Arc<Self>, shape: Arc<Shape>) {
        let mut next = shape.lane.next();
        while let Some(job) = next {
            let threads = job.share();
            // It is never closed; a job that nobody shares in concerns nobody.
            let place = match &threads {
                Some(threads) => threads.acquire().await.ok(),
                None => None,
            };
            let (hub, lane) = (Arc::clone(&self), Arc::clone(&shape));
            // It computes, perhaps for long: its thread is a lane's.
            let turn = self.threads.handle().spawn_blocking(move || {
                let begun = Instant::now();
                let mut job = Some(job);
                while let Some(now) = job {
                    hub.do_job(&lane, now);
                    job = lane.lane.next();
                    if begun.elapsed() > TURN {
                        break;
                    }
                }
                job
            });
            // It catches what panics; otherwise the threads have ended.
            next = turn.await.unwrap_or_default();
            drop(place);
        }
    }

    /// Tells a commit, whatever happens: a lane that ended in a panic would keep its subscriptions waiting for ever.
    fn do_job(&self, shape: &Shape, mut job: Job) {
        // Whose client has gone, or who has ended, is told nothing, and nothing is computed for them.
        job.leave_out_ended();
        if job.is_empty() {
            return;
        }
        let stage = Stage::lasting(BUDGET, too_slow);
        shape.work.renew(Arc::clone(&stage));
        let told = catch_unwind(AssertUnwindSafe(|| self.tell(shape, &mut job)));
        if told.is_err() {
            tracing::error!("a live query panicked");
            self.give_up(&job);
        } else if stage.goes_on().is_err() {
            self.end_slow(&job);
        }
        shape.work.renew(Stage::free());
    }

    /// Ends the subscriptions of a shape that takes too long.
    fn end_slow(&self, job: &Job) {
        for subscription in job.subscriptions() {
            subscription.session.fail(subscription.number, too_slow());
            self.forget(subscription);
        }
    }

    /// A commit is not told to those whom it concerns.
    fn give_up(&self, job: &Job) {
        for subscription in job.subscriptions() {
            subscription.session.lag(subscription.number);
            self.forget(subscription);
        }
    }

    /// The shapes of those who watch the commit's owners, and who of them is concerned by what.
    fn concerned(&self, commit: &Commit) -> Vec<(Arc<Shape>, Vec<Part>)> {
        let registry = self.registry.read();
        let mut watched: BTreeMap<&UserId, Vec<usize>> = BTreeMap::new();
        for (at, event) in commit.events.iter().enumerate() {
            if registry.owners.contains_key(&event.owner) {
                watched.entry(&event.owner).or_default().push(at);
            }
        }
        let mut concerned = Concerned { commit, shapes: HashMap::new() };
        for (owner, events) in &watched {
            concerned.add(registry.owners.get(*owner).into_iter().flatten(), events);
        }
        if !registry.everybody.is_empty() {
            let all: Vec<usize> = (0..commit.events.len()).collect();
            concerned.add(registry.everybody.iter(), &all);
        }
        concerned.shapes.into_values().collect()
    }

    /// The shapes that somebody has.
    #[cfg(test)]
    pub(super) fn shapes(&self) -> Vec<Arc<Shape>> {
        self.shapes.lock().known.values().filter_map(Weak::upgrade).collect()
    }

    /// The rows of these owners were left out: who watches them, or everybody's, begins again.
    fn these_lag(&self, owners: &BTreeSet<UserId>) {
        let mut registry = self.registry.write();
        let mut lagging = std::mem::take(&mut registry.everybody);
        lagging.extend(owners.iter().filter_map(|owner| registry.owners.remove(owner)).flatten());
        drop(registry);
        tracing::warn!(owners = owners.len(), "live queries did not keep up with somebody's commits, and begin again");
        for subscription in lagging {
            subscription.session.lag(subscription.number);
        }
    }

    fn everybody_lags(&self) {
        let registry = std::mem::take(&mut *self.registry.write());
        tracing::warn!("live queries did not keep up with the commits, and begin again");
        for subscription in registry.owners.into_values().flatten().chain(registry.everybody) {
            subscription.session.lag(subscription.number);
        }
    }
}

fn too_slow() -> Error {
    Error::new(
        ErrorCode::QueryTimeout,
        format!(
            "This live query takes longer than {} second for one commit, and has ended; make its filter simpler, and \
             subscribe again.",
            BUDGET.as_secs()
        ),
    )
}

/// The subscriptions that a commit concerns, by their shapes.
struct Concerned<'a> {
    commit: &'a Commit,
    shapes: HashMap<*const Shape, (Arc<Shape>, Vec<Part>)>,
}

impl Concerned<'_> {
    /// Adds subscriptions that are told of these events as far as they are about their tables.
    fn add<'s>(&mut self, subscriptions: impl Iterator<Item = &'s Arc<Subscription>>, events: &[usize]) {
        let mut by_shape: HashMap<*const Shape, Vec<Arc<Subscription>>> = HashMap::new();
        for subscription in subscriptions {
            by_shape.entry(Arc::as_ptr(&subscription.shape)).or_default().push(Arc::clone(subscription));
        }
        for (address, subscriptions) in by_shape {
            let Some(shape) = subscriptions.first().map(|first| Arc::clone(&first.shape)) else { continue };
            let is_of = |at: &&usize| LiveTable::of(&self.commit.events[**at].change) == shape.table();
            let events: Vec<usize> = events.iter().filter(is_of).copied().collect();
            if !events.is_empty() {
                let (_, parts) = self.shapes.entry(address).or_insert_with(|| (shape, Vec::new()));
                parts.push(Part { events, subscriptions });
            }
        }
    }
}
