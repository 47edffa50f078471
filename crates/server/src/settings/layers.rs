//! Lays file, environment and flags over the defaults.
//!
//! Invariant: reads no file and no environment itself, so that a test can hand it both; the order of the layers
//! is decided here and nowhere else.

use std::ffi::OsString;

use serde::Deserialize;
use toml::{
    Spanned, Value,
    de::{DeString, DeTable, DeValue, ValueDeserializer},
};

use super::{Error, Loaded, Origin, Problem, SECTIONS, Settings, Values, spec::Key};

/// The beginning of environment variables that are settings: `KALAMDB_SERVER__PORT`.
const PREFIX: &str = "KALAMDB_";
/// The separator of section and name in them. Variables without it are other programs' or other purposes'.
const SEPARATOR: &str = "__";

/// Everything that settings come from, besides the defaults.
pub(super) struct Layers {
    /// The settings file: its name and its text.
    pub file: Option<(String, String)>,
    /// The environment's variables.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags: the flag, the full name of what it sets, and its value.
    pub flags: Vec<(&'static str, &'static str, OsString)>,
}

impl Layers {
    /// The settings in effect.
    pub(super) fn resolve(self) -> Result<Loaded, Error> {
        let mut values = Values::defaults();
        let mut problems = Vec::new();
        if let Some((name, text)) = &self.file {
            File { name, text }.lay(&mut values, &mut problems);
        }
        lay_environment(self.environment, &mut values, &mut problems);
        for (flag, name, value) in self.flags {
            let result = find(name).and_then(|key| lay_text(key, value, Origin::Flag(flag), &mut values));
            problems.extend(result.err());
        }
        match Settings::from_values(&values) {
            Ok(settings) if problems.is_empty() => {
                Ok(Loaded { settings, values, file: self.file.map(|(name, _)| name) })
            }
            result => {
                problems.extend(result.err());
                Err(Error(problems))
            }
        }
    }
}

/// The entries as they stand in the file, so that complaints do, too.
fn in_order(table: DeTable<'_>) -> Vec<(Spanned<DeString<'_>>, Spanned<DeValue<'_>>)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

struct File<'a> {
    name: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn lay(&self, values: &mut Values, problems: &mut Vec<Problem>) {
        let sections = match DeTable::parse(self.text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                problems.push(format!("{}: this is not TOML: {}.", self.origin(at), error.message()));
                return;
            }
        };
        for (name, section) in in_order(sections) {
            let at = name.span().start;
            match section.into_inner() {
                DeValue::Table(keys) => self.lay_section(name.get_ref(), keys, values, problems),
                _ => problems.push(format!(
                    "{}: `{}` stands outside a section; the sections are {}.",
                    self.origin(at),
                    name.get_ref(),
                    section_names(),
                )),
            }
        }
    }

    fn lay_section(&self, section: &str, keys: DeTable<'_>, values: &mut Values, problems: &mut Vec<Problem>) {
        for (name, value) in in_order(keys) {
            let origin = self.origin(name.span().start);
            let result = match find(&format!("{section}.{}", name.get_ref())) {
                Ok(key) => read_value(key, value, &origin).and_then(|value| values.set(key, value, origin)),
                Err(problem) => Err(format!("{origin}: {problem}")),
            };
            problems.extend(result.err());
        }
    }

    fn origin(&self, byte: usize) -> Origin {
        let before = self.text.get(..byte).unwrap_or(self.text);
        Origin::File { name: self.name.to_owned(), line: before.matches('\n').count() + 1 }
    }
}

fn read_value(key: &Key, value: Spanned<DeValue<'_>>, origin: &Origin) -> Result<Value, Problem> {
    // The parser keeps numbers as text; one beyond 64 bits fails only here.
    Value::deserialize(ValueDeserializer::from(value))
        .map_err(|_| format!("{origin}: `{}` must be {}.", key.full_name(), key.spec))
}

fn lay_environment(environment: Vec<(OsString, OsString)>, values: &mut Values, problems: &mut Vec<Problem>) {
    for (variable, value) in environment {
        let Some((section, name)) =
            variable.to_str().and_then(|variable| variable.strip_prefix(PREFIX)?.split_once(SEPARATOR))
        else {
            continue;
        };
        let origin = Origin::Environment(format!("{PREFIX}{section}{SEPARATOR}{name}"));
        let result = match find(&format!("{}.{}", section.to_lowercase(), name.to_lowercase())) {
            Ok(key) => lay_text(key, value, origin, values),
            Err(problem) => Err(format!("{origin}: {problem}")),
        };
        problems.extend(result.err());
    }
}

fn lay_text(key: &'static Key, value: OsString, origin: Origin, values: &mut Values) -> Result<(), Problem> {
    match value.into_string() {
        Ok(text) => values.set(key, key.spec.read_text(&text), origin),
        Err(_) => Err(format!("{origin}: `{}` must be {}, in UTF-8.", key.full_name(), key.spec)),
    }
}

/// The setting of that full name, or a sentence that says what was probably meant.
fn find(full_name: &str) -> Result<&'static Key, Problem> {
    let keys = || SECTIONS.iter().flat_map(|section| section.keys);
    if let Some(key) = keys().find(|key| key.full_name() == full_name) {
        return Ok(key);
    }
    let advice = match nearest(full_name, keys()) {
        Some(key) => format!("did you mean `{}`?", key.full_name()),
        None => match full_name.split_once('.').and_then(|(section, _)| section_keys(section)) {
            Some(names) => format!("this section has {names}."),
            None => format!("the sections are {}.", section_names()),
        },
    };
    Err(format!("there is no setting `{}`; {advice}", shorten(full_name)))
}

/// The key that the name is a misspelling of: a few letters away, or the right name in a wrong section.
fn nearest(full_name: &str, keys: impl Iterator<Item = &'static Key>) -> Option<&'static Key> {
    const MAX_EDITS: usize = 3;
    let (_, bare) = full_name.split_once('.')?;
    let distance = |key: &Key| {
        if key.name == bare { 0 } else { strsim::damerau_levenshtein(&key.full_name(), full_name) }
    };
    keys.map(|key| (distance(key), key))
        .filter(|(edits, _)| *edits <= MAX_EDITS)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, key)| key)
}

fn section_keys(section: &str) -> Option<String> {
    let section = SECTIONS.iter().find(|candidate| candidate.name == section)?;
    Some(section.keys.iter().map(|key| format!("`{}`", key.name)).collect::<Vec<_>>().join(", "))
}

fn section_names() -> String {
    SECTIONS.iter().map(|section| format!("[{}]", section.name)).collect::<Vec<_>>().join(", ")
}

/// A name that somebody typed, cut so that an error stays a line.
fn shorten(name: &str) -> String {
    name.chars().take(80).collect()
}
