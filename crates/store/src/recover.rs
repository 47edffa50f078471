//! The recovery at the start: what a crash left half-way is finished or undone, before anybody else is there.
//!
//! Invariant: a file is removed only when this server named it and no commit adopted it; a file that a commit names is
//! moved to its place. A file that cannot be moved or removed stays for the next time, and keeps nobody from starting.

use std::ops::ControlFlow;

use crate::{
    database::{Database, Read},
    due::{self, Due},
    error::{Error, Result},
    files::LOST,
    keys::Family,
    objects::{Move, Objects},
    paths,
    records::{IntentRecord, Record},
    rows,
};

/// Removes files that were named and perhaps written, but adopted by no commit; which ones, for a command to give them
/// up. One that cannot be removed keeps its intent, so that the next start tries again.
pub(crate) fn clear_intents(database: &Database, objects: &Objects) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    database.scan(Family::Intents, &[], &[0xff], false, &mut |key, value| {
        IntentRecord::decode(value)?;
        paths.push(String::from_utf8(key.to_vec()).map_err(|_| Error::corrupt("intent"))?);
        Ok(ControlFlow::Continue(()))
    })?;
    paths.retain(|path| objects.remove_now(path).is_ok());
    for path in &paths {
        tracing::info!(path, "removed a file that no commit had adopted");
    }
    Ok(paths)
}

/// Finishes at the start what a crash interrupted: moves committed files to their places, empties the spool. A file
/// that cannot be moved stays in the spool, from where it is read, and each sweep tries again. Answers which files have
/// left the spool, for a command to say so, and the first number that no file of the spool has for its name.
pub(crate) fn finish_moves(database: &Database, objects: &Objects) -> Result<(Vec<String>, u64)> {
    let mut named = Vec::new();
    database.scan(Family::Due, &[], &due::until(due::AT_ONCE), false, &mut |key, _| {
        if let (_, Due::Move { path }) = Due::parse(key)? {
            named.push(path);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let (mut moved, mut unmoved) = (Vec::new(), Vec::new());
    for path in &named {
        let name = rows::file(database, path)?.and_then(|file| file.moving_from);
        match name.and_then(|name| stays(objects, path, name)) {
            Some(name) => unmoved.push(name),
            None => moved.push(path.clone()),
        }
    }
    objects.empty_now(&paths::spooled(""), &unmoved)?;
    let next_spooled = unmoved.iter().filter_map(|name| name.parse::<u64>().ok()).max().unwrap_or(0) + 1;
    Ok((moved, next_spooled))
}

/// Moves a file to its place; its name in the spool where it stays there.
fn stays(objects: &Objects, path: &str, name: String) -> Option<String> {
    match objects.move_now(&paths::spooled(&name), path) {
        Ok(Move::Done) => None,
        Ok(Move::Lost) => {
            tracing::error!(path, "{LOST}");
            None
        }
        Err(_) => Some(name),
    }
}
