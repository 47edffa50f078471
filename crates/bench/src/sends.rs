//! Single messages: how fast they are taken, beside what the server and the disk could do at all.
//!
//! Invariant: the durability is the server's own, as configured; every send is acknowledged before it counts.

use std::{
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use kalamdb_protocol::{ConversationId, SendMessageRequest};
use serde_json::json;

use crate::{
    Failure, Scale,
    data::sentence,
    http::{Bounds, Call, Load, Target, closed_loop},
    report::{Report, load_value, mebibytes, quantile_ms, whole},
    server::{Program, Server, User},
};

/// Sends in flight.
const CONCURRENCY: [usize; 2] = [1, 64];

/// The time for which the disk's syncs are counted.
const SYNC_TIME: Duration = Duration::from_secs(2);

/// Measures sends in both durabilities, and the server's memory before and after.
pub(crate) async fn measure(program: &Program, scale: Scale, report: &mut Report) -> Result<(), Failure> {
    for durability in ["sync", "os"] {
        report.heading(&format!("Sends, rocksdb.durability = \"{durability}\""));
        let syncs = syncs_per_second(&program.folder)?;
        report.value(format!("syncsPerSecond.{durability}"), json!(syncs));
        let server = program.start(&format!("sends-{durability}"), &[("rocksdb.durability", durability)])?;
        let at_rest = server.resident_bytes()?;
        let targets = targets(&server)?;
        for in_flight in CONCURRENCY {
            let targets = &targets[..in_flight];
            let noop = closed_loop(targets, scale.bounds(200_000, 5), |_, _| health()).await?;
            let sends = closed_loop(targets, scale.bounds(100_000, 20), send).await?;
            report_sends(report, durability, in_flight, &sends, &noop, syncs);
        }
        let after = server.resident_bytes()?;
        report.value(format!("residentBytes.{durability}"), json!({ "atRest": at_rest, "afterSends": after }));
        report.figure("memory at rest", mebibytes(at_rest), format!("{} after the sends", mebibytes(after)));
        server.stop()?;
    }
    Ok(())
}

fn report_sends(report: &mut Report, durability: &str, in_flight: usize, sends: &Load, noop: &Load, syncs: f64) {
    let (rate, noop_rate) = (sends.rate(), noop.rate());
    report.value(
        format!("sends.{durability}.{in_flight}"),
        json!({
            "sends": load_value(sends),
            "health": load_value(noop),
            "ofHealth": rate / noop_rate,
            "perSync": rate / syncs,
        }),
    );
    let of_disk = if durability == "sync" {
        format!(", {:.2} for each of the disk's {} syncs/s", rate / syncs, whole(syncs))
    } else {
        String::new()
    };
    report.figure(
        format!("{in_flight} in flight"),
        format!("{}/s", whole(rate)),
        format!(
            "{:.2} of the health route's {}/s{of_disk}; p50 {:.2} ms, p99 {:.2} ms",
            rate / noop_rate,
            whole(noop_rate),
            quantile_ms(&sends.latency, 0.5),
            quantile_ms(&sends.latency, 0.99),
        ),
    );
}

/// Each connection is a user of its own, as in life.
fn targets(server: &Server) -> Result<Vec<Target>, Failure> {
    let most = CONCURRENCY.iter().copied().max().unwrap_or(1);
    (0..most).map(|number| server.target(&User { id: &format!("user_{number}"), admin: false })).collect()
}

pub(crate) fn health() -> Call {
    Call { path: "/api/v1/health", body: None }
}

fn send(worker: usize, n: u64) -> Call {
    // A few conversations for each user; the id is valid by its letters.
    let id = format!("conv_{}", n % 8);
    let body = ConversationId::new(&id).ok().map(|conversation| {
        let content = sentence((worker as u64) << 32 | n);
        json!(SendMessageRequest::new(conversation, content))
    });
    Call { path: "/api/v1/messages", body }
}

/// The rate at which the disk makes a small append durable: what a synced commit costs at least.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn syncs_per_second(folder: &Path) -> Result<f64, Failure> {
    let mut file = File::create(folder.join("syncs"))?;
    let block = [0_u8; 512];
    let started = Instant::now();
    let mut count = 0_u64;
    while started.elapsed() < SYNC_TIME {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

impl Scale {
    /// At most so many requests and seconds.
    pub(crate) fn bounds(self, requests: u64, seconds: u64) -> Bounds {
        Bounds { requests: self.of(requests), time: Duration::from_secs(self.of(seconds).max(1)) }
    }
}
