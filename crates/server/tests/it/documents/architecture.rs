//! ARCHITECTURE.md, held against the tree: what it names is there.
//!
//! Invariant: a name counts only where it is defined, never where it is mentioned, so that one that has changed is found.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::project;

/// The names that the page has in backticks, line by line.
fn quoted(page: &str) -> Vec<&str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The files and folders of the project, below each of them what it holds: `crates/store/src/apply/files.rs` is
/// `store/apply/files`, as the page calls it.
fn places() -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    let mut open = vec![project()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            let inside = path.strip_prefix(project()).expect("a path of the project").to_string_lossy();
            let called = inside.trim_start_matches("crates/").replacen("/src/", "/", 1);
            places.insert(called.trim_end_matches(".rs").to_owned());
            if path.is_dir() {
                open.push(path.clone());
            }
        }
    }
    places
}

/// Whether a place goes by that name, which may leave out where it lies: `live/frame` is `engine/live/frame`.
fn is_there(places: &BTreeSet<String>, name: &str) -> bool {
    let name = name.trim_start_matches("crates/").trim_end_matches('/').trim_end_matches(".rs");
    places.iter().any(|place| place == name || place.strip_suffix(name).is_some_and(|rest| rest.ends_with('/')))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The types, functions and variants that the crates define.
fn definitions() -> BTreeSet<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(project().join("crates")).expect("crates") {
        rust_files(&entry.expect("a crate").path().join("src"), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a source file");
        for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            for pair in words.windows(2) {
                if ["struct", "enum", "trait", "type", "fn"].contains(&pair[0]) {
                    names.insert(pair[1].to_owned());
                }
            }
            let is_variant = line.starts_with(char::is_uppercase) && line.ends_with([',', '{', '(']);
            names.extend(words.first().filter(|_| is_variant).map(|word| (*word).to_owned()));
        }
    }
    names
}

#[test]
fn the_architecture_names_what_is_there() {
    let page = fs::read_to_string(project().join("ARCHITECTURE.md")).expect("the page");
    let (places, definitions) = (places(), definitions());
    let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let is_path = |name: &&str| {
        let parts = name.trim_end_matches('/').trim_end_matches(".rs");
        name.contains('/') && !name.starts_with('/') && parts.split('/').all(is_word)
    };
    let is_item = |name: &&str| {
        name.starts_with(char::is_uppercase) && name.contains(char::is_lowercase) && name.split("::").all(is_word)
    };
    let (mut paths, mut items, mut modules) = (0, 0, 0);
    for name in quoted(&page).into_iter().filter(is_path) {
        assert!(is_there(&places, name), "`{name}` is not in the tree");
        paths += 1;
    }
    for name in quoted(&page).into_iter().filter(is_item) {
        for part in name.split("::") {
            assert!(definitions.contains(part), "`{name}`: nothing is called {part}");
        }
        items += 1;
    }
    // In the first column of the map of each crate all names are modules of it.
    let map = page.split_once("## Code map").expect("the map").1.split_once("\n## ").expect("what follows it").0;
    let mut of_crate = "";
    for line in map.lines() {
        of_crate =
            line.strip_prefix("**`crates/").and_then(|rest| rest.split_once('`')).map_or(of_crate, |(name, _)| name);
        let cell = line.strip_prefix("| `").and_then(|rest| rest.split_once(" |")).map_or("", |(cell, _)| cell);
        for name in cell.split(['`', ',', ' ']).filter(|name| !name.is_empty()) {
            assert!(
                places.contains(&format!("{of_crate}/{}", name.trim_end_matches('/'))),
                "{of_crate} has no `{name}`"
            );
            modules += 1;
        }
    }
    assert!(
        paths > 50 && items > 10 && modules > 40,
        "{paths} paths, {items} items, {modules} modules were looked for"
    );
}
