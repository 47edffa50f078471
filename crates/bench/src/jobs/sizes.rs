//! The disk space of messages, beside the JSON they came from.
//!
//! Invariant: everything in the data folder counts, not only what compresses well.

use serde_json::json;

use super::Bench;
use crate::{
    Failure,
    data::RealData,
    machine::{disk_bytes, files_below},
    peers::kalamdb::Server,
    report::{Report, mebibytes},
};

/// Measures real conversations as many users have them, and the same texts as the history of one.
pub(crate) async fn measure(bench: &Bench, data: &RealData, report: &mut Report) -> Result<(), Failure> {
    report.heading("Size on disk, of real conversations");
    let server = bench.program.start("sizes-many", &[])?;
    server.import(&data.files)?;
    report_size(report, "asImported", "many users, as imported", &server, data, data.json_bytes)?;
    server.consolidate().await?;
    report_size(
        report,
        "consolidated",
        "many users, all in files (each user has a small one)",
        &server,
        data,
        data.json_bytes,
    )?;
    server.stop()?;

    let file = bench.program.folder.join("one-history.ndjson");
    let json_bytes = data.write_as_one_history("collector", &file)?;
    let server = bench.program.start("sizes-one", &[])?;
    server.import(&[file])?;
    server.consolidate().await?;
    report_size(report, "oneHistory", "one user's long history, in files", &server, data, json_bytes)?;
    server.stop()
}

#[allow(clippy::cast_precision_loss)] // Far below 2^53.
fn report_size(
    report: &mut Report,
    name: &str,
    what: &str,
    server: &Server,
    data: &RealData,
    json_bytes: u64,
) -> Result<(), Failure> {
    let folder_bytes = disk_bytes(server.data())?;
    let (parquet_bytes, files) = files_below(server.data(), ".parquet")?;
    let messages = data.messages as f64;
    report.value(
        format!("size.{name}"),
        json!({
            "messages": data.messages,
            "jsonBytes": json_bytes,
            "folderBytes": folder_bytes,
            "parquetBytes": parquet_bytes,
            "parquetFiles": files,
            "jsonPerParquet": json_bytes as f64 / parquet_bytes.max(1) as f64,
        }),
    );
    let in_files = if files == 0 {
        "nothing in files yet".to_owned()
    } else {
        format!(
            "{:.0} B a message in {files} files, {:.1}x smaller than JSON",
            parquet_bytes as f64 / messages,
            json_bytes as f64 / parquet_bytes as f64
        )
    };
    report.figure(
        what,
        format!("{:.0} B a message", folder_bytes as f64 / messages),
        format!(
            "JSON {:.0} B a message; {in_files}; the folder {} in all",
            json_bytes as f64 / messages,
            mebibytes(folder_bytes)
        ),
    );
    Ok(())
}
