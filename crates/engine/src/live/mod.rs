//! Live queries: rows of a subscription as they come, change and go.
//!
//! Invariant: nothing here holds up a writer or another subscriber: every queue is bounded, and who does not keep up is
//! told where to resume.
//!
//! The journey of a `subscription`: `statement` understands its statement, `filter` compiles it once for all who ask the same,
//! `hub` registers it, `replay` answers and tells what was missed (`missed`, from the change log of `log`), and from
//! then on it is live. The journey of a commit: `hub` finds who watches its owners, a filter's `delivery` keeps commits in
//! order, `tell` says what it means, and each `session` queues the frames (`frame`) for its client.

mod delivery;
mod filter;
mod frame;
mod hub;
mod log;
mod lookup;
mod missed;
mod replay;
mod rows;
mod session;
mod statement;
mod subscription;
mod tell;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use hub::Hub;
use kalamdb_protocol::{ErrorCode, Params, Position, QueryRequest, Subscribe};

use self::{
    filter::CompiledFilter,
    replay::Replay,
    rows::LiveTable,
    session::{Number, Session},
    statement::understand,
    subscription::Subscription,
};
use crate::{
    Caller, Engine, Error, Inner, Result,
    sql::{self, Foreign, Schema, Statement},
    write,
};

/// A frame on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFrame {
    /// The frame's `type`.
    pub kind: &'static str,
    /// The position from which a client that has this frame may resume; `None` where a position alone is not enough:
    /// for errors, and while a replay by `lastMsgId` is not complete.
    pub position: Option<Position>,
    /// The frame's JSON text: `{"type":"pong"}`.
    pub text: String,
}

/// The subscriptions of one client, and the frames on their way to it. Dropping it ends them.
pub struct LiveSession {
    engine: Engine,
    caller: Caller,
    session: Arc<Session>,
}

/// A statement that can be live, ready for a subscription.
struct Ready {
    scope: Schema,
    filter: Arc<CompiledFilter>,
    foreign: Vec<Foreign>,
}

impl Engine {
    /// Opens a session.
    ///
    /// # Errors
    /// `rate_limited` when the user has too many.
    pub fn live(&self, caller: &Caller) -> Result<LiveSession> {
        let hub = &self.0.live;
        let share = hub.enter(&caller.user)?;
        let session = Session::new(hub.settings.queue_frames, hub.settings.queue_bytes, share);
        Ok(LiveSession { engine: self.clone(), caller: caller.clone(), session })
    }
}

impl LiveSession {
    /// Begins a subscription; what it tells comes out of [`LiveSession::next`], `subscribe_ack` first. Returns its id.
    ///
    /// # Errors
    /// What is wrong with the statement; `conflict` when the id is in use, `rate_limited` when there are too many.
    pub async fn subscribe(&self, request: Subscribe) -> Result<String> {
        let Subscribe { id, last_msg_id: above, after, .. } = &request;
        let replay = Replay { after: *after, above: *above };
        let hub = &self.engine.0.live;
        let (number, id) = self.session.open(id.clone(), hub.settings.max_subscriptions)?;
        let mut opening = Opening { session: &self.session, number, stands: false };
        let Ready { scope, filter, foreign } = self.ready(statement(request)?).await?;
        if replay.above.is_some() && filter.table() != LiveTable::Messages {
            return Err(invalid("lastMsgId is for messages; give `after` to see what happened to other rows."));
        }
        write::record_read(&hub.store, &self.caller, &foreign).await?;
        let owner = match &scope {
            Schema::Owner(owner) => Some(owner.clone()),
            Schema::All => None,
        };
        let watching = hub.store.watch(owner).await?;
        let (session, name) = (Arc::clone(&self.session), serde_json::Value::from(id.as_ref()).to_string().into());
        let subscription = Arc::new(Subscription { number, session, filter, scope, id: name, _watching: watching });
        if !self.session.attach(&subscription, hub.store.last_seq()?) {
            return Err(Error::new(ErrorCode::NotFound, "The subscription was ended before it began."));
        }
        opening.stands = true;
        hub.register(Arc::clone(&subscription));
        hub.spawn(replay::begin(self.engine.clone(), self.caller.clone(), subscription, replay));
        Ok(id.as_ref().to_owned())
    }

    /// Understands and compiles a statement, on the threads where statements are planned.
    async fn ready(&self, query: QueryRequest) -> Result<Ready> {
        let (inner, caller) = (Arc::clone(&self.engine.0), self.caller.clone());
        let ticket = inner.workers.admit(&caller.user).await?;
        ticket.run(async move { inner.ready(&caller, &query) }).await
    }

    /// Ends a subscription: nothing of it comes out any more.
    ///
    /// # Errors
    /// `not_found` when there is none of that id.
    pub fn unsubscribe(&self, id: &str) -> Result<()> {
        let Some((number, subscription)) = self.session.named(id) else {
            return Err(Error::new(ErrorCode::NotFound, "There is no subscription of this id; it may have ended."));
        };
        self.session.close(number);
        if let Some(subscription) = subscription.upgrade() {
            self.engine.0.live.forget(&subscription);
        }
        Ok(())
    }

    /// The next frame. Cancel-safe; for one reader at a time.
    pub async fn next(&self) -> LiveFrame {
        self.session.next().await
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        let hub = &self.engine.0.live;
        for subscription in self.session.close_all() {
            hub.forget(&subscription);
        }
        hub.leave(&self.caller.user);
    }
}

impl Inner {
    fn ready(&self, caller: &Caller, query: &QueryRequest) -> Result<Ready> {
        let Statement::Read(read) = sql::parse(caller, query, self.max_statement_bytes)? else {
            let message = "A live query is a SELECT; send statements that write as queries.";
            return Err(Error::new(ErrorCode::Unsupported, message));
        };
        let view = self.reader.view(caller, self.store.snapshot());
        let understood = understand(&view, &read)?;
        let filter = self.live.filter(&view, &understood)?;
        Ok(Ready { scope: understood.scope, filter, foreign: read.foreign })
    }
}

/// The opening of a subscription that does not stand yet: taken out again when its beginning fails or is given up.
struct Opening<'a> {
    session: &'a Session,
    number: Number,
    stands: bool,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if !self.stands {
            self.session.close(self.number);
        }
    }
}

/// The statement that a client subscribes to.
fn statement(request: Subscribe) -> Result<QueryRequest> {
    let Subscribe { sql, params, conversation_id, conversation_type, .. } = request;
    if let Some(sql) = sql {
        if conversation_id.is_some() || conversation_type.is_some() {
            return Err(invalid("Give sql or conversationId, not both; sql can have the conversation in its WHERE."));
        }
        return Ok(QueryRequest { sql, params });
    }
    if params.is_some() {
        return Err(invalid("params are for the placeholders of sql; there is no sql."));
    }
    let mut query = QueryRequest { sql: "SELECT * FROM messages".to_owned(), params: None };
    match (conversation_id, conversation_type) {
        (None, None) => {}
        (None, Some(_)) => return Err(invalid("conversationType goes with a conversationId; give that too.")),
        (Some(id), None) => {
            query.sql.push_str(" WHERE conversationId = $1");
            query.params = Some(Params::Positional(vec![id.as_str().into()]));
        }
        (Some(id), Some(kind)) => {
            query.sql.push_str(" WHERE conversationId = $1 AND conversationType = $2");
            query.params = Some(Params::Positional(vec![id.as_str().into(), kind.as_str().into()]));
        }
    }
    Ok(query)
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorCode::InvalidValue, message)
}
