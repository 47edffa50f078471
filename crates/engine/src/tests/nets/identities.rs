//! What must hold of answers whatever the statement says, so that nobody has to know the right one.
//!
//! - A query is the union of itself with a condition, with NOT of it, and with the condition being NULL.
//! - As many rows have a condition in WHERE as have it in the answer, where nothing can be left out.
//! - The same rows answer alike wherever they lie.
//! - A DELETE takes the rows that a SELECT with its condition shows.
//!
//! Invariant: each compares our answers with ours.

use kalamdb_protocol::QueryResponse;

use super::{
    Verdict,
    forms::Type,
    generator::compare_all,
    judge::{Cell, cells, difference},
    rows::{Ground, TIERS, Tier},
    statement::{Dialect, Expr, Query, Select, ours},
};

/// Ways to put the three parts together.
const UNIONS: usize = 4;

/// A query is the union of its three parts.
pub(super) async fn is_its_parts(ground: &Ground, tier: Tier, select: &Select, way: usize) -> Verdict {
    let Some(condition) = &select.filter else { return Verdict::Same };
    let with = |filter: Option<Expr>| Query::of(Select { filter, ..select.clone() }).sql(Dialect::Ours);
    let parts = [
        with(Some(condition.clone())),
        with(Some(compare_all("(NOT $0)", vec![condition.clone()]))),
        with(Some(compare_all("($0 IS NULL)", vec![condition.clone()]))),
    ];
    let whole = with(None);
    let union = parts.join(" UNION ALL ");
    let all = format!("SELECT * FROM ({union}) AS parts");
    let (left, right) = match way % UNIONS {
        0 => {
            let mut came = Vec::new();
            for part in &parts {
                match ask(ground, tier, part).await {
                    Ok(answer) if answer.truncated => return Verdict::Same,
                    Ok(answer) => came.extend(cells(&answer)),
                    Err(verdict) => return verdict,
                }
            }
            return compare(ground, tier, came, &whole).await;
        }
        1 => (all, whole),
        2 => (format!("SELECT DISTINCT * FROM ({union}) AS parts"), format!("SELECT DISTINCT * FROM ({whole}) AS w")),
        _ => {
            let totals = totals(select);
            (format!("SELECT {totals} FROM ({union}) AS parts"), format!("SELECT {totals} FROM ({whole}) AS w"))
        }
    };
    match ask(ground, tier, &left).await {
        Ok(answer) if answer.truncated => Verdict::Same,
        Ok(answer) => compare(ground, tier, cells(&answer), &right).await,
        Err(verdict) => verdict,
    }
}

/// How many rows there are, and the least and the greatest of each column.
fn totals(select: &Select) -> String {
    let mut totals = vec!["COUNT(*)".to_owned()];
    for (number, item) in select.items.iter().enumerate() {
        if item.kind() != Type::Bool {
            totals.push(format!("COUNT(c{number})"));
            totals.push(format!("MIN(c{number}) AS least{number}"));
            totals.push(format!("MAX(c{number}) AS most{number}"));
        }
    }
    totals.join(", ")
}

async fn compare(ground: &Ground, tier: Tier, came: Vec<Vec<Cell>>, expected: &str) -> Verdict {
    match ask(ground, tier, expected).await {
        Ok(answer) if answer.truncated => Verdict::Same,
        Ok(answer) => match difference(&came, &cells(&answer), false, false) {
            Some(difference) => Verdict::Wrong(difference),
            None => Verdict::Same,
        },
        Err(verdict) => verdict,
    }
}

/// As many rows have the condition in WHERE as have it in the answer.
pub(super) async fn keeps_what_is_true(ground: &Ground, tier: Tier, select: &Select, way: usize) -> Verdict {
    let Some(condition) = &select.filter else { return Verdict::Same };
    let condition = ours(condition);
    let kept = match ask(ground, tier, &select.sql_of("COUNT(*) AS n", Some(&condition))).await {
        Ok(answer) => only_number(&answer),
        Err(verdict) => return verdict,
    };
    let true_ones = if way.is_multiple_of(2) {
        let sum = format!("COALESCE(SUM(CAST({condition} IS TRUE AS INTEGER)), 0) AS n");
        ask(ground, tier, &select.sql_of(&sum, None)).await.map(|answer| only_number(&answer))
    } else {
        match ask(ground, tier, &select.sql_of(&format!("{condition} AS p"), None)).await {
            Ok(answer) if answer.truncated => return Verdict::Same,
            answer => answer.map(|answer| cells(&answer).iter().filter(|row| row[0] == Cell::Int(1)).count() as i64),
        }
    };
    match true_ones {
        Ok(true_ones) if true_ones == kept => Verdict::Same,
        Ok(true_ones) => Verdict::Wrong(format!("WHERE keeps {kept} rows, and {true_ones} have the condition")),
        Err(verdict) => verdict,
    }
}

fn only_number(answer: &QueryResponse) -> i64 {
    answer.rows[0][0].as_i64().expect("a count")
}

/// The same rows answer alike wherever they lie.
pub(super) async fn is_the_same_everywhere(ground: &Ground, query: &Query) -> Verdict {
    let sql = query.sql(Dialect::Ours);
    let first = match ask(ground, TIERS[0], &sql).await {
        Ok(answer) => answer,
        Err(verdict) => return verdict,
    };
    for tier in &TIERS[1..] {
        let other = match ask(ground, *tier, &sql).await {
            Ok(answer) => answer,
            Err(Verdict::Refused(refusal)) => {
                return Verdict::Wrong(format!("it is answered {:?}, and refused {tier:?}: {refusal}", TIERS[0]));
            }
            Err(verdict) => return verdict,
        };
        if first.truncated || other.truncated {
            return Verdict::Same;
        }
        if let Some(difference) = difference(&cells(&other), &cells(&first), query.is_ordered(), false) {
            return Verdict::Wrong(format!("{tier:?} is unlike {:?}: {difference}", TIERS[0]));
        }
    }
    Verdict::Same
}

/// A DELETE takes the rows that a SELECT with its condition shows; they are brought back.
pub(super) async fn takes_what_it_shows(ground: &Ground, tier: Tier, select: &Select) -> Verdict {
    let condition = select.filter.as_ref().map(ours);
    let all = match ask(ground, tier, &select.sql_of("messages.msgId", None)).await {
        Ok(answer) => cells(&answer),
        Err(verdict) => return verdict,
    };
    let meant = match ask(ground, tier, &select.sql_of("messages.msgId", condition.as_deref())).await {
        Ok(answer) => cells(&answer),
        Err(verdict) => return verdict,
    };
    let filter = condition.map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
    let affected = match ground.write(tier, &format!("DELETE FROM messages{filter}")).await {
        Ok(affected) => affected,
        Err(error) => return Verdict::of(&error),
    };
    let left = match ask(ground, tier, &select.sql_of("messages.msgId", None)).await {
        Ok(answer) => cells(&answer),
        Err(verdict) => return verdict,
    };
    let gone: Vec<Vec<Cell>> = all.iter().filter(|row| !left.contains(row)).cloned().collect();
    bring_back(ground, tier, &gone).await;
    if let Some(difference) = difference(&gone, &meant, false, false) {
        return Verdict::Wrong(format!("of what went, {difference}"));
    }
    if usize::try_from(affected) == Ok(gone.len()) {
        Verdict::Same
    } else {
        Verdict::Wrong(format!("{} went, and rowsAffected is {affected}", gone.len()))
    }
}

async fn bring_back(ground: &Ground, tier: Tier, ids: &[Vec<Cell>]) {
    if ids.is_empty() {
        return;
    }
    let id = |row: &Vec<Cell>| match row[0] {
        Cell::Int(id) => id.to_string(),
        _ => "NULL".to_owned(),
    };
    let ids: Vec<String> = ids.iter().map(id).collect();
    let sql = format!("UPDATE deletedMessages SET deletedAt = NULL WHERE msgId IN ({})", ids.join(", "));
    let restored = ground.write(tier, &sql).await.expect("what was deleted comes back");
    assert_eq!(usize::try_from(restored), Ok(ids.len()), "not all come back: {sql}");
}

async fn ask(ground: &Ground, tier: Tier, sql: &str) -> Result<QueryResponse, Verdict> {
    ground.ask(tier, sql).await.map_err(|error| Verdict::of(&error))
}
