//! An empty server that nobody asks anything: its memory and its bytes on the disk.
//!
//! Invariant: the settings are those that a stranger gets.

use serde_json::json;

use super::Bench;
use crate::{
    Failure,
    machine::disk_bytes,
    report::{Report, as_mebibytes, mebibytes},
};

/// Measures it.
pub(crate) fn measure(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    report.heading("An empty server at rest");
    let server = bench.program.start("rest", &[])?;
    let (memory, disk) = (server.memory_bytes(), disk_bytes(server.data())?);
    server.stop()?;
    report.value("rest", json!({ "memoryBytes": memory, "diskBytes": disk }));
    report.figure("memory", mebibytes(memory), "of its own: what it shares with other processes counts in part");
    report.figure("disk", mebibytes(disk), "blocks of its folder, with what is set aside");
    report.at_most("memory of an empty server", 40.0, "MiB", Some(as_mebibytes(memory)));
    report.at_most("disk of an empty server", 2.0, "MiB", Some(as_mebibytes(disk)));
    Ok(())
}
