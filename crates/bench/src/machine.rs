//! What the machine says: which one it is, what processes took of it, and how fast its disk is.
//!
//! Invariant: figures of a server hold all of its processes, those that it has started included, and nothing of the
//! load generator.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::Failure;

/// Linux counts processor time in these, whatever the kernel's own clock is (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// `st_blocks` counts these, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;

/// The time for which the disk's syncs are counted.
const SYNC_TIME: Duration = Duration::from_secs(2);

/// What a process is charged with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Its own time, and that of its children that have ended.
    ticks: u64,
}

/// This machine in a few lines: what, and its answer.
pub(crate) fn description(folder: &Path) -> Vec<(&'static str, String)> {
    let first = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
        line.map_or_else(|| "unknown".into(), |value| value.trim_matches([':', '=', '"', ' ', '\t']).to_owned())
    };
    let cores = std::thread::available_parallelism().map(usize::from).unwrap_or_default();
    vec![
        ("processor", format!("{}, {cores} cores", first("/proc/cpuinfo", "model name"))),
        ("memory", first("/proc/meminfo", "MemTotal")),
        ("system", format!("{}, Linux {}", first("/etc/os-release", "PRETTY_NAME"), said("uname", &["-r"]))),
        ("file system", said("stat", &["-f", "-c", "%T", &folder.to_string_lossy()])),
    ]
}

/// The first line that a command prints; what it is about, if it cannot be run.
pub(crate) fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| "unknown".to_owned(), |line| line.trim().to_owned())
}

/// The processor time of these processes and all that descend from them.
pub(crate) fn processor_time(roots: &[u32]) -> Duration {
    let processes = processes();
    let ticks: u64 = family(roots, &processes).iter().filter_map(|id| processes.get(id)).map(|each| each.ticks).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

/// The memory of these processes and all that descend from them, in bytes. What several of them share counts once: the
/// kernel gives each its part (`Pss`).
pub(crate) fn memory_bytes(roots: &[u32]) -> u64 {
    let part = |id: &u32| {
        let shared = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok().and_then(|text| kib(&text, "Pss:"));
        shared.or_else(|| kib(&fs::read_to_string(format!("/proc/{id}/status")).ok()?, "VmRSS:"))
    };
    family(roots, &processes()).iter().filter_map(part).sum::<u64>() * 1_024
}

/// `Pss:        1234 kB`
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
}

fn processes() -> HashMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| Some((id, process(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect()
}

/// A line of `/proc/PID/stat`. The name in it is in brackets, and may hold blanks and brackets itself.
fn process(line: &str) -> Option<Process> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Process { parent: u32::try_from(number(1)?).ok()?, ticks })
}

fn family(roots: &[u32], processes: &HashMap<u32, Process>) -> Vec<u32> {
    let mut family = roots.to_vec();
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        let children = processes.iter().filter(|(id, each)| each.parent == parent && !family.contains(id));
        let children: Vec<u32> = children.map(|(id, _)| *id).collect();
        family.extend(children);
        next += 1;
    }
    family
}

/// The bytes that everything below a folder takes on the disk: what is set aside counts, what is only said to be long
/// does not.
pub(crate) fn disk_bytes(folder: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    each_file(folder, &mut |_, metadata| bytes += metadata.blocks() * BLOCK_BYTES)?;
    Ok(bytes)
}

/// Bytes and number of the files below a folder whose name ends so.
pub(crate) fn files_below(folder: &Path, ending: &str) -> Result<(u64, u64), Failure> {
    let (mut bytes, mut count) = (0, 0);
    each_file(folder, &mut |path, metadata| {
        if path.to_string_lossy().ends_with(ending) {
            bytes += metadata.len();
            count += 1;
        }
    })?;
    Ok((bytes, count))
}

/// A server's own work goes on meanwhile, so a file may be gone before it is looked at.
fn each_file(folder: &Path, look: &mut dyn FnMut(&Path, &fs::Metadata)) -> Result<(), Failure> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => each_file(&entry.path(), look)?,
            Ok(metadata) => look(&entry.path(), &metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The rate at which the disk makes a small append durable: what a synced commit costs at least.
#[allow(clippy::cast_precision_loss)] // Far below 2^53.
pub(crate) fn syncs_per_second(folder: &Path) -> Result<f64, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let line = "4242 (a (b) c) S 17 4242 4242 0 -1 4194560 900 0 3 0 120 30 7 5 20 0 4 0 100 1000 50";
        assert_eq!(process(line), Some(Process { parent: 17, ticks: 162 }));
        assert_eq!(process("4242 (cut off) S 17"), None);
    }

    #[test]
    fn a_family_is_all_that_descends() {
        let process = |parent| Process { parent, ticks: 1 };
        let processes =
            HashMap::from([(1, process(0)), (2, process(1)), (3, process(2)), (4, process(1)), (5, process(9))]);
        let mut family = family(&[2, 4], &processes);
        family.sort_unstable();
        assert_eq!(family, [2, 3, 4]);
    }

    #[test]
    fn memory_is_read_from_a_line() {
        assert_eq!(kib("Rss:  200 kB\nPss:            150 kB\nPss_Anon: 1 kB\n", "Pss:"), Some(150));
        assert_eq!(kib("Rss:  200 kB\n", "Pss:"), None);
        assert!(memory_bytes(&[std::process::id()]) > 1_000_000);
    }

    #[test]
    fn files_are_counted_by_their_ending_and_folders_by_their_blocks() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/one.parquet"), vec![1; 10_000]).unwrap();
        fs::write(folder.path().join("two"), "no").unwrap();
        // Said to be long, and nowhere on the disk.
        File::create(folder.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(files_below(folder.path(), ".parquet").unwrap(), (10_000, 1));
        assert_eq!(files_below(folder.path(), "").unwrap().1, 3);
        let bytes = disk_bytes(folder.path()).unwrap();
        assert!(bytes < 1 << 29, "{bytes}");
    }
}
