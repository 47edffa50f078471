//! Makes statements such as an adversary would try: every way of naming a table, in every place where one can stand.
//!
//! Invariant: every statement parses (the tests check it); what is generated depends on the dice alone; and no
//! statement holds the marker, so that one that shows up was read.

use serde_json::{Value, json};

use crate::harness::Dice;

/// Stands for the unquoted column `from`, which our SQL takes as a column and the plain parser does not.
const FROM: char = '\u{E000}';
/// Stands for the schema `*`, likewise.
const STAR: char = '\u{E001}';

/// A statement, as it is sent and as the plain parser takes it.
pub struct Statement {
    pub sql: String,
    pub plain: String,
    pub params: Option<Value>,
    /// A SELECT whose rows do not depend on the moment or on the order of evaluation.
    pub repeatable: bool,
}

/// The types that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Text,
    Int,
}

/// A relation in reach: its alias and columns.
#[derive(Debug, Clone)]
struct Relation {
    alias: String,
    columns: Vec<(String, Type)>,
}

/// Makes statements for one user about another.
pub struct Generator {
    dice: Dice,
    me: &'static str,
    other: &'static str,
    /// CTEs of the statement so far, with their columns.
    ctes: Vec<Relation>,
    params: Vec<Value>,
    aliases: usize,
    /// Whether this statement reaches for what is not its own by name.
    attacking: bool,
    repeatable: bool,
}

const TABLES: [(&str, &[(&str, Type)]); 4] = [
    (
        "messages",
        &[
            ("msgId", Type::Int),
            ("conversationId", Type::Text),
            ("conversationType", Type::Text),
            ("\u{E000}", Type::Text),
            ("timestamp", Type::Int),
            ("content", Type::Text),
            ("metadata", Type::Text),
        ],
    ),
    (
        "conversations",
        &[
            ("conversationId", Type::Text),
            ("conversationType", Type::Text),
            ("userId", Type::Text),
            ("lastMsgId", Type::Int),
            ("unreadCount", Type::Int),
            ("metadata", Type::Text),
            ("storagePath", Type::Text),
        ],
    ),
    (
        "conversationUsers",
        &[
            ("userId", Type::Text),
            ("conversationId", Type::Text),
            ("role", Type::Text),
            ("created", Type::Int),
            ("metadata", Type::Text),
        ],
    ),
    (
        "deletedMessages",
        &[
            ("msgId", Type::Int),
            ("conversationId", Type::Text),
            ("conversationType", Type::Text),
            ("\u{E000}", Type::Text),
            ("content", Type::Text),
            ("metadata", Type::Text),
            ("deletedAt", Type::Int),
        ],
    ),
];

impl Generator {
    pub fn new(dice: Dice, me: &'static str, other: &'static str) -> Self {
        Self { dice, me, other, ctes: Vec::new(), params: Vec::new(), aliases: 0, attacking: false, repeatable: true }
    }

    /// The next statement.
    pub fn statement(&mut self) -> Statement {
        self.ctes.clear();
        self.params.clear();
        self.aliases = 0;
        self.repeatable = true;
        self.attacking = self.dice.chance(30);
        let text = match self.dice.below(100) {
            0..70 => self.query(3, None, true),
            70..76 => self.explain(),
            _ => self.write(),
        };
        self.finish(&text)
    }

    /// The next SELECT that two runs over the same rows answer alike.
    pub fn repeatable_read(&mut self) -> Statement {
        loop {
            let statement = self.statement();
            if statement.repeatable {
                return statement;
            }
        }
    }

    fn finish(&mut self, text: &str) -> Statement {
        let text = self.disguise(text);
        let quoted = |text: &str, from: &str, star: &str| {
            text.chars().fold(String::new(), |mut done, c| {
                match c {
                    FROM => done.push_str(from),
                    STAR => done.push_str(star),
                    _ => done.push(c),
                }
                done
            })
        };
        let from = *self.dice.pick(&["from", "from", "FROM", "From", "\"from\""]);
        Statement {
            sql: quoted(&text, from, "*"),
            plain: quoted(&text, "\"from\"", "\"*\""),
            params: (!self.params.is_empty()).then(|| json!(self.params)),
            repeatable: self.repeatable,
        }
    }

    /// Changes case and white space and adds comments, outside of quotes: nothing that changes the meaning.
    fn disguise(&mut self, text: &str) -> String {
        if self.dice.chance(40) {
            return text.to_owned();
        }
        let noise = ["  ", "\n", "\t", " /* * */ ", " -- x\n", " /* /* nested */ */ "];
        let comment = format!(" /* {}.messages */ ", self.other);
        let mut done = String::new();
        let mut quote = None;
        for c in text.chars() {
            match quote {
                Some(open) if c == open => quote = None,
                None if c == '\'' || c == '"' => quote = Some(c),
                _ => {}
            }
            match c {
                ' ' if quote.is_none() && self.dice.chance(8) => done.push_str(self.dice.pick::<&str>(&noise)),
                ' ' if quote.is_none() && self.dice.chance(1) => done.push_str(&comment),
                // Keywords, tables and columns: user ids have no capitals, because there case matters.
                c if quote.is_none() && c.is_ascii_uppercase() && self.dice.chance(15) => {
                    done.push(c.to_ascii_lowercase());
                }
                c => done.push(c),
            }
        }
        done
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn explain(&mut self) -> String {
        self.repeatable = false;
        let how = *self.dice.pick(&["EXPLAIN", "EXPLAIN VERBOSE", "EXPLAIN ANALYZE"]);
        format!("{how} {}", self.query(2, None, true))
    }

    // --- queries

    /// A query of the column types given, or of any.
    fn query(&mut self, depth: usize, types: Option<&[Type]>, outermost: bool) -> String {
        let known = self.ctes.len();
        let with = if depth > 0 && self.dice.chance(if outermost { 25 } else { 6 }) {
            self.with(depth)
        } else {
            String::new()
        };
        let mut text = self.select(depth, types);
        if let Some(types) = types
            && depth > 0
            && self.dice.chance(8)
        {
            let operator = *self.dice.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
            text = format!("{text} {operator} {}", self.select(depth - 1, Some(types)));
        }
        if outermost && types.is_some() && self.dice.chance(20) {
            text += " ORDER BY 1";
        }
        if self.dice.chance(10) {
            self.repeatable = false;
            text = format!("{text} LIMIT {}", 1 + self.dice.below(20));
        }
        self.ctes.truncate(known);
        format!("{with}{text}")
    }

    /// CTEs, which like to be called what tables, schemas and users are called.
    fn with(&mut self, depth: usize) -> String {
        let mut parts = Vec::new();
        for _ in 0..=self.dice.below(2) {
            let other = format!("\"{}\"", self.other);
            let me = format!("\"{}\"", self.me);
            let names = ["messages", "conversations", "userId", "information_schema", "system", "cte", &other, &me];
            let name = (*self.dice.pick(&names)).to_owned();
            if self.ctes.iter().any(|cte| cte.alias.eq_ignore_ascii_case(&name)) {
                continue;
            }
            let types = [Type::Text, Type::Int];
            let query = self.query(depth - 1, Some(&types), false);
            parts.push(format!("{name} (c0, c1) AS ({query})"));
            let columns = vec![("c0".to_owned(), Type::Text), ("c1".to_owned(), Type::Int)];
            self.ctes.push(Relation { alias: name, columns });
        }
        if parts.is_empty() { String::new() } else { format!("WITH {} ", parts.join(", ")) }
    }

    fn select(&mut self, depth: usize, types: Option<&[Type]>) -> String {
        let mut scope = Vec::new();
        let from = self.relations(depth, &mut scope);
        let list = match types {
            None if self.dice.chance(30) => "*".to_owned(),
            None => {
                let columns: Vec<String> = (0..=self.dice.below(3))
                    .map(|number| {
                        let of = *self.dice.pick(&[Type::Text, Type::Text, Type::Int]);
                        format!("{} AS x{number}", self.expression(of, &scope, depth))
                    })
                    .collect();
                columns.join(", ")
            }
            Some(types) => {
                let columns: Vec<String> = types.iter().map(|of| self.expression(*of, &scope, depth)).collect();
                columns.join(", ")
            }
        };
        let filter =
            if self.dice.chance(50) { format!(" WHERE {}", self.condition(&scope, depth)) } else { String::new() };
        let distinct = if types.is_some() && self.dice.chance(5) { "DISTINCT " } else { "" };
        format!("SELECT {distinct}{list} FROM {from}{filter}")
    }

    fn relations(&mut self, depth: usize, scope: &mut Vec<Relation>) -> String {
        let mut text = self.factor(depth, scope);
        let joins = match self.dice.below(10) {
            0..6 => 0,
            6..9 => 1,
            _ => 2,
        };
        for _ in 0..joins {
            let before = scope.clone();
            match self.dice.below(5) {
                0 => text = format!("{text}, {}", self.factor(depth, scope)),
                1 => text = format!("{text} CROSS JOIN {}", self.factor(depth, scope)),
                _ => {
                    let kind = *self.dice.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "INNER JOIN"]);
                    let joined = self.factor(depth, scope);
                    let left = self.column(Type::Text, &before);
                    let right = self.column(Type::Text, &scope[before.len()..]);
                    text = format!("{text} {kind} {joined} ON {left} = {right}");
                }
            }
        }
        text
    }

    /// One relation of a FROM clause.
    fn factor(&mut self, depth: usize, scope: &mut Vec<Relation>) -> String {
        let alias = self.alias();
        if depth > 0 && self.dice.chance(15) {
            let types = [Type::Text, Type::Int, Type::Text];
            let query = self.query(depth - 1, Some(&types), false);
            let columns = types.iter().enumerate().map(|(number, of)| (format!("c{number}"), *of)).collect();
            scope.push(Relation { alias: alias.clone(), columns });
            return format!("({query}) AS {alias} (c0, c1, c2)");
        }
        if !self.ctes.is_empty() && self.dice.chance(50) {
            let cte = self.dice.pick(&self.ctes).clone();
            scope.push(Relation { alias: alias.clone(), columns: cte.columns });
            return format!("{} AS {alias}", cte.alias);
        }
        let (table, columns) = *self.dice.pick(&TABLES);
        let columns = columns.iter().map(|(name, of)| ((*name).to_owned(), *of)).collect();
        scope.push(Relation { alias: alias.clone(), columns });
        let name =
            if self.attacking && self.dice.chance(45) { self.foreign_table(table) } else { self.own_table(table) };
        format!("{name} AS {alias}")
    }

    /// One's own table, by one of its names.
    fn own_table(&mut self, table: &str) -> String {
        let me = self.me;
        match self.dice.below(9) {
            // A CTE of the same name would be meant; with a schema it is the table.
            0 if self.ctes.iter().all(|cte| cte.alias != table) => table.to_owned(),
            1 => format!("\"{me}\".{table}"),
            2 => format!("\"{me}\".\"{table}\""),
            3 => format!("{me}.{table}"),
            4 => format!("\"userId\".{table}"),
            5 => format!("userid.{table}"),
            _ => format!("userId.{table}"),
        }
    }

    /// Something that is not one's own, by one of many names.
    fn foreign_table(&mut self, table: &str) -> String {
        let other = self.other;
        let look_alike: String = other.replace('e', "\u{0435}").replace('a', "\u{0430}");
        let wide: String = other.chars().map(|c| char::from_u32(u32::from(c) + 0xFEE0).unwrap_or(c)).collect();
        let upper = other.to_uppercase();
        match self.dice.below(26) {
            0..4 => format!("{other}.{table}"),
            4 => format!("\"{other}\".\"{table}\""),
            5 => format!("{upper}.{table}"),
            6 => format!("\"{upper}\".{table}"),
            7 => format!("\"{look_alike}\".{table}"),
            8 => format!("\"{wide}\".{table}"),
            9 => format!("\"{other}\u{200b}\".{table}"),
            10 => format!("\" {other}\".{table}"),
            11 => format!("\"{other} \".{table}"),
            12 => format!("{STAR}.{table}"),
            13 => format!("kalamdb.{other}.{table}"),
            14 => format!("datafusion.\"{other}\".{table}"),
            15 => format!("userId.{other}.{table}"),
            16 => format!("\"{other}.{table}\""),
            17 => format!("userId.\"{other}.{table}\""),
            18 => format!("\"../{other}/{table}\""),
            19 => format!("'{other}/batch-20251013-001.parquet'"),
            20 => format!("\"file:///{other}/batch-20251013-001.parquet\""),
            21 => format!("shared.{table}"),
            22 => format!("default.{table}"),
            23 => (*self.dice.pick(&["system.segments", "system.users", "system.owners"])).to_owned(),
            24 => format!(
                "information_schema.{}",
                self.dice.pick(&["tables", "columns", "schemata", "df_settings", "views", "routines"])
            ),
            _ => format!("nobody_at_all.{table}"),
        }
    }

    // --- expressions

    fn column(&mut self, of: Type, scope: &[Relation]) -> String {
        let relation = self.dice.pick(scope).clone();
        let fitting: Vec<&(String, Type)> = relation.columns.iter().filter(|(_, kind)| *kind == of).collect();
        if fitting.is_empty() {
            return self.literal(of);
        }
        format!("{}.{}", relation.alias, self.dice.pick(&fitting).0)
    }

    fn literal(&mut self, of: Type) -> String {
        if self.dice.chance(15) {
            let value = match of {
                Type::Text => json!(self.known_text()),
                Type::Int => json!(self.dice.below(40)),
            };
            self.params.push(value);
            return format!("${}", self.params.len());
        }
        match of {
            Type::Text => format!("'{}'", self.known_text()),
            Type::Int => self.dice.below(40).to_string(),
        }
    }

    /// What an adversary may know: names and ids, never what is written there.
    fn known_text(&mut self) -> String {
        let (me, other) = (self.me, self.other);
        let notes = format!("{other}-notes");
        let group = format!("{other}-group");
        let path = format!("shared/conversations/{other}-group");
        (*self.dice.pick(&[me, other, "ai", "group", &notes, &group, &path, "no-such-id", "userId", "owner", "''"]))
            .to_owned()
    }

    fn expression(&mut self, of: Type, scope: &[Relation], depth: usize) -> String {
        if depth == 0 || self.dice.chance(45) {
            return if self.dice.chance(80) { self.column(of, scope) } else { self.literal(of) };
        }
        match of {
            Type::Text => self.text(scope, depth - 1),
            Type::Int => self.int(scope, depth - 1),
        }
    }

    fn text(&mut self, scope: &[Relation], depth: usize) -> String {
        let part = |this: &mut Self| this.expression(Type::Text, scope, depth);
        match self.dice.below(11) {
            0 => format!("concat({}, {})", part(self), part(self)),
            1 => format!("coalesce({}, {})", part(self), part(self)),
            2 => format!("lower({})", part(self)),
            3 => format!("upper({})", part(self)),
            4 => format!("({} || {})", part(self), part(self)),
            5 => format!("CASE WHEN {} THEN {} ELSE {} END", self.condition(scope, depth), part(self), part(self)),
            6 => format!("CAST({} AS VARCHAR)", self.expression(Type::Int, scope, depth)),
            7 => format!("substr({}, 1, 400)", part(self)),
            8 => format!("nullif({}, {})", part(self), part(self)),
            9 => format!("json_get_str({}, 'k')", part(self)),
            _ => self.scalar(Type::Text, scope, depth),
        }
    }

    fn int(&mut self, scope: &[Relation], depth: usize) -> String {
        match self.dice.below(5) {
            0 => format!("length({})", self.expression(Type::Text, scope, depth)),
            1 => {
                let (left, right) =
                    (self.expression(Type::Int, scope, depth), self.expression(Type::Int, scope, depth));
                format!("({left} + {right}) % 1000003")
            }
            2 => format!("coalesce({}, 0)", self.expression(Type::Int, scope, depth)),
            3 => format!("CASE WHEN {} THEN 1 ELSE 0 END", self.condition(scope, depth)),
            _ => self.scalar(Type::Int, scope, depth),
        }
    }

    /// A scalar subquery: an aggregate, sometimes correlated.
    fn scalar(&mut self, of: Type, scope: &[Relation], depth: usize) -> String {
        let mut inner = Vec::new();
        let from = self.factor(depth.min(1), &mut inner);
        let column = self.column(of, &inner);
        let aggregate = match of {
            Type::Text => *self.dice.pick(&["MAX", "MIN"]),
            Type::Int => *self.dice.pick(&["MAX", "MIN", "COUNT"]),
        };
        let filter = self.correlation(scope, &inner);
        format!("(SELECT {aggregate}({column}) FROM {from}{filter})")
    }

    fn correlation(&mut self, outer: &[Relation], inner: &[Relation]) -> String {
        match self.dice.below(3) {
            0 => format!(" WHERE {} = {}", self.column(Type::Text, inner), self.column(Type::Text, outer)),
            1 => format!(" WHERE {} < {}", self.column(Type::Int, inner), self.literal(Type::Int)),
            _ => String::new(),
        }
    }

    fn condition(&mut self, scope: &[Relation], depth: usize) -> String {
        let text = |this: &mut Self| this.expression(Type::Text, scope, depth.saturating_sub(1));
        match self.dice.below(if depth == 0 { 6 } else { 11 }) {
            0 => format!("{} = {}", text(self), text(self)),
            1 => format!("{} LIKE '%{}%'", text(self), self.dice.pick(&["e", "a", "secret", "mar"])),
            2 => format!("{} > {}", self.column(Type::Int, scope), self.literal(Type::Int)),
            3 => format!("{} IS NOT NULL", self.column(Type::Text, scope)),
            4 => format!("{} IS DISTINCT FROM {}", text(self), text(self)),
            5 => format!("{} BETWEEN 0 AND {}", self.column(Type::Int, scope), self.literal(Type::Int)),
            6 => format!("({} OR {})", self.condition(scope, depth - 1), self.condition(scope, depth - 1)),
            7 => format!("({} AND NOT {})", self.condition(scope, depth - 1), self.condition(scope, depth - 1)),
            8 => {
                let types = [Type::Text];
                let subject = self.column(Type::Text, scope);
                let not = if self.dice.chance(25) { "NOT " } else { "" };
                format!("{subject} {not}IN ({})", self.query(depth - 1, Some(&types), false))
            }
            9 => {
                let mut inner = Vec::new();
                let from = self.factor(depth - 1, &mut inner);
                let filter = self.correlation(scope, &inner);
                format!("EXISTS (SELECT 1 FROM {from}{filter})")
            }
            _ => format!("{} <= {}", self.expression(Type::Int, scope, depth - 1), self.literal(Type::Int)),
        }
    }

    // --- writes

    fn target(&mut self, table: &str) -> String {
        if self.attacking && self.dice.chance(40) { self.foreign_table(table) } else { self.own_table(table) }
    }

    fn write(&mut self) -> String {
        self.repeatable = false;
        match self.dice.below(12) {
            0..4 => self.insert_message(),
            4..6 => self.update_message(),
            6..8 => self.delete_message(),
            8 => self.restore_or_purge(),
            9 => self.update_conversation(),
            _ => self.join_a_group(),
        }
    }

    fn insert_message(&mut self) -> String {
        let target = self.target("messages");
        let types = [Type::Text, Type::Text];
        if self.dice.chance(25) {
            let scope = [];
            let values: Vec<String> = types.iter().map(|of| self.value(*of, &scope)).collect();
            return format!("INSERT INTO {target} (conversationId, content) VALUES ({})", values.join(", "));
        }
        let source = self.query(2, Some(&types), false);
        // What is copied into one's own rows can be read there: the source's scope is the point.
        format!(
            "INSERT INTO {target} (conversationId, content) SELECT 'copy', coalesce(s.c1, '') FROM ({source}) AS s (c0, c1) LIMIT 3"
        )
    }

    /// A value where no relation is in reach.
    fn value(&mut self, of: Type, scope: &[Relation]) -> String {
        if self.dice.chance(50) {
            format!("coalesce({}, 'x')", self.scalar_or_literal(of, scope))
        } else {
            "'copy'".to_owned()
        }
    }

    fn scalar_or_literal(&mut self, of: Type, scope: &[Relation]) -> String {
        if scope.is_empty() {
            let mut inner = Vec::new();
            let from = self.factor(1, &mut inner);
            let column = self.column(of, &inner);
            return format!("(SELECT MAX({column}) FROM {from})");
        }
        self.scalar(of, scope, 1)
    }

    /// The relation that an UPDATE or DELETE names, without an alias.
    fn target_relation(table: usize) -> Relation {
        let (name, columns) = TABLES[table];
        let columns = columns.iter().map(|(name, of)| ((*name).to_owned(), *of)).collect();
        Relation { alias: name.to_owned(), columns }
    }

    fn update_message(&mut self) -> String {
        let target = self.target("messages");
        let scope = [Self::target_relation(0)];
        let value = self.expression(Type::Text, &scope, 2);
        let filter = self.condition(&scope, 2);
        format!("UPDATE {target} SET content = coalesce({value}, '') WHERE conversationType = 'ai' AND {filter}")
    }

    /// Deletes few rows at a time, so that there is always something to reach for.
    fn delete_message(&mut self) -> String {
        let target = self.target("messages");
        let scope = [Self::target_relation(0)];
        let filter = self.condition(&scope, 2);
        format!("DELETE FROM {target} WHERE msgId % 7 = {} AND {filter}", self.dice.below(7))
    }

    /// Brings deleted messages back, and purges few at a time.
    fn restore_or_purge(&mut self) -> String {
        let target = self.target("deletedMessages");
        let scope = [Self::target_relation(3)];
        let filter = self.condition(&scope, 2);
        if self.dice.chance(70) {
            return format!("UPDATE {target} SET deletedAt = NULL WHERE {filter}");
        }
        format!("DELETE FROM {target} WHERE msgId % 7 = {} AND {filter}", self.dice.below(7))
    }

    fn update_conversation(&mut self) -> String {
        let target = self.target("conversations");
        let scope = [Self::target_relation(1)];
        let filter = self.condition(&scope, 2);
        let read = self.scalar(Type::Int, &scope, 1);
        format!("UPDATE {target} SET lastReadMsgId = {read} WHERE {filter}")
    }

    /// Attempts to get into the other's group, or to change it.
    fn join_a_group(&mut self) -> String {
        let (me, other) = (self.me, self.other);
        let participants = self.target("conversationUsers");
        match self.dice.below(7) {
            0 => format!("INSERT INTO {participants} (conversationId, userId) VALUES ('{other}-group', '{me}')"),
            1 => format!(
                "INSERT INTO {participants} (conversationId, userId, role) VALUES ('{other}-group', '{me}', 'owner')"
            ),
            2 => format!(
                "INSERT INTO {participants} (conversationId, userId) SELECT conversationId, '{me}' FROM {participants}"
            ),
            3 => format!("UPDATE {participants} SET role = 'owner' WHERE conversationId = '{other}-group'"),
            4 => format!("DELETE FROM {participants} WHERE conversationId = '{other}-group'"),
            5 => {
                let conversations = self.target("conversations");
                format!(
                    "INSERT INTO {conversations} (conversationId, conversationType) VALUES ('{other}-group', 'group')"
                )
            }
            _ => {
                let messages = self.target("messages");
                format!(
                    "INSERT INTO {messages} (conversationId, conversationType, content) VALUES ('{other}-group', 'group', 'let me in')"
                )
            }
        }
    }
}
