//! Names: the ones that are known, how they are spelt, and which of them a misspelt one may have meant.
//!
//! Invariant: a table or column is named without regard to case and comes back in its canonical spelling; a user
//! id is compared exactly and never respelt.

use std::{collections::HashMap, sync::LazyLock};

use kalamdb_protocol::{OWNER_COLUMN, SYSTEM_TABLES, TABLES, Table};

/// The schema that stands for the caller's own, whoever calls.
pub(super) const PLACEHOLDER_SCHEMA: &str = "userId";

/// The number of likely names that an error offers.
const MAX_SUGGESTIONS: usize = 3;
/// The likeness (Jaro-Winkler, of 1) from which one name is offered for another.
const ALIKE: f64 = 0.75;
/// Longer names are no misspellings; comparing them would be work for nothing.
const MAX_NAME_CHARS: usize = 128;

/// Every table and column, by its name in lower case.
static CANONICAL: LazyLock<HashMap<String, &'static str>> = LazyLock::new(|| {
    let tables = TABLES.iter().chain(SYSTEM_TABLES);
    let names = tables.flat_map(|table| table.columns.iter().map(|column| column.name).chain([table.name]));
    names.chain([OWNER_COLUMN.name, PLACEHOLDER_SCHEMA]).map(|name| (name.to_ascii_lowercase(), name)).collect()
});

/// The canonical spelling of a known table or column.
pub(super) fn canonical(name: &str) -> Option<&'static str> {
    CANONICAL.get(&name.to_ascii_lowercase()).copied()
}

/// The names of the tables as they stand in a sentence: `a, b and c`.
pub(super) fn enumerated(tables: &[Table]) -> String {
    let names: Vec<&str> = tables.iter().map(|table| table.name).collect();
    match names.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        names => names.concat(),
    }
}

/// The names of `known` that `name` may have been meant to be, the likeliest first.
pub(crate) fn suggestions<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    if name.chars().count() > MAX_NAME_CHARS {
        return Vec::new();
    }
    let name = name.to_lowercase();
    let mut likely: Vec<(f64, &str)> = known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    likely.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    likely.dedup_by_key(|(_, known)| *known);
    likely.truncate(MAX_SUGGESTIONS);
    likely.into_iter().map(|(_, known)| known.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_have_one_spelling() {
        assert_eq!(canonical("MSGID"), Some("msgId"));
        assert_eq!(canonical("From"), Some("from"));
        assert_eq!(canonical("conversationusers"), Some("conversationUsers"));
        assert_eq!(canonical("OWNER"), Some("owner"));
        assert_eq!(canonical("deletedrows"), Some("deletedRows"));
        assert_eq!(canonical("sender"), None);
    }

    #[test]
    fn tables_are_enumerated_as_in_a_sentence() {
        assert_eq!(enumerated(TABLES), "messages, conversations, conversationUsers, deletedMessages and auditLog");
        assert_eq!(enumerated(&TABLES[..1]), "messages");
        assert_eq!(enumerated(&[]), "");
    }

    #[test]
    fn a_misspelt_name_is_told_the_likely_ones() {
        let columns = ["msgId", "content", "contentRef", "timestamp"];
        assert_eq!(suggestions("contnet", columns)[0], "content");
        assert_eq!(suggestions("MSG_ID", columns), ["msgId"]);
        assert!(suggestions("zzz", columns).is_empty());
        assert!(suggestions(&"c".repeat(1000), columns).is_empty());
    }
}
