//! Single messages: how fast they are taken, beside others and beside what the server and the disk could do at all.
//!
//! Invariant: every send is of a member who is checked, and acknowledged before it counts; the disk has it by then where
//! the heading says `sync`.

use futures::future::{FutureExt as _, LocalBoxFuture};
use serde_json::json;

use super::{Bench, Cells, comparison};
use crate::{
    Failure,
    data::History,
    machine::syncs_per_second,
    peers::{
        Ask, Durability, Peer, ROOMS, Room,
        kalamdb::KalamDb,
        pocketbase::PocketBase,
        postgres::{Cluster, Pgbench, Postgres},
        redis::Redis,
    },
    report::{Report, whole},
};

/// Sends at the same time.
const IN_FLIGHT: [usize; 2] = [1, 64];

/// What KalamDB is compared with.
const POSTGRES: &str = "PostgreSQL behind HTTP";

/// Starts KalamDB and all peers that are here, with the same in them. A peer with which that fails is left out, and it is said.
pub(super) async fn start(
    bench: &Bench,
    name: &str,
    durability: Durability,
    history: Option<&History>,
    report: &mut Report,
) -> Result<(KalamDb, Vec<Box<dyn Peer>>), Failure> {
    let mut others = Vec::new();
    for starting in [postgres, pocketbase, redis] {
        let started = starting(bench, name, durability);
        let mut started = started.await.unwrap_or_else(|Failure(why)| {
            report.failed("starting a peer", &why);
            Vec::new()
        });
        for mut peer in started.drain(..) {
            match peer.fill(history).await {
                Ok(()) => others.push(peer),
                Err(Failure(why)) => report.failed(&format!("giving the rows to {}", peer.name()), &why),
            }
        }
    }
    let mut ours = KalamDb::start(&bench.program, name, durability)?;
    ours.fill(history).await?;
    Ok((ours, others))
}

/// Peers of one kind that are starting; none where it is not installed.
type Starting<'a> = LocalBoxFuture<'a, Result<Vec<Box<dyn Peer>>, Failure>>;

fn postgres<'a>(bench: &'a Bench, _name: &'a str, durability: Durability) -> Starting<'a> {
    async move {
        let folder = &bench.program.folder;
        let Some(cluster) = Cluster::start(folder.parent().unwrap_or(folder), durability)? else {
            return Ok(Vec::new());
        };
        let (thin, alone) = (Postgres::start(&cluster, folder)?, Pgbench::new(&cluster));
        Ok(vec![Box::new(thin) as Box<dyn Peer>, Box::new(alone)])
    }
    .boxed_local()
}

fn pocketbase<'a>(bench: &'a Bench, name: &'a str, durability: Durability) -> Starting<'a> {
    async move {
        let (Some(program), Durability::Os) = (&bench.pocketbase, durability) else { return Ok(Vec::new()) };
        let pocketbase = PocketBase::start(program, &bench.program.folder, &format!("{name}-pocketbase")).await?;
        Ok(vec![Box::new(pocketbase) as Box<dyn Peer>])
    }
    .boxed_local()
}

fn redis<'a>(bench: &'a Bench, name: &'a str, durability: Durability) -> Starting<'a> {
    async move {
        let redis = Redis::start(&bench.program.folder, &format!("{name}-redis"), durability)?;
        Ok(redis.into_iter().map(|redis| Box::new(redis) as Box<dyn Peer>).collect())
    }
    .boxed_local()
}

/// All of them, ours first.
pub(super) fn all<'a>(ours: &'a KalamDb, others: &'a [Box<dyn Peer>]) -> Vec<&'a dyn Peer> {
    let others = others.iter().map(|peer| &**peer);
    std::iter::once(ours as &dyn Peer).chain(others).collect()
}

/// Measures sends in both durabilities, then to groups.
pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    for durability in [Durability::Sync, Durability::Os] {
        let word = durability.word();
        let (ours, others) = start(bench, &format!("sends-{word}"), durability, None, report).await?;
        if bench.wants(&["sends"]) {
            measure_one_room(bench, durability, &ours, &others, report).await?;
        }
        if bench.wants(&["groups"]) && durability == Durability::Os {
            measure_groups(bench, &ours, &others, report).await;
        }
        ours.server.stop()?;
    }
    Ok(())
}

async fn measure_one_room(
    bench: &Bench,
    durability: Durability,
    ours: &KalamDb,
    others: &[Box<dyn Peer>],
    report: &mut Report,
) -> Result<(), Failure> {
    let word = durability.word();
    comparison(report, format!("Single sends into one room, acknowledged: {word}"));
    let syncs = syncs_per_second(&bench.program.folder)?;
    report.value(format!("syncsPerSecond.{word}"), json!(syncs));
    report.note(format!(
        "`{word}` is `rocksdb.durability = \"{word}\"`, PostgreSQL's `synchronous_commit` {}. The disk makes {} small \
         appends durable in a second, one after the other.",
        if durability == Durability::Sync {
            "on and Redis's `appendfsync` always"
        } else {
            "off and Redis's `appendfsync` everysec"
        },
        whole(syncs),
    ));
    for in_flight in IN_FLIGHT {
        let (name, what) = (format!("sends.{word}.{in_flight}"), format!("{in_flight} in flight"));
        let mut health = Cells::default();
        if in_flight > 1 {
            let idle = format!("{what}, the health route");
            health = bench.compare(&format!("{name}.health"), &idle, Ask::Health, in_flight, &[ours], report).await;
        }
        let ask = Ask::Send(Room::Of(1));
        let sends = bench.compare(&name, &what, ask, in_flight, &all(ours, others), report).await;
        report_goals(durability, in_flight, &sends, &health, syncs, report);
    }
    Ok(())
}

fn report_goals(
    durability: Durability,
    in_flight: usize,
    sends: &Cells,
    health: &Cells,
    syncs: f64,
    report: &mut Report,
) {
    let what = format!("single sends, {in_flight} in flight, {}: times {POSTGRES}", durability.word());
    let wanted = match (durability, in_flight) {
        (Durability::Sync, 1) => 1.3,
        (Durability::Os, 1) => 1.8,
        (Durability::Sync, _) => 3.0,
        (Durability::Os, _) => 4.0,
    };
    report.at_least(what, wanted, "×", sends.times(POSTGRES));
    let rate = sends.ours().map(|cell| cell.rate.median);
    if in_flight == 1 {
        return;
    }
    match durability {
        Durability::Sync => {
            report.at_least("the same, for each of the disk's syncs", 2.0, "sends", rate.map(|rate| rate / syncs));
        }
        Durability::Os => {
            let noop = health.ours().map(|cell| cell.rate.median);
            let part = rate.zip(noop).map(|(rate, noop)| rate / noop);
            report.at_least("the same, of the health route's rate", 0.7, "of it", part);
        }
    }
}

async fn measure_groups(bench: &Bench, ours: &KalamDb, others: &[Box<dyn Peer>], report: &mut Report) {
    comparison(report, "Sends to groups, 64 in flight, acknowledged: os");
    report.note(
        "KalamDB gives each member a copy and an unread count, and has told who watches; the others store the message once, \
         and whoever reads is checked then.",
    );
    for members in ROOMS.into_iter().filter(|members| *members > 1) {
        let (name, what) = (format!("groups.{members}"), format!("{members} members"));
        let ask = Ask::Send(Room::Of(members));
        // The others would do the same again as for one member.
        let differ = ["KalamDB", POSTGRES, "PocketBase"];
        let peers: Vec<&dyn Peer> =
            all(ours, others).into_iter().filter(|peer| differ.contains(&peer.name())).collect();
        bench.compare(&name, &what, ask, 64, &peers, report).await;
    }
}
