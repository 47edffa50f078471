//! What the start does about what a crash left half-way, before anybody else is there.
//!
//! Invariant: a file is removed only when this server named it and no commit adopted it; a file that a commit names is
//! moved to its place.

use std::{ops::ControlFlow, path::Path};

use crate::{
    database::{Database, Read},
    due::{self, Due},
    error::{Error, Result},
    keys::Family,
    objects::Objects,
    paths,
    records::{IntentRecord, Record},
    rows,
};

/// Removes files that were named and perhaps written, but adopted by no commit.
pub(crate) fn clear_intents(database: &Database, base_path: &Path) -> Result<()> {
    let mut paths = Vec::new();
    database.scan(Family::Intents, &[], &[0xff], false, &mut |key, value| {
        IntentRecord::decode(value)?;
        paths.push(String::from_utf8(key.to_vec()).map_err(|_| Error::corrupt("intent"))?);
        Ok(ControlFlow::Continue(()))
    })?;
    for path in &paths {
        match std::fs::remove_file(base_path.join(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => tracing::info!(path, "removed a file that no commit had adopted"),
        }
    }
    database.write(paths.iter().map(|path| (Family::Intents, path.as_bytes(), None)), true)
}

/// Finishes at the start what a crash interrupted: moves committed files to their places, empties the spool.
pub(crate) fn finish_moves(database: &Database, objects: &Objects, base_path: &Path) -> Result<()> {
    let spool = base_path.join(paths::spooled(""));
    std::fs::create_dir_all(&spool)?;
    let mut named = Vec::new();
    database.scan(Family::Due, &[], &due::until(due::AT_ONCE), false, &mut |key, _| {
        if let (_, Due::Move { path }) = Due::parse(key)? {
            named.push(path);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for path in &named {
        let Some(mut file) = rows::file(database, path)? else { continue };
        if let Some(name) = file.moving_from.take() {
            objects.move_now(&paths::spooled(&name), path)?;
        }
        let (due, record) = (Due::Move { path: path.clone() }.key(due::AT_ONCE), file.encode()?);
        let entries = [(Family::Files, path.as_bytes(), Some(record.as_slice())), (Family::Due, &due, None)];
        database.write(entries, true)?;
    }
    for entry in std::fs::read_dir(&spool)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}
