//! A subscription's beginning: its answer, what its client has missed, and the change to what happens now.
//!
//! Invariant: all of it comes from one snapshot, taken after the subscription was registered; what the hub brings of
//! later commits waits until the snapshot has been told. So nothing is left out, and nothing told twice. A replay is
//! read in parts, each when its client has taken enough of the last, and for as long as a snapshot may be held for its
//! client's sake; then it goes on in another subscription.

use std::sync::Arc;

use kalamdb_protocol::{MsgId, Position};
use kalamdb_store::Snapshot;
use tokio::time::{Instant, timeout_at};

use super::{
    LiveFrame, frame,
    frame::News,
    log::ChangeLog,
    missed::{MessagePage, Missed, changed, page},
    session::Interrupted,
    subscription::Subscription,
};
use crate::{Caller, Engine, Error, Result, workers::Stage};

/// Entries of the change log that are told together.
const ENTRIES: usize = 512;

/// The replay that a client asks for before what is live.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replay {
    /// The position after which changes are replayed.
    pub after: Option<Position>,
    /// The messages with higher ids than this. With `after`, what happened to others.
    pub above: Option<MsgId>,
}

/// Why a beginning was broken off.
enum Broken {
    Interrupted(Interrupted),
    /// The change log does not reach back that far any more.
    Forgotten,
    Failed(Error),
}

impl From<Interrupted> for Broken {
    fn from(ended: Interrupted) -> Self {
        Self::Interrupted(ended)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<kalamdb_store::Error> for Broken {
    fn from(error: kalamdb_store::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Begins a subscription that is registered.
pub(super) async fn begin(engine: Engine, caller: Caller, subscription: Arc<Subscription>, replay: Replay) {
    let hub = Arc::clone(&engine.0.live);
    let (session, number) = (Arc::clone(&subscription.session), subscription.number);
    let mut above = replay.above;
    let begun = async {
        let here = tell(engine, caller, &subscription, replay, &mut above).await?;
        session.go_live(number, here).await.map_err(Broken::Interrupted)
    };
    match begun.await {
        Ok(()) => return,
        Err(Broken::Interrupted(Interrupted::Gone)) => {}
        Err(Broken::Interrupted(Interrupted::Stalled)) => session.stall(number, above),
        Err(Broken::Forgotten) => session.end(number, frame::resync),
        Err(Broken::Failed(error)) => session.end(number, |id| frame::failed(id, error)),
    }
    hub.forget(&subscription);
}

/// Answers and replays; says where the snapshot stood. `above` is what is left to replay by id.
async fn tell(
    engine: Engine,
    caller: Caller,
    subscription: &Arc<Subscription>,
    replay: Replay,
    above: &mut Option<MsgId>,
) -> Result<Position, Broken> {
    let hub = &engine.0.live;
    let snapshot = hub.store.snapshot();
    let deadline = Instant::now() + hub.settings.replay_within;
    let here = hub.position(snapshot.seq()?, u32::MAX);
    let log = match replay.after {
        Some(after) => Some(open_log(subscription, &snapshot, after, here)?),
        None => None,
    };
    let told = replay.after.unwrap_or(here);
    subscription.session.begin(subscription.number, here.seq, told);
    let id = subscription.name();
    let mut run = ReplayRun {
        engine: &engine,
        caller: &caller,
        subscription,
        snapshot,
        deadline,
        told,
        rows: 0,
        highest: *above,
    };
    run.put(frame::ack(&id, told, above.is_none()), told).await?;
    if let Some(log) = log {
        run.by_log(log, *above).await?;
    }
    run.told = here;
    run.by_id(above).await?;
    if replay.after.is_some() || replay.above.is_some() {
        run.put(frame::replay_complete(&id, here, run.rows, run.highest), here).await?;
    }
    Ok(here)
}

fn open_log(
    subscription: &Subscription,
    snapshot: &Snapshot,
    after: Position,
    here: Position,
) -> Result<ChangeLog, Broken> {
    if after.epoch != here.epoch || after.seq > here.seq {
        return Err(Broken::Forgotten);
    }
    ChangeLog::open(snapshot, &subscription.scope, (after.seq, after.n))?.ok_or(Broken::Forgotten)
}

/// A replay on its way.
struct ReplayRun<'a> {
    engine: &'a Engine,
    caller: &'a Caller,
    subscription: &'a Arc<Subscription>,
    snapshot: Snapshot,
    /// The time from which on nobody is waited for: what finds room at once is told all the same.
    deadline: Instant,
    /// The position that the client knows once it has taken what was put.
    told: Position,
    /// Rows told, and the highest message id among them.
    rows: u64,
    highest: Option<MsgId>,
}

impl ReplayRun<'_> {
    async fn put(&mut self, frame: LiveFrame, told: Position) -> Result<(), Broken> {
        let put = self.subscription.session.put(self.subscription.number, frame, told);
        timeout_at(self.deadline, put).await.unwrap_or(Err(Interrupted::Stalled))?;
        self.told = told;
        Ok(())
    }

    /// Puts what is told of a row; a client can go on from its position when nothing else is left `above` some id.
    async fn put_news(
        &mut self,
        news: &News,
        position: Position,
        msg_id: Option<MsgId>,
        above: Option<MsgId>,
    ) -> Result<(), Broken> {
        let frame = news.frame(&self.subscription.id, position);
        let frame = LiveFrame { position: above.is_none().then_some(position), ..frame };
        self.put(frame, position).await?;
        if !matches!(news, News::Delete(_)) {
            self.rows += 1;
            self.highest = self.highest.max(msg_id);
        }
        Ok(())
    }

    /// Tells what happened by the change log, but for messages above that id.
    async fn by_log(&mut self, mut log: ChangeLog, above: Option<MsgId>) -> Result<(), Broken> {
        loop {
            let from = self.told;
            let entries = log.next(ENTRIES)?.ok_or(Broken::Forgotten)?;
            // The log is let go whatever snapshots there are, so what was read may not be all there was.
            if self.engine.0.store.snapshot().changes(&self.caller.user, from.seq, from.n)?.is_none() {
                return Err(Broken::Forgotten);
            }
            let Some((_, last)) = entries.last() else { return Ok(()) };
            let until = Position { seq: last.seq, n: last.n, ..from };
            let missed = Missed { entries, from, until, above };
            let (subscription, snapshot) = (Arc::clone(self.subscription), self.snapshot.clone());
            let reader = self.engine.0.reader.clone();
            let ticket = self.engine.0.workers.admit(&self.caller.user).await?;
            subscription.filter.work.renew(Stage::free());
            let told = ticket.run(async move { changed(&reader, &snapshot, &subscription, missed).await }).await?;
            for (news, position, msg_id) in &told {
                self.put_news(news, *position, *msg_id, above).await?;
            }
            self.told = until;
        }
    }

    /// Tells the messages above an id, and notes how far that is.
    async fn by_id(&mut self, above: &mut Option<MsgId>) -> Result<(), Broken> {
        let Some(from) = *above else { return Ok(()) };
        let mut next = Some(MessagePage::first(from));
        while let Some(wanted) = next.take() {
            let (subscription, caller) = (Arc::clone(self.subscription), self.caller.clone());
            let (reader, snapshot) = (self.engine.0.reader.clone(), self.snapshot.clone());
            let ticket = self.engine.0.workers.admit(&self.caller.user).await?;
            subscription.filter.work.renew(Stage::free());
            let (rows, more) =
                ticket.run(async move { page(&reader, &caller, snapshot, &subscription, wanted).await }).await?;
            for (msg_id, text) in rows {
                self.put_news(&News::Message(text), self.told, Some(msg_id), Some(msg_id)).await?;
                // Other owners may have messages of the same id, which are still to come.
                *above = Some(if self.subscription.filter.statement.everybody { msg_id - 1 } else { msg_id });
            }
            next = more;
        }
        *above = None;
        Ok(())
    }
}
