//! What a value can be made of: operators, functions, aggregates and windows, each as one line of a table.
//!
//! Invariant: where a form has a text for `SQLite`, both texts make the same value of the same arguments, for every
//! value that [`super::rows`] and the generator's literals have. Numbers stay small enough that nothing overflows.

use super::statement::{Dialect, Expr};

/// The types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Type {
    Int,
    Text,
    Bool,
    /// Microseconds.
    Time,
    /// A day; `SQLite` has its text.
    Date,
    /// JSON text of an object.
    Json,
    /// Only to be answered: two ways to add fractions may differ in the last digit.
    Real,
    /// A constant of LIKE.
    Pattern,
    /// A constant that is a regular expression.
    Regex,
    /// A constant number of 1 to 4.
    Few,
}

/// How a value is made of others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) gives: Type,
    pub(super) takes: &'static [Type],
    /// `$0` stands for the first argument.
    ours: &'static str,
    /// Empty where `SQLite` cannot say it: then only the identities use it.
    sqlite: &'static str,
}

impl Form {
    pub(super) fn text(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Ours => self.ours,
            Dialect::Sqlite => self.sqlite,
        }
    }

    /// Whether that is its text.
    pub(super) fn is_called(&self, text: &str) -> bool {
        self.ours == text
    }

    /// Whether `SQLite` can say it.
    pub(super) fn is_portable(&self) -> bool {
        !self.sqlite.is_empty()
    }
}

/// An aggregate or a window function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    gives: Option<Type>,
    /// The types that its argument may have; none: no argument.
    pub(super) takes: &'static [Type],
    /// Constants after the argument.
    pub(super) few: usize,
    ours: &'static str,
    sqlite: &'static str,
    pub(super) can_be_distinct: bool,
    /// Of a window: whether its value depends on the order of rows that the order does not tell apart.
    pub(super) needs_total_order: bool,
    /// Of a window: whether it looks at a frame.
    pub(super) has_frame: bool,
}

impl Call {
    pub(super) fn text(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::Ours => self.ours,
            Dialect::Sqlite => self.sqlite,
        }
    }

    /// The type of what it makes: its own, or that of its argument.
    pub(super) fn gives(&self, args: &[Expr]) -> Type {
        self.gives.or_else(|| args.first().map(Expr::kind)).unwrap_or(Type::Int)
    }

    /// Whether it can make that type.
    pub(super) fn can_give(&self, kind: Type) -> bool {
        self.gives.map_or_else(|| self.takes.contains(&kind), |gives| gives == kind)
    }

    /// The type of an argument for which it makes that type.
    pub(super) fn argument(&self, kind: Type) -> &'static [Type] {
        match (self.gives, self.takes.iter().position(|takes| *takes == kind)) {
            (None, Some(place)) => &self.takes[place..=place],
            _ => self.takes,
        }
    }
}

/// The same in both dialects.
const fn same(gives: Type, takes: &'static [Type], text: &'static str) -> Form {
    Form { gives, takes, ours: text, sqlite: text }
}

const fn form(gives: Type, takes: &'static [Type], ours: &'static str, sqlite: &'static str) -> Form {
    Form { gives, takes, ours, sqlite }
}

/// What `SQLite` has not.
const fn only(gives: Type, takes: &'static [Type], ours: &'static str) -> Form {
    Form { gives, takes, ours, sqlite: "" }
}

use Type::{Bool, Date, Few, Int, Json, Pattern, Real, Regex, Text, Time};

/// Comparisons and choices, which every type has.
macro_rules! of_any_type {
    ($($kind:ident)+) => {
        &[$(
            same(Bool, &[$kind, $kind], "($0 = $1)"),
            same(Bool, &[$kind, $kind], "($0 <> $1)"),
            same(Bool, &[$kind, $kind], "($0 <> $1)"),
            same(Bool, &[$kind, $kind], "($0 < $1)"),
            same(Bool, &[$kind, $kind], "($0 <= $1)"),
            same(Bool, &[$kind, $kind], "($0 > $1)"),
            same(Bool, &[$kind, $kind], "($0 >= $1)"),
            same(Bool, &[$kind, $kind], "($0 IS DISTINCT FROM $1)"),
            same(Bool, &[$kind, $kind], "($0 IS NOT DISTINCT FROM $1)"),
            same(Bool, &[$kind], "($0 IS NULL)"),
            same(Bool, &[$kind], "($0 IS NOT NULL)"),
            same(Bool, &[$kind, $kind, $kind], "($0 BETWEEN $1 AND $2)"),
            same(Bool, &[$kind, $kind, $kind], "($0 NOT BETWEEN $1 AND $2)"),
            same(Bool, &[$kind, $kind, $kind], "($0 IN ($1, $2))"),
            same(Bool, &[$kind, $kind, $kind], "($0 NOT IN ($1, $2))"),
            same(Bool, &[$kind, $kind, $kind], "($0 IN ($1, NULL, $2))"),
            same(Bool, &[$kind, $kind], "($0 NOT IN ($1, NULL))"),
            same(Bool, &[$kind, $kind], "(NOT ($0 IN ($1, NULL)))"),
            same(Bool, &[$kind, $kind], "($0 BETWEEN NULL AND $1)"),
            same(Bool, &[$kind, $kind], "($0 NOT BETWEEN $1 AND NULL)"),
            same(Bool, &[$kind], "($0 = $0)"),
            same(Bool, &[$kind], "($0 <> $0)"),
            same(Bool, &[$kind], "($0 <= $0)"),
            same($kind, &[$kind, $kind], "coalesce($0, $1)"),
            same($kind, &[$kind, $kind], "coalesce(NULL, $0, $1)"),
            same($kind, &[$kind], "nullif($0, NULL)"),
            same($kind, &[$kind, $kind], "nullif($0, $1)"),
            same($kind, &[Bool, $kind, $kind], "CASE WHEN $0 THEN $1 ELSE $2 END"),
            same($kind, &[Bool, $kind], "CASE WHEN $0 THEN $1 END"),
            same($kind, &[Bool, Bool, $kind, $kind], "CASE WHEN $0 THEN $2 WHEN $1 THEN $3 END"),
            same($kind, &[$kind, $kind, $kind, $kind], "CASE $0 WHEN $1 THEN $2 ELSE $3 END"),
            same($kind, &[$kind, $kind, $kind], "CASE $0 WHEN NULL THEN $1 ELSE $2 END"),
            same($kind, &[Bool, $kind], "CASE WHEN NULL THEN $1 WHEN $0 THEN NULL ELSE $1 END"),
        )+]
    };
}

static GENERAL: &[Form] = of_any_type!(Int Text Bool Time Date);

static PORTABLE: &[Form] = &[
    // Numbers.
    same(Int, &[Int, Int], "($0 + $1)"),
    same(Int, &[Int, Int], "($0 - $1)"),
    same(Int, &[Int, Int], "(($0 % 1009) * ($1 % 1013))"),
    same(Int, &[Int, Int], "($0 / nullif($1, 0))"),
    same(Int, &[Int, Int], "($0 % nullif($1, 0))"),
    same(Int, &[Int], "(- $0)"),
    same(Int, &[Int], "abs($0)"),
    same(Int, &[Int, Int], "($0 & $1)"),
    same(Int, &[Int, Int], "($0 | $1)"),
    // What an optimizer likes to take for simpler than it is.
    same(Int, &[Int], "($0 * 0)"),
    same(Int, &[Int], "($0 - $0)"),
    same(Int, &[Int], "($0 % 1)"),
    same(Int, &[Int], "($0 / 1)"),
    same(Int, &[Int], "($0 & 0)"),
    same(Int, &[Int], "(0 | $0)"),
    form(Int, &[Int], "CAST(round(CAST($0 AS DOUBLE) / 4) AS BIGINT)", "CAST(round(CAST($0 AS REAL) / 4) AS INTEGER)"),
    form(Int, &[Int, Int], "greatest($0, $1)", "max(coalesce($0, $1), coalesce($1, $0))"),
    form(Int, &[Int, Int], "least($0, $1)", "min(coalesce($0, $1), coalesce($1, $0))"),
    same(Int, &[Bool], "CAST($0 AS BIGINT)"),
    same(Int, &[Bool], "CASE WHEN $0 THEN 1 ELSE 0 END"),
    form(
        Int,
        &[Text],
        "TRY_CAST($0 AS BIGINT)",
        "CASE WHEN $0 <> '' AND $0 NOT GLOB '*[^0-9]*' AND length($0) < 18 THEN CAST($0 AS INTEGER) END",
    ),
    same(Int, &[Text], "CASE WHEN $0 IN ('7', '12') THEN CAST($0 AS BIGINT) END"),
    same(Int, &[Text, Int], "CASE WHEN $0 IN ('7', '12') THEN CAST($0 AS BIGINT) + $1 ELSE $1 END"),
    same(Int, &[Text], "length($0)"),
    form(Int, &[Text], "character_length($0)", "length($0)"),
    same(Int, &[Text], "octet_length($0)"),
    form(Int, &[Text, Text], "strpos($0, $1)", "instr($0, $1)"),
    form(Int, &[Text], "ascii($0)", "CASE WHEN $0 = '' THEN 0 ELSE unicode($0) END"),
    form(Int, &[Time], "(unix_timestamp($0) % 100003)", "(($0 / 1000000) % 100003)"),
    same(Int, &[Time, Time], "((($0 - $1) / 1000000) % 100003)"),
    form(Int, &[Time], "hour($0)", "CAST(strftime('%H', $0 / 1000000, 'unixepoch') AS INTEGER)"),
    form(
        Int,
        &[Time],
        "EXTRACT(MINUTE FROM to_timestamp_micros($0))",
        "CAST(strftime('%M', $0 / 1000000, 'unixepoch') AS INTEGER)",
    ),
    form(
        Int,
        &[Time],
        "date_part('dow', to_timestamp_micros($0))",
        "CAST(strftime('%w', $0 / 1000000, 'unixepoch') AS INTEGER)",
    ),
    form(
        Int,
        &[Time],
        "EXTRACT(DOY FROM to_timestamp_micros($0))",
        "CAST(strftime('%j', $0 / 1000000, 'unixepoch') AS INTEGER)",
    ),
    form(Int, &[Date], "EXTRACT(DAY FROM $0)", "CAST(strftime('%d', $0) AS INTEGER)"),
    form(Int, &[Date], "EXTRACT(MONTH FROM $0)", "CAST(strftime('%m', $0) AS INTEGER)"),
    form(
        Int,
        &[Json],
        "json_get_int($0, 'n')",
        "CASE WHEN json_type($0, '$.n') = 'integer' THEN json_extract($0, '$.n') END",
    ),
    same(Int, &[Json], "CASE WHEN ($0->>'v') IN ('7', '12') THEN CAST(($0->>'v') AS BIGINT) END"),
    form(
        Int,
        &[Json],
        "json_length($0->'l')",
        "CASE WHEN json_type($0, '$.l') = 'array' THEN json_array_length($0, '$.l') END",
    ),
    // Texts.
    same(Text, &[Text], "lower($0)"),
    same(Text, &[Text], "($0 || NULL)"),
    same(Text, &[Text], "concat($0, NULL, $0)"),
    same(Text, &[Text], "upper($0)"),
    same(Text, &[Text], "trim($0)"),
    same(Text, &[Text], "ltrim($0)"),
    same(Text, &[Text], "rtrim($0)"),
    form(Text, &[Text], "btrim($0, 'ab')", "trim($0, 'ab')"),
    same(Text, &[Text, Few], "substr($0, $1)"),
    same(Text, &[Text, Few, Few], "substr($0, $1, $2)"),
    form(Text, &[Text, Few], "left($0, $1)", "substr($0, 1, $1)"),
    form(Text, &[Text, Few], "right($0, $1)", "substr($0, - $1)"),
    same(Text, &[Text, Text], "replace($0, 'a', $1)"),
    same(Text, &[Text, Text], "($0 || $1)"),
    same(Text, &[Text, Int], "($0 || CAST($1 AS TEXT))"),
    same(Text, &[Text, Text], "concat($0, $1)"),
    same(Text, &[Text, Text], "concat_ws('-', $0, $1)"),
    form(Text, &[Text, Text], "greatest($0, $1)", "max(coalesce($0, $1), coalesce($1, $0))"),
    form(Text, &[Text, Text], "least($0, $1)", "min(coalesce($0, $1), coalesce($1, $0))"),
    same(Text, &[Int], "CAST($0 AS TEXT)"),
    form(Text, &[Bool], "CAST($0 AS VARCHAR)", "CASE WHEN $0 THEN 'true' WHEN NOT $0 THEN 'false' END"),
    same(Text, &[Date], "CAST($0 AS TEXT)"),
    form(
        Text,
        &[Time],
        "to_char(to_timestamp_micros($0), '%Y-%m-%d %H:%M')",
        "strftime('%Y-%m-%d %H:%M', $0 / 1000000, 'unixepoch')",
    ),
    same(Text, &[Json], "($0->>'k')"),
    same(Text, &[Json], "($0->'o'->>'a')"),
    form(
        Text,
        &[Json],
        "($0->>'f')",
        "CASE json_type($0, '$.f') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' END",
    ),
    form(Text, &[Json], "($0->>'n')", "CAST($0->>'n' AS TEXT)"),
    form(Text, &[Json], "json_get_str($0, 'k')", "($0->>'k')"),
    form(Text, &[Json], "json_as_text($0, 'v')", "($0->>'v')"),
    form(Text, &[Json], "json_get_str($0, 'o', 'a')", "($0->>'$.o.a')"),
    same(Text, &[Json], "($0->>'o')"),
    form(Text, &[Json], "($0->'l'->>0)", "CAST($0->'l'->>0 AS TEXT)"),
    same(Text, &[Json], "($0->'l'->>1)"),
    form(Text, &[Json], "json_get_str($0, 'l', 1)", "($0->>'$.l[1]')"),
    same(Text, &[Json], "coalesce($0, '{}')"),
    // Times and days.
    same(Time, &[Time], "($0 + 3600000000)"),
    form(Time, &[Time], "CAST(date_trunc('hour', to_timestamp_micros($0)) AS BIGINT)", "($0 - $0 % 3600000000)"),
    form(Date, &[Time], "date($0)", "date($0 / 1000000, 'unixepoch')"),
    form(Date, &[Time], "CAST(to_timestamp_micros($0) AS DATE)", "date($0 / 1000000, 'unixepoch')"),
    form(
        Date,
        &[Time],
        "CAST(date_trunc('week', to_timestamp_micros($0)) AS DATE)",
        "date($0 / 1000000, 'unixepoch', '-6 days', 'weekday 1')",
    ),
    form(
        Date,
        &[Time],
        "CAST(date_trunc('month', to_timestamp_micros($0)) AS DATE)",
        "date($0 / 1000000, 'unixepoch', 'start of month')",
    ),
    form(Date, &[Date], "CAST($0 + INTERVAL '1 day' AS DATE)", "date($0, '+1 day')"),
    form(Date, &[Date], "CAST($0 - INTERVAL '40 days' AS DATE)", "date($0, '-40 days')"),
    // Conditions.
    form(Bool, &[Time], "(date($0) = '2025-10-14')", "(date($0 / 1000000, 'unixepoch') = '2025-10-14')"),
    form(Bool, &[Time], "(to_timestamp_micros($0) >= '2025-10-14')", "($0 >= 1760400000000000)"),
    same(Bool, &[Date], "($0 > '2025-10-15')"),
    same(Bool, &[Date], "($0 IN ('2025-10-13', '2025-10-15', NULL))"),
    same(Bool, &[Int], "($0 IN (1, 2, 3, 5, 7, 9))"),
    same(Bool, &[Int], "($0 NOT IN (1, 2, 3, 5, NULL))"),
    same(Bool, &[Int], "($0 < 9223372036854775807)"),
    same(Bool, &[Int], "($0 > -9223372036854775807)"),
    form(Bool, &[Int, Int], "(CAST($0 AS DOUBLE) / 4 < $1)", "(CAST($0 AS REAL) / 4 < $1)"),
    same(Bool, &[Text], "($0 IN ('a', 'b', 'c1', '12', 'ann'))"),
    same(Bool, &[Text], "($0 NOT IN ('a', 'c1', 'ai', 'group', NULL))"),
    same(Bool, &[Bool], "($0 AND NULL)"),
    same(Bool, &[Bool], "($0 OR NULL)"),
    same(Bool, &[Bool], "($0 = TRUE)"),
    same(Bool, &[Bool], "($0 <> TRUE)"),
    same(Bool, &[Bool], "($0 AND NOT $0)"),
    same(Bool, &[Bool], "($0 OR NOT $0)"),
    same(Bool, &[Bool, Bool], "($0 AND $1)"),
    same(Bool, &[Bool, Bool], "($0 AND $1)"),
    same(Bool, &[Bool, Bool], "($0 AND $1)"),
    same(Bool, &[Bool, Bool], "($0 OR $1)"),
    same(Bool, &[Bool, Bool], "($0 OR $1)"),
    same(Bool, &[Bool, Bool], "($0 OR $1)"),
    same(Bool, &[Bool], "(NOT $0)"),
    same(Bool, &[Bool], "(NOT $0)"),
    same(Bool, &[Bool], "($0 IS TRUE)"),
    same(Bool, &[Bool], "($0 IS NOT TRUE)"),
    same(Bool, &[Bool], "($0 IS FALSE)"),
    same(Bool, &[Bool], "($0 IS NOT FALSE)"),
    form(Bool, &[Bool], "($0 IS UNKNOWN)", "($0 IS NULL)"),
    form(Bool, &[Bool], "($0 IS NOT UNKNOWN)", "($0 IS NOT NULL)"),
    form(Bool, &[Text, Pattern], "($0 LIKE $1)", "($0 LIKE $1 ESCAPE '\\')"),
    form(Bool, &[Text, Pattern], "($0 LIKE $1)", "($0 LIKE $1 ESCAPE '\\')"),
    form(Bool, &[Text, Pattern], "($0 NOT LIKE $1)", "($0 NOT LIKE $1 ESCAPE '\\')"),
    form(Bool, &[Text, Pattern], "($0 ILIKE $1)", "(lower($0) LIKE lower($1) ESCAPE '\\')"),
    form(Bool, &[Text, Pattern], "($0 NOT ILIKE $1)", "(lower($0) NOT LIKE lower($1) ESCAPE '\\')"),
    form(Bool, &[Text, Text], "($0 LIKE '%' || $1 || '%')", "($0 LIKE '%' || $1 || '%' ESCAPE '\\')"),
    same(Bool, &[Text, Text], "($0 LIKE $1)"),
    same(Bool, &[Text, Text], "($0 NOT LIKE $1 || '%')"),
    same(Bool, &[Text], "($0 LIKE 'a!%b' ESCAPE '!')"),
    same(Bool, &[Text], "($0 NOT LIKE '%!_%' ESCAPE '!')"),
    form(Bool, &[Text, Text], "starts_with($0, $1)", "(substr($0, 1, length($1)) = $1)"),
    form(Bool, &[Text, Text], "contains($0, $1)", "(instr($0, $1) > 0)"),
    form(Bool, &[Json], "($0 ? 'k')", "(json_type($0, '$.k') IS NOT NULL)"),
    form(Bool, &[Json], "json_contains($0, 'k')", "(json_type($0, '$.k') IS NOT NULL)"),
    form(
        Bool,
        &[Json],
        "json_get_bool($0, 'f')",
        "CASE json_type($0, '$.f') WHEN 'true' THEN 1 WHEN 'false' THEN 0 END",
    ),
    same(Bool, &[Json, Text], "(($0->>'k') = $1)"),
    same(Bool, &[Json, Text], "(($0->>'k') = $1)"),
    same(Bool, &[Json], "(($0->>'k') IS NULL)"),
    same(Bool, &[Json], "($0 IS NULL)"),
    same(Json, &[Json, Json], "coalesce($0, $1)"),
    same(Json, &[Bool, Json, Json], "CASE WHEN $0 THEN $1 ELSE $2 END"),
    // Fractions.
    form(Real, &[Int], "(CAST($0 AS DOUBLE) / 4)", "(CAST($0 AS REAL) / 4)"),
    form(Real, &[Int, Int], "(CAST($0 AS DOUBLE) * $1)", "(CAST($0 AS REAL) * $1)"),
];

static ONLY_OURS: &[Form] = &[
    only(Text, &[Text], "reverse($0)"),
    only(Text, &[Text], "initcap($0)"),
    only(Text, &[Text, Few], "repeat($0, $1)"),
    only(Text, &[Text, Few], "lpad($0, $1)"),
    only(Text, &[Text, Few, Text], "rpad($0, $1, $2)"),
    only(Text, &[Text, Few], "split_part($0, ' ', $1)"),
    only(Text, &[Text], "translate($0, 'ab', 'x')"),
    only(Text, &[Text, Few], "overlay($0 PLACING 'zz' FROM $1)"),
    only(Text, &[Text, Few, Few], "SUBSTRING($0 FROM $1 FOR $2)"),
    only(Text, &[Text], "TRIM(BOTH 'a' FROM $0)"),
    only(Text, &[Text, Regex], "regexp_replace($0, $1, '<>')"),
    only(Text, &[Text, Text], "array_to_string(make_array($0, $1), '+')"),
    only(Text, &[Text, Few], "(string_to_array($0, ' '))[$1]"),
    only(Text, &[Int], "to_hex($0)"),
    only(Text, &[Text], "encode(CAST($0 AS BYTEA), 'hex')"),
    only(Text, &[Text], "CAST(md5($0) AS VARCHAR)"),
    only(Text, &[Text, Text], "nvl($0, $1)"),
    only(Text, &[Json], "json_get_json($0, 'o')"),
    only(Text, &[Json], "array_to_string(json_object_keys($0), ',')"),
    only(Int, &[Text, Text], "levenshtein($0, $1)"),
    only(Int, &[Text, Regex], "regexp_count($0, $1)"),
    only(Int, &[Text, Regex], "regexp_instr($0, $1)"),
    only(Int, &[Text, Text], "POSITION($0 IN $1)"),
    only(Int, &[Text], "bit_length($0)"),
    only(Int, &[Text], "CAST(array_length(string_to_array($0, ' ')) AS BIGINT)"),
    only(Int, &[Int, Int, Int], "CAST(array_position(make_array($0, $1), $2) AS BIGINT)"),
    only(Int, &[Int, Int], "($0 ^ $1)"),
    only(Int, &[Int, Few], "(($0 % 1009) << $1)"),
    only(Int, &[Int, Few], "($0 >> $1)"),
    only(Int, &[Int, Int], "gcd($0 % 1009, $1 % 1013)"),
    only(Int, &[Int], "CAST(floor($0 / 3.0) AS BIGINT)"),
    only(Int, &[Json], "CAST(json_length($0) AS BIGINT)"),
    only(Time, &[Time], "CAST(to_timestamp_micros($0) + INTERVAL '1 day' AS BIGINT)"),
    only(Time, &[Time], "CAST(date_trunc('month', to_timestamp_micros($0)) AS BIGINT)"),
    only(Date, &[Date], "CAST($0 + INTERVAL '1 month' AS DATE)"),
    only(Bool, &[Text, Regex], "($0 ~ $1)"),
    only(Bool, &[Text, Regex], "($0 ~* $1)"),
    only(Bool, &[Text, Regex], "($0 !~ $1)"),
    only(Bool, &[Text, Regex], "($0 !~* $1)"),
    only(Bool, &[Text, Regex], "regexp_like($0, $1)"),
    only(Bool, &[Text, Pattern], "($0 SIMILAR TO $1)"),
    only(Bool, &[Text, Text], "($0 ILIKE '%' || $1 || '%')"),
    only(Bool, &[Text, Text, Text], "array_has(make_array($0, $1), $2)"),
    only(Bool, &[Text, Text], "ends_with($0, $1)"),
    only(Bool, &[Json, Text], "json_contains($0, $1)"),
    only(Bool, &[Int], "($0 / 3.0 > 1)"),
    only(Bool, &[Int, Int], "(CAST($0 AS DOUBLE) / nullif($1, 0) < 1.5)"),
    only(Bool, &[Int, Int], "(CAST($0 AS DECIMAL(20, 2)) * 1.5 >= $1)"),
    only(Bool, &[Time], "(to_timestamp_micros($0) < TIMESTAMP '2025-10-20T00:00:00Z')"),
    only(Bool, &[Text], "(upper($0) = lower($0))"),
];

/// The forms that make a type: those of every type, or those of its own (which all have); without those that only we
/// have, when `portable`.
pub(super) fn making(kind: Type, portable: bool, general: bool) -> Vec<&'static Form> {
    let fits = |form: &&Form| form.gives == kind && (form.is_portable() || !portable);
    let own = || PORTABLE.iter().chain(ONLY_OURS).filter(fits);
    if general && GENERAL.iter().any(|form| form.gives == kind) {
        GENERAL.iter().filter(fits).collect()
    } else {
        own().collect()
    }
}

const fn call(gives: Option<Type>, takes: &'static [Type], text: &'static str) -> Call {
    let (can_be_distinct, needs_total_order, has_frame) = (false, false, false);
    Call { gives, takes, few: 0, ours: text, sqlite: text, can_be_distinct, needs_total_order, has_frame }
}

const fn distinct(call: Call) -> Call {
    Call { can_be_distinct: true, ..call }
}

const fn total(few: usize, call: Call) -> Call {
    Call { few, needs_total_order: true, ..call }
}

const fn framed(call: Call) -> Call {
    Call { has_frame: true, ..call }
}

const fn translated(sqlite: &'static str, call: Call) -> Call {
    Call { sqlite, ..call }
}

const ORDERED: &[Type] = &[Int, Text, Time, Date];

/// The aggregates.
pub(super) static AGGREGATES: &[Call] = &[
    call(Some(Int), &[], "COUNT(*)"),
    call(Some(Int), &[], "COUNT(*)"),
    distinct(call(Some(Int), &[Int, Text, Bool, Time, Date], "COUNT($0)")),
    distinct(call(Some(Int), &[Int, Text, Bool, Time, Date], "COUNT($0)")),
    distinct(call(Some(Int), &[Int], "SUM($0)")),
    call(Some(Int), &[Int], "SUM($0)"),
    call(None, ORDERED, "MIN($0)"),
    call(None, ORDERED, "MAX($0)"),
    call(None, ORDERED, "MAX($0)"),
    translated("MIN($0)", call(Some(Bool), &[Bool], "bool_and($0)")),
    translated("MAX($0)", call(Some(Bool), &[Bool], "bool_or($0)")),
    distinct(call(Some(Real), &[Int], "AVG($0)")),
    call(Some(Text), &[Text], "string_agg($0, ',' ORDER BY $0)"),
];

/// The windows.
pub(super) static WINDOWS: &[Call] = &[
    total(0, call(Some(Int), &[], "ROW_NUMBER()")),
    total(0, call(Some(Int), &[], "ROW_NUMBER()")),
    call(Some(Int), &[], "RANK()"),
    call(Some(Int), &[], "DENSE_RANK()"),
    call(Some(Real), &[], "PERCENT_RANK()"),
    call(Some(Real), &[], "CUME_DIST()"),
    total(1, call(Some(Int), &[], "NTILE($0)")),
    total(0, call(None, ORDERED, "LAG($0)")),
    total(1, call(None, ORDERED, "LAG($0, $1)")),
    total(0, call(None, ORDERED, "LEAD($0)")),
    total(1, call(None, &[Int], "LEAD($0, $1, -1)")),
    framed(total(0, call(None, ORDERED, "FIRST_VALUE($0)"))),
    framed(total(0, call(None, ORDERED, "LAST_VALUE($0)"))),
    framed(total(1, call(None, ORDERED, "NTH_VALUE($0, $1)"))),
    framed(call(Some(Int), &[], "COUNT(*)")),
    framed(call(Some(Int), &[Int, Text, Bool], "COUNT($0)")),
    framed(call(Some(Int), &[Int], "SUM($0)")),
    framed(call(Some(Int), &[Int], "SUM($0)")),
    framed(call(Some(Real), &[Int], "AVG($0)")),
    framed(call(None, ORDERED, "MIN($0)")),
    framed(call(None, ORDERED, "MAX($0)")),
];

/// Frames, by what they need.
pub(super) static ROWS_FRAMES: &[&str] = &[
    "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
    "ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
    "ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING",
    "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
    "ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING",
    "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
    "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
    "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING",
];

/// These look at whole groups of rows of the same place, so that any order will do.
pub(super) static GROUP_FRAMES: &[&str] = &[
    "",
    "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
    "RANGE BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
    "GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW",
    "GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
    "GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING",
];

/// These reckon with the one number that the rows are ordered by.
pub(super) static DISTANCE_FRAMES: &[&str] = &[
    "RANGE BETWEEN 2 PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN 1 PRECEDING AND 3 FOLLOWING",
    "RANGE BETWEEN 1 FOLLOWING AND 5 FOLLOWING",
];
