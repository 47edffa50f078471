//! Random statements by the thousand, whose answers are held against `SQLite`'s and against each other: nets for wrong
//! answers that nobody thought of.
//!
//! Invariant: every case follows from two numbers, its round (which makes the rows) and its place in it, and a failure
//! shows both with the simplest statement that still fails. What may be refused is named with its reason in
//! [`REFUSALS`]. No case fails for its time: who thinks too long is not waited for, and that is counted.
//!
//! `KALAMDB_SOAK` says how many cases each net tries (`make soak`), and `KALAMDB_NET=round:case` repeats one of one
//! test: `KALAMDB_NET=1:17 cargo test -p kalamdb-engine --lib answers_are_those_of_sqlite`.

mod dice;
mod forms;
mod generator;
mod identities;
mod judge;
mod rows;
mod simpler;
mod statement;

use std::{collections::BTreeMap, time::SystemTime};

use kalamdb_protocol::ErrorCode;

use self::{
    dice::Dice,
    generator::Generator,
    judge::{Refusal, cells, difference},
    rows::{Ground, TIERS, Tier},
    simpler::simpler,
    statement::{Body, Dialect, Query},
};
use crate::Error;

/// Cases over the same rows; making the rows costs as much as some hundred cases.
const CASES_IN_ROUND: u64 = 500;
/// A run ends after so many failures, unless `KALAMDB_NET_FAILURES` says otherwise: they tend to be one.
const FAILURES: usize = 3;
/// Simpler statements that are tried for each failure.
const MAX_TRIES: usize = 1_000;
/// Of a hundred statements, so many may be refused: a net that is refused everything catches nothing.
const MAX_REFUSED_PERCENT: usize = 5;

/// How the text of a refusal begins that should not be one.
const REFUSED: &str = "it is refused: ";

/// What we may refuse, by the beginning of the sentence.
/// Each is a statement that is right and that DataFusion 55.2 does not take: to be mended one by one, and then to go.
const REFUSALS: &[(ErrorCode, &str)] = &[
    // `SELECT 'a' AS c0 FROM (…) AS t ORDER BY t.c0`: a qualified name is taken for the alias too.
    (ErrorCode::InvalidValue, "More than one table here has a column"),
    // `SELECT MAX(x), MAX(CAST(x AS TEXT))`, and the same in GROUP BY: the planner's own names forget the CAST.
    (ErrorCode::InvalidValue, "Two columns here are called"),
    (ErrorCode::InvalidValue, "Projections require unique expression names"),
    // IN and EXISTS in the answer or in CASE; subqueries that are tied to the query around by more than an equality.
    (ErrorCode::Unsupported, "An expression stands where it cannot be computed"),
    (ErrorCode::Unsupported, "The planner cannot take a statement of this form"),
    (ErrorCode::Unsupported, "A table has the same name inside of this IN"),
    (ErrorCode::Unsupported, "A table has the same name in a subquery and around"),
    // In HAVING and above GROUP BY, a subquery that depends on what a computed key is made of.
    (ErrorCode::Unsupported, "A subquery here depends on"),
    // What is tied to the query around below a ROLLUP, and in ON.
    (ErrorCode::Unsupported, "A query that depends on the row beside it cannot"),
    (ErrorCode::Unsupported, "A subquery of one value that depends on the row cannot stand in ON"),
    // A name that USING has merged, in a subquery; and USING after three tables.
    (ErrorCode::Unsupported, "Within a subquery, a column that USING has merged"),
    (ErrorCode::Unsupported, "Which table's column USING means here"),
    // `x IN ((SELECT …), 1)`: the parser takes the first parenthesis for that of `IN (SELECT …)`.
    (ErrorCode::SyntaxError, "The statement does not parse"),
    // The same where each row is looked at: a CASE in ON, of which all branches are computed.
    (ErrorCode::InvalidValue, "A value of one of the rows cannot be read as the type"),
    // And where all rows are the statement's own, of which the value is told.
    (ErrorCode::InvalidValue, "Cannot cast string"),
    // A function whose arguments are constants by the time that it is computed, as JSON that the statement writes.
    (ErrorCode::InvalidValue, "The statement cannot be computed for one of its rows"),
    // `SELECT (SELECT MAX('a') FROM … t WHERE t.x < outer.y)`: the optimizer loses a column on the way.
    (ErrorCode::UnknownColumn, "There is no column"),
];

/// A net.
#[derive(Debug, Clone, Copy)]
enum Net {
    Sqlite,
    Parts,
    Truth,
    Tiers,
    Delete,
}

/// What is tried.
#[derive(Debug, Clone)]
struct Case {
    query: Query,
    tier: Tier,
    way: usize,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Same,
    /// By a sentence that we may refuse with.
    Refused(String),
    /// Nobody waited for it: on another machine it may be answered, so it says nothing.
    Skipped,
    Wrong(String),
    /// `SQLite` does not take it: a fault of the net, or of a statement that was simplified to nonsense.
    Senseless(String),
}

impl Verdict {
    /// What an error of ours means.
    fn of(error: &Error) -> Self {
        if matches!(error.code, ErrorCode::QueryTimeout | ErrorCode::QueryTooLarge | ErrorCode::ResourceExhausted) {
            return Self::Skipped;
        }
        let may = |(code, start): &(ErrorCode, &str)| error.code == *code && error.message.starts_with(start);
        if REFUSALS.iter().any(may) {
            return Self::Refused(error.message.clone());
        }
        Self::Wrong(format!("{REFUSED}{:?}: {}", error.code, error.message))
    }

    /// What kind of wrong it is: a refusal by its words, which are the same for the same fault; any other by being one.
    fn kind(&self) -> Option<&str> {
        match self {
            Self::Wrong(text) if text.starts_with(REFUSED) => Some(text),
            Self::Wrong(_) => Some("unlike"),
            Self::Senseless(text) => Some(text),
            Self::Same | Self::Skipped | Self::Refused(_) => None,
        }
    }
}

impl Net {
    fn make(self, round: u64, number: u64) -> Case {
        let portable = matches!(self, Self::Sqlite);
        let mut generator = Generator::new(Dice::of(round, number * 8 + self as u64), portable);
        let query = match self {
            Self::Sqlite | Self::Tiers => generator.statement(),
            Self::Parts => Query::of(generator.plain_with_condition(true)),
            Self::Truth => {
                let subqueries = generator.dice.chance(25);
                Query::of(generator.plain_with_condition(subqueries))
            }
            Self::Delete => Query::of(generator.messages_with_condition()),
        };
        let (tier, way) = (*generator.dice.pick(&TIERS), generator.dice.below(4));
        Case { query, tier, way }
    }

    async fn check(self, ground: &Ground, case: &Case) -> Verdict {
        let (tier, way) = (case.tier, case.way);
        match (self, &case.query.body) {
            (Self::Sqlite, _) => is_sqlites(ground, tier, &case.query).await,
            (Self::Tiers, _) => identities::is_the_same_everywhere(ground, &case.query).await,
            (Self::Parts, Body::Select(select)) => identities::is_its_parts(ground, tier, select, way).await,
            (Self::Truth, Body::Select(select)) => identities::keeps_what_is_true(ground, tier, select, way).await,
            (Self::Delete, Body::Select(select)) => identities::takes_what_it_shows(ground, tier, select).await,
            _ => Verdict::Same,
        }
    }
}

/// The answer is `SQLite`'s.
async fn is_sqlites(ground: &Ground, tier: Tier, query: &Query) -> Verdict {
    let expected = match ground.judge.rows(&query.sql(Dialect::Sqlite), query.width()) {
        Ok(rows) => rows,
        Err(Refusal::Senseless(error)) => return Verdict::Senseless(error),
        Err(Refusal::TooLong) => return Verdict::Skipped,
    };
    match ground.ask(tier, &query.sql(Dialect::Ours)).await {
        Ok(answer) => match difference(&cells(&answer), &expected, query.is_ordered(), answer.truncated) {
            Some(difference) => Verdict::Wrong(difference),
            None => Verdict::Same,
        },
        Err(error) => Verdict::of(&error),
    }
}

/// The same failure with as little as possible.
async fn simplest(net: Net, ground: &Ground, case: Case, verdict: Verdict) -> (Case, Verdict) {
    let (mut case, mut verdict) = (case, verdict);
    let mut tries = 0;
    'again: loop {
        for query in simpler(&case.query) {
            tries += 1;
            if tries > MAX_TRIES {
                return (case, verdict);
            }
            let smaller = Case { query, ..case.clone() };
            let found = net.check(ground, &smaller).await;
            if found.kind() == verdict.kind() {
                (case, verdict) = (smaller, found);
                continue 'again;
            }
        }
        return (case, verdict);
    }
}

/// What a run came to.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    skipped: usize,
    /// How often with each sentence, and the first statement that was.
    refused: BTreeMap<String, (usize, String)>,
    failures: Vec<String>,
    /// The kinds of the failures, so that one sentence does not hide the next.
    kinds: BTreeMap<String, usize>,
    max_failures: usize,
}

impl Tally {
    fn new() -> Self {
        let wanted = std::env::var("KALAMDB_NET_FAILURES").ok().and_then(|failures| failures.parse().ok());
        Self { max_failures: wanted.unwrap_or(FAILURES), ..Self::default() }
    }

    fn is_full(&self) -> bool {
        self.failures.len() >= self.max_failures
    }

    async fn run(&mut self, net: Net, round: u64, numbers: impl Iterator<Item = u64>) {
        let ground = Ground::new(round).await;
        for number in numbers {
            let case = net.make(round, number);
            self.cases += 1;
            match net.check(&ground, &case).await {
                Verdict::Same => {}
                Verdict::Skipped => self.skipped += 1,
                Verdict::Refused(sentence) => {
                    let first = || (0, format!("KALAMDB_NET={round}:{number} {}", case.query.sql(Dialect::Ours)));
                    self.refused.entry(sentence).or_insert_with(first).0 += 1;
                }
                verdict => {
                    let kind = verdict.kind().unwrap_or_default().to_owned();
                    let seen = self.kinds.entry(kind).or_default();
                    *seen += 1;
                    if *seen > FAILURES {
                        continue;
                    }
                    let (case, verdict) = simplest(net, &ground, case, verdict).await;
                    let report = report(net, round, number, &case, &verdict);
                    println!("{report}\n");
                    self.failures.push(report);
                    if self.is_full() {
                        break;
                    }
                }
            }
        }
        ground.stop().await;
    }
}

fn report(net: Net, round: u64, number: u64, case: &Case, verdict: &Verdict) -> String {
    let (ours, sqlite) = (case.query.sql(Dialect::Ours), case.query.sql(Dialect::Sqlite));
    let told = match verdict {
        Verdict::Wrong(told) | Verdict::Senseless(told) | Verdict::Refused(told) => told,
        Verdict::Same | Verdict::Skipped => "",
    };
    let sqlite = if matches!(net, Net::Sqlite) { format!("\nSQLite: {sqlite}") } else { String::new() };
    format!("KALAMDB_NET={round}:{number} ({net:?}, rows {:?}, way {})\n{ours}{sqlite}\n{told}", case.tier, case.way)
}

/// The rounds of a run, and how many cases each has: fixed ones, so that a test says the same each time; in a soak all
/// are new.
fn rounds(cases: u64) -> Vec<(u64, u64)> {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970");
    let new = 1_000 + clock.as_secs() % 1_000_000_000 * 1_000;
    match std::env::var("KALAMDB_SOAK").ok().and_then(|cases| cases.parse::<u64>().ok()) {
        Some(cases) => (0..cases.div_ceil(CASES_IN_ROUND)).map(|number| (new + number, CASES_IN_ROUND)).collect(),
        None => (1..=cases / CASES_IN_ROUND).map(|round| (round, CASES_IN_ROUND)).collect(),
    }
}

/// Tries `cases` cases, or as many as the environment says.
fn cast(net: Net, cases: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut tally = Tally::new();
    if let Ok(wanted) = std::env::var("KALAMDB_NET") {
        let (round, number) = wanted.split_once(':').expect("KALAMDB_NET=round:case");
        let (round, number) = (round.parse().unwrap(), number.parse().unwrap());
        println!("{}", report(net, round, number, &net.make(round, number), &Verdict::Same));
        runtime.block_on(tally.run(net, round, std::iter::once(number)));
    } else {
        for (round, cases) in rounds(cases) {
            println!("{net:?}: KALAMDB_NET={round}:0 to {round}:{}", cases - 1);
            runtime.block_on(tally.run(net, round, 0..cases));
            if tally.is_full() {
                break;
            }
        }
    }
    let refused: usize = tally.refused.values().map(|(count, _)| count).sum();
    println!("{net:?}: {} cases, {} skipped, {refused} refused: {:#?}", tally.cases, tally.skipped, tally.refused);
    assert!(tally.failures.is_empty(), "\n{}\n\n{:#?}", tally.failures.join("\n\n"), tally.kinds);
    let percent = 100 * refused / tally.cases;
    assert!(percent <= MAX_REFUSED_PERCENT, "{percent} % of the statements are refused: {:#?}", tally.refused);
}

#[test]
fn answers_are_those_of_sqlite() {
    cast(Net::Sqlite, 1_500);
}

#[test]
fn a_query_is_the_union_of_its_three_parts() {
    cast(Net::Parts, 1_000);
}

#[test]
fn where_keeps_the_rows_that_have_the_condition() {
    cast(Net::Truth, 1_500);
}

#[test]
fn the_same_rows_answer_alike_wherever_they_lie() {
    cast(Net::Tiers, 500);
}

#[test]
fn a_delete_takes_what_a_select_shows() {
    cast(Net::Delete, 500);
}
