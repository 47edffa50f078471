//! The registry of subscriptions: every commit is matched here against the subscriptions of its owners, and of nobody
//! else.
//!
//! Invariant: nothing is computed on the thread that listens. A commit goes to the delivery queues of the filters that are
//! concerned, in commit order; where a queue is full, or the store has left commits out, the subscriptions concerned end
//! and are told to resume. Lanes run on a few threads of their own, of which one user has half at most; what takes too
//! long for one commit ends with an error.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use kalamdb_protocol::{ErrorCode, Position, UserId};
use kalamdb_store::{Commit, Feed, FeedItem, Seq, Store};
use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};

use super::{
    delivery::{Audience, Delivery, Entered},
    filter::CompiledFilter,
    rows::LiveTable,
    statement::{LiveStatement, Understood},
    subscription::Subscription,
};
use crate::{
    Error, LiveSettings, Result, Settings,
    read::{Reader, View},
    sql::Schema,
    workers::{Stage, Threads},
};

/// The number of filters from which they are looked through for ones that no subscription uses any more: when there are
/// twice as many as the last time, and not below this.
const FEW_FILTERS: usize = 64;

/// The time that a filter may take for one commit: a thousand times what most take. A filter that takes longer ends.
const BUDGET: Duration = Duration::from_secs(1);
/// The time that a queue keeps a thread for which others wait.
const TURN: Duration = Duration::from_millis(10);
/// The wait for the threads at the server's end: no turn takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The registry of subscriptions, and the threads that tell them of commits.
pub(crate) struct Hub {
    pub(super) store: Store,
    pub(super) reader: Reader,
    threads: Threads,
    /// The runtime on which lookups run; a delivery blocks its own thread for them.
    lookups: Handle,
    pub(super) settings: LiveSettings,
    /// Threads of delivery queues that one user may have at the same time.
    pub(super) share: usize,
    registry: RwLock<Registry>,
    filters: Mutex<Filters>,
    /// Users who have open sessions.
    users: Mutex<HashMap<UserId, UserSessions>>,
}

/// A user with open sessions.
struct UserSessions {
    sessions: usize,
    share: Arc<Semaphore>,
}

/// The subscriptions, by whose rows they are of.
#[derive(Default)]
struct Registry {
    owners: HashMap<UserId, Vec<Arc<Subscription>>>,
    everybody: Vec<Arc<Subscription>>,
}

/// The filters that subscriptions use.
#[derive(Default)]
struct Filters {
    known: HashMap<Arc<LiveStatement>, Weak<CompiledFilter>>,
    look_at: usize,
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
        let delivery_threads = settings.query.threads.max(2);
        // Two threads for what waits most of the time: the listener, and the beginnings of subscriptions.
        let threads = Threads::start("kalamdb-live", 2, delivery_threads)?;
        let listener = threads.handle().clone();
        let hub = Arc::new(Self {
            store,
            reader,
            threads,
            lookups,
            settings: settings.live.clone(),
            share: delivery_threads / 2,
            registry: RwLock::default(),
            filters: Mutex::default(),
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

    /// Waits, in a queue, for what is looked up.
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
                Some(FeedItem::Commit(commit)) => self.hand_out(&commit),
                Some(FeedItem::Missed) => self.everybody_lags(),
                Some(FeedItem::MissedOf(owners)) => self.these_lag(&owners),
                None => return,
            }
        }
    }

    /// A place for one more session of the user's, and the user's share of the queues' threads.
    ///
    /// # Errors
    /// `rate_limited` when there is none.
    pub(super) fn enter(&self, user: &UserId) -> Result<Arc<Semaphore>> {
        let max = self.settings.max_sessions_per_user;
        let mut users = self.users.lock();
        let new = || UserSessions { sessions: 0, share: Arc::new(Semaphore::new(self.share)) };
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

    /// The filter of a statement, compiled unless somebody has it already.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub(super) fn filter(&self, view: &View, understood: &Understood) -> Result<Arc<CompiledFilter>> {
        if let Some(filter) = self.known_filter(&understood.statement) {
            return Ok(filter);
        }
        let compiled = Arc::new(CompiledFilter::compile(view, understood)?);
        let mut filters = self.filters.lock();
        // Another session may have compiled the same statement meanwhile.
        if let Some(filter) = filters.known.get(&understood.statement).and_then(Weak::upgrade) {
            return Ok(filter);
        }
        if filters.known.len() >= filters.look_at {
            filters.known.retain(|_, filter| filter.strong_count() > 0);
            filters.look_at = (filters.known.len() * 2).max(FEW_FILTERS);
        }
        filters.known.insert(Arc::clone(&compiled.statement), Arc::downgrade(&compiled));
        Ok(compiled)
    }

    fn known_filter(&self, statement: &LiveStatement) -> Option<Arc<CompiledFilter>> {
        self.filters.lock().known.get(statement)?.upgrade()
    }

    /// Registers a subscription: from now on it is told of commits.
    pub(super) fn register(&self, subscription: Arc<Subscription>) {
        let mut registry = self.registry.write();
        match &subscription.scope {
            Schema::Owner(owner) => registry.owners.entry(owner.clone()).or_default().push(subscription),
            Schema::All => registry.everybody.push(subscription),
        }
    }

    /// Takes a subscription out: from now on it is not told of commits.
    pub(super) fn forget(&self, subscription: &Arc<Subscription>) {
        let take = |all: &mut Vec<Arc<Subscription>>| {
            let at = all.iter().position(|other| Arc::ptr_eq(other, subscription));
            at.map(|at| all.swap_remove(at))
        };
        let mut registry = self.registry.write();
        // The last clone of a subscription must not be dropped under this lock: with it goes its watch, which takes the
        // store's lock of watched owners.
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

    /// The position of a commit's change, as clients get it.
    pub(super) fn position(&self, seq: Seq, n: u32) -> Position {
        Position { epoch: self.store.epoch(), seq, n }
    }

    fn hand_out(self: &Arc<Self>, commit: &Arc<Commit>) {
        for (filter, audiences) in self.concerned(commit) {
            match filter.deliveries.enter(Delivery::new(Arc::clone(commit), audiences)) {
                Entered::Waits => {}
                Entered::First => self.spawn(Arc::clone(self).run_deliveries(filter)),
                Entered::Full(delivery) => self.give_up(&delivery),
            }
        }
    }

    /// Works on a queue, a turn at a time: between turns other queues of the same user, and of others, get the thread.
    async fn run_deliveries(self: Arc<Self>, filter: Arc<CompiledFilter>) {
        let mut next = filter.deliveries.next();
        while let Some(delivery) = next {
            let threads = delivery.share();
            // The semaphore is never closed; a delivery without a share has no subscriptions left.
            let place = match &threads {
                Some(threads) => threads.acquire().await.ok(),
                None => None,
            };
            let (hub, queued) = (Arc::clone(&self), Arc::clone(&filter));
            // Judging computes, perhaps for long: it has a thread that may block.
            let turn = self.threads.handle().spawn_blocking(move || {
                let begun = Instant::now();
                let mut delivery = Some(delivery);
                while let Some(now) = delivery {
                    hub.deliver(&queued, now);
                    delivery = queued.deliveries.next();
                    if begun.elapsed() > TURN {
                        break;
                    }
                }
                delivery
            });
            // Panics are caught within; a turn fails only when the threads have ended.
            next = turn.await.unwrap_or_default();
            drop(place);
        }
    }

    /// Tells a commit, whatever happens: a queue that ended in a panic would keep its subscriptions waiting for ever.
    fn deliver(&self, filter: &CompiledFilter, mut delivery: Delivery) {
        // Subscriptions that have ended, or whose client has gone, are told nothing, and nothing is computed for them.
        delivery.leave_out_ended();
        if delivery.is_empty() {
            return;
        }
        let stage = Stage::lasting(BUDGET, too_slow);
        filter.work.renew(Arc::clone(&stage));
        let told = catch_unwind(AssertUnwindSafe(|| self.tell(filter, &mut delivery)));
        if told.is_err() {
            tracing::error!("a live query panicked");
            self.give_up(&delivery);
        } else if stage.goes_on().is_err() {
            self.end_slow(&delivery);
        }
        filter.work.renew(Stage::free());
    }

    /// Ends the subscriptions of a filter that takes too long.
    fn end_slow(&self, delivery: &Delivery) {
        for subscription in delivery.subscriptions() {
            subscription.session.fail(subscription.number, too_slow());
            self.forget(subscription);
        }
    }

    /// Ends the subscriptions of a delivery as lagging, because they are not told of its commit.
    fn give_up(&self, delivery: &Delivery) {
        for subscription in delivery.subscriptions() {
            subscription.session.lag(subscription.number);
            self.forget(subscription);
        }
    }

    /// The filters of those who watch the commit's owners, and who of them is concerned by what.
    fn concerned(&self, commit: &Commit) -> Vec<(Arc<CompiledFilter>, Vec<Audience>)> {
        let registry = self.registry.read();
        let mut watched: BTreeMap<&UserId, Vec<usize>> = BTreeMap::new();
        for (at, event) in commit.events.iter().enumerate() {
            if registry.owners.contains_key(&event.owner) {
                watched.entry(&event.owner).or_default().push(at);
            }
        }
        let mut concerned = Concerned { commit, filters: HashMap::new() };
        for (owner, events) in &watched {
            concerned.add(registry.owners.get(*owner).into_iter().flatten(), events);
        }
        if !registry.everybody.is_empty() {
            let all: Vec<usize> = (0..commit.events.len()).collect();
            concerned.add(registry.everybody.iter(), &all);
        }
        concerned.filters.into_values().collect()
    }

    /// The filters that subscriptions use.
    #[cfg(test)]
    pub(super) fn filters(&self) -> Vec<Arc<CompiledFilter>> {
        self.filters.lock().known.values().filter_map(Weak::upgrade).collect()
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

/// The subscriptions that a commit concerns, by their filters.
struct Concerned<'a> {
    commit: &'a Commit,
    filters: HashMap<*const CompiledFilter, (Arc<CompiledFilter>, Vec<Audience>)>,
}

impl Concerned<'_> {
    /// Adds subscriptions that are told of these events as far as they are about their tables.
    fn add<'s>(&mut self, subscriptions: impl Iterator<Item = &'s Arc<Subscription>>, events: &[usize]) {
        let mut by_filter: HashMap<*const CompiledFilter, Vec<Arc<Subscription>>> = HashMap::new();
        for subscription in subscriptions {
            by_filter.entry(Arc::as_ptr(&subscription.filter)).or_default().push(Arc::clone(subscription));
        }
        for (address, subscriptions) in by_filter {
            let Some(filter) = subscriptions.first().map(|first| Arc::clone(&first.filter)) else { continue };
            let is_of = |at: &&usize| LiveTable::of(&self.commit.events[**at].change) == filter.table();
            let events: Vec<usize> = events.iter().filter(is_of).copied().collect();
            if !events.is_empty() {
                let (_, audiences) = self.filters.entry(address).or_insert_with(|| (filter, Vec::new()));
                audiences.push(Audience { events, subscriptions });
            }
        }
    }
}
