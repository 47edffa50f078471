//! Reading tokens from left to right: whether an operand is due or has just ended.
//!
//! Invariant: one step per token, looking ahead only in `TRIM(BOTH from FROM x)` and `TRIM(FROM x)`; it knows no table and
//! no column but `from`.

use datafusion::sql::sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};

/// The keyword that a token is, if it is one.
pub(super) fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// `TRIM(`
pub(super) fn begins_trim(tokens: &[TokenWithSpan]) -> bool {
    matches!(tokens, [trim, open] if keyword(&trim.token) == Keyword::TRIM && open.token == Token::LParen)
}

/// Whether an operand begins with these tokens, after `TRIM(FROM`; otherwise that `FROM` was one.
fn is_operand(tokens: &[TokenWithSpan]) -> bool {
    match tokens {
        // `TRIM(FROM from)` against `TRIM(from FROM x)`.
        [from, after, ..] if keyword(&from.token) == Keyword::FROM => after.token == Token::RParen,
        [first, ..] => match &first.token {
            Token::Word(_) => !AFTER_AN_OPERAND.contains(&keyword(&first.token)),
            Token::LParen => true,
            token => is_literal(token),
        },
        [] => false,
    }
}

/// Words that go on with an operand: `TRIM(from COLLATE …)`.
const AFTER_AN_OPERAND: &[Keyword] = &[
    Keyword::AND,
    Keyword::AT,
    Keyword::BETWEEN,
    Keyword::COLLATE,
    Keyword::DIV,
    Keyword::ILIKE,
    Keyword::IN,
    Keyword::IS,
    Keyword::LIKE,
    Keyword::NOT,
    Keyword::OR,
    Keyword::REGEXP,
    Keyword::RLIKE,
    Keyword::SIMILAR,
    Keyword::XOR,
];

/// Keywords after which an operand comes, so that a `FROM` right after them is the column.
const BEFORE_AN_OPERAND: &[Keyword] = &[
    Keyword::SELECT,
    Keyword::WHERE,
    Keyword::AND,
    Keyword::OR,
    Keyword::XOR,
    Keyword::NOT,
    Keyword::BY,
    Keyword::ON,
    Keyword::HAVING,
    Keyword::QUALIFY,
    Keyword::CASE,
    Keyword::WHEN,
    Keyword::THEN,
    Keyword::ELSE,
    Keyword::BETWEEN,
    Keyword::LIKE,
    Keyword::ILIKE,
    Keyword::RLIKE,
    Keyword::REGEXP,
    Keyword::ESCAPE,
    Keyword::IN,
    Keyword::DIV,
    Keyword::SET,
    Keyword::ALL,
    Keyword::RETURNING,
    Keyword::USING,
    Keyword::PLACING,
    Keyword::FOR,
];

/// Keywords after which a name comes, whatever it looks like.
const BEFORE_A_NAME: &[Keyword] = &[Keyword::AS, Keyword::COLLATE, Keyword::OVER, Keyword::WINDOW];

/// The state of reading the tokens: whether an operand is due, and what that depends on.
#[derive(Debug)]
pub(super) struct Position {
    /// An operand is due: a `FROM` here is the column. Not so where a statement starts.
    operand_due: bool,
    /// The last two tokens as keywords, the very last first.
    last: [Keyword; 2],
    /// The last token was a period, `AS` or the like: what follows is a name, whatever it looks like.
    name_due: bool,
    /// The last token was a `*` that stands for all columns.
    wildcard: bool,
    /// For each open parenthesis whether an operand is due once it is closed: after `DISTINCT ON (…)`.
    open: Vec<bool>,
}

impl Default for Position {
    fn default() -> Self {
        let last = [Keyword::NoKeyword; 2];
        Self { operand_due: false, last, name_due: false, wildcard: false, open: Vec::new() }
    }
}

impl Position {
    /// Whether a `FROM` here, between the tokens `before` and `next`, is the column.
    pub(super) fn is_from_column(&self, before: &[TokenWithSpan], next: &[TokenWithSpan]) -> bool {
        let keyword = before.len() >= 2 && begins_trim(&before[before.len() - 2..]) && is_operand(next);
        (self.name_due || self.operand_due || self.is_trimmed(next)) && !keyword
    }

    /// `TRIM(BOTH from FROM x)`, but not `TRIM(BOTH FROM from)`.
    fn is_trimmed(&self, next: &[TokenWithSpan]) -> bool {
        matches!(self.last[0], Keyword::BOTH | Keyword::LEADING | Keyword::TRAILING)
            && matches!(next, [from, after, ..] if keyword(&from.token) == Keyword::FROM && after.token != Token::RParen)
    }

    /// Whether the next word is a name or an operand, though it may look like the start of a clause: `a + then`.
    pub(super) fn is_name(&self) -> bool {
        self.name_due || self.operand_due
    }

    /// Takes the next token in.
    pub(super) fn pass(&mut self, token: &Token) {
        // A name is an operand that has ended, also where it looks like a keyword: `m.set`, `AS all`. Only a SELECT
        // after AS is more likely what a view would be made of.
        let keyword = match keyword(token) {
            Keyword::SELECT if self.last[0] == Keyword::AS => Keyword::SELECT,
            _ if self.name_due => Keyword::NoKeyword,
            keyword => keyword,
        };
        let wildcard = *token == Token::Mul && (self.operand_due || self.name_due);
        self.operand_due = match token {
            Token::Word(_) => self.is_due_after(keyword),
            Token::LParen => {
                self.open.push(self.last == [Keyword::ON, Keyword::DISTINCT]);
                true
            }
            Token::RParen => self.open.pop().unwrap_or_default(),
            Token::Mul => !wildcard,
            Token::RBracket | Token::RBrace | Token::SemiColon => false,
            operand if is_literal(operand) => false,
            _operator => true,
        };
        self.name_due = *token == Token::Period || BEFORE_A_NAME.contains(&keyword);
        self.wildcard = wildcard;
        self.last = [keyword, self.last[0]];
    }

    /// Whether an operand is due after the word `keyword`.
    fn is_due_after(&self, keyword: Keyword) -> bool {
        match keyword {
            // `IS [NOT] DISTINCT FROM` goes on with its own FROM.
            Keyword::DISTINCT => !matches!(self.last, [Keyword::IS, _] | [Keyword::NOT, Keyword::IS]),
            // `EXTRACT(HOUR FROM from)`; the name of a table, after the clause, is none of ours.
            Keyword::FROM => true,
            Keyword::TO => self.last[0] == Keyword::SIMILAR,
            Keyword::ZONE => self.last[0] == Keyword::TIME,
            Keyword::EXCLUDE | Keyword::RENAME => self.wildcard,
            keyword => BEFORE_AN_OPERAND.contains(&keyword),
        }
    }
}

/// Whether a token is a value all by itself.
pub(super) fn is_literal(token: &Token) -> bool {
    matches!(
        token,
        Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
            | Token::TripleSingleQuotedByteStringLiteral(_)
            | Token::TripleDoubleQuotedByteStringLiteral(_)
            | Token::SingleQuotedRawStringLiteral(_)
            | Token::DoubleQuotedRawStringLiteral(_)
            | Token::TripleSingleQuotedRawStringLiteral(_)
            | Token::TripleDoubleQuotedRawStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::QuoteDelimitedStringLiteral(_)
            | Token::NationalQuoteDelimitedStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Placeholder(_)
    )
}
