//! The length, depth and width that a statement may have, counted on its tokens before anything is parsed.
//!
//! Invariant: whatever gets past here fits the stacks of the parser and the planner. Everything in between recurses
//! on the depth of an expression, and a left-deep `1+1+…` is as deep as it is long, so chains count as depth; lists
//! (rows of VALUES, items of IN) do not.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{Expr, Statement, Value, ValueWithSpan, visit_expressions},
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};
use kalamdb_protocol::ErrorCode;

use super::position::{Position, is_literal, keyword};
use crate::{Error, Result};

/// Tokens of a statement: twice what an INSERT of 5,000 messages with every column takes.
const MAX_TOKENS: usize = 200_000;
/// Levels of one expression: nesting and operators in a row together.
const MAX_EXPRESSION_DEPTH: usize = 500;
/// Operators in a row with the clauses between them counted in: a net for words that look like the start of a clause
/// and are none.
const MAX_CHAIN: usize = 4_000;
/// Queries within queries; each level costs the planner far more stack than an expression's does.
const MAX_QUERY_DEPTH: usize = 24;
/// UNION, INTERSECT, EXCEPT and |> in a statement: a tree as deep as they are many.
const MAX_SET_OPERATIONS: usize = 200;
/// INSERTs in a statement: the parser takes one as the source of another, without end.
const MAX_INSERTS: usize = 8;
/// Operators and calls in a statement: the optimizer looks at each some hundred times, and nothing stops it within one of
/// its steps. Rows of values are none.
const MAX_OPERATIONS: usize = 10_000;
/// Windows in a statement: the planner compares each with each.
const MAX_WINDOWS: usize = 250;
/// Expressions that a SELECT computes, or that a GROUP BY or ORDER BY has: what is planned is compared with each of them.
const MAX_LIST: usize = 1_000;
/// `*` in a SELECT: each is all columns of all its tables.
const MAX_WILDCARDS: usize = 16;
/// Periods in a row: `catalog.schema.table.column`; more are fields within fields.
const MAX_PERIODS: usize = 3;
/// `FROM ((` around a query: the parser reads what is inside twice for each of them.
const MAX_DOUBLE_PARENTHESES: usize = 4;
/// Bytes of values in a statement that is explained step by step, and something for each expression: there are some
/// sixty steps, and each is written down with all of it.
const MAX_EXPLAINED_BYTES: usize = 64 << 10;
const EXPLAINED_EXPRESSION_BYTES: usize = 16;
/// The parser's own count, which goes up by a few for each level; only a net under the counts above.
pub(super) const MAX_PARSER_RECURSION: usize = 8 * MAX_EXPRESSION_DEPTH;

/// Refuses a statement that is too long to be looked at.
pub(super) fn check_bytes(sql: &str, max_statement_bytes: usize) -> Result<()> {
    if sql.len() <= max_statement_bytes {
        return Ok(());
    }
    let message = format!(
        "The statement is {} bytes long, and {max_statement_bytes} are allowed; send long values as params, or several \
         statements.",
        sql.len()
    );
    Err(Error::new(ErrorCode::PayloadTooLarge, message))
}

/// Refuses a statement that is too deep or too wide.
pub(super) fn check_shape(tokens: &[TokenWithSpan]) -> Result<()> {
    if tokens.len() > MAX_TOKENS {
        return Err(too_large("has too many parts; split it into several statements"));
    }
    let mut open = OpenFrames {
        frames: vec![Frame::default()],
        position: Position::default(),
        depth: 0,
        links: 0,
        queries: 0,
        doubled: 0,
        set_operations: 0,
        inserts: 0,
        operations: 0,
        windows: 0,
        periods: 0,
        last: Keyword::NoKeyword,
        after_name: false,
    };
    tokens.iter().try_for_each(|token| open.pass(&token.token))
}

/// Refuses a SELECT, GROUP BY or ORDER BY of too many expressions.
pub(super) fn check_list(expressions: usize) -> Result<()> {
    if expressions <= MAX_LIST {
        return Ok(());
    }
    Err(too_large(&format!(
        "has a SELECT, GROUP BY or ORDER BY of {expressions} expressions, and {MAX_LIST} are allowed; split it"
    )))
}

/// Refuses a SELECT of too many `*`.
pub(super) fn check_wildcards(wildcards: usize) -> Result<()> {
    if wildcards <= MAX_WILDCARDS { Ok(()) } else { Err(too_large("has too many * in one SELECT; name the columns")) }
}

/// Refuses an EXPLAIN VERBOSE whose answer would be many times as large as what may be sent.
pub(super) fn check_explained(statement: &Statement) -> Result<()> {
    let Statement::Explain { verbose: true, statement, .. } = statement else { return Ok(()) };
    let mut bytes = 0;
    let counted = visit_expressions(statement, |expr| {
        let text = match expr {
            Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => text.len(),
            _ => 0,
        };
        bytes += text + EXPLAINED_EXPRESSION_BYTES;
        if bytes > MAX_EXPLAINED_BYTES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if counted.is_break() {
        Err(too_large("is too long to be explained step by step; leave VERBOSE out"))
    } else {
        Ok(())
    }
}

/// The refusal of an expression that is too deep.
pub(super) fn too_deep() -> Error {
    too_large("is nested too deeply; use fewer levels and operators in a row, or a list (IN, VALUES)")
}

/// A `query_too_large`; `why` goes on after "This statement".
pub(super) fn too_large(why: &str) -> Error {
    Error::new(ErrorCode::QueryTooLarge, format!("This statement {why}."))
}

/// The tokens between two parentheses, brackets or CASE and END.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools)] // Marks that come and go independently of each other.
struct Frame {
    /// Operators since the last comma or clause.
    chain: usize,
    /// Operators since the last comma.
    long_chain: usize,
    /// CASE … END, which a parenthesis does not close.
    is_case: bool,
    /// Has a query of its own.
    is_query: bool,
    /// Stands where a table may stand.
    is_table: bool,
    /// Stands where a table may stand, and its first token is a parenthesis.
    is_doubled: bool,
    /// A table may come next.
    table_due: bool,
    /// Inside a FROM clause, where a comma brings another table.
    in_from: bool,
    /// Nothing has been in it yet.
    is_fresh: bool,
}

/// The sums over all open frames, kept as they change so that the count takes one pass.
struct OpenFrames {
    frames: Vec<Frame>,
    position: Position,
    /// Frames and their chains.
    depth: usize,
    /// Operators of the long chains in them.
    links: usize,
    queries: usize,
    doubled: usize,
    set_operations: usize,
    inserts: usize,
    operations: usize,
    windows: usize,
    /// Periods since the last token that is neither one nor a name.
    periods: usize,
    last: Keyword,
    after_name: bool,
}

impl OpenFrames {
    fn pass(&mut self, token: &Token) -> Result<()> {
        let keyword = keyword(token);
        if !matches!(token, Token::Period | Token::Word(_)) {
            self.periods = 0;
        }
        match token {
            Token::LBracket if !self.position.is_name() => {
                // An element of what came before, or an array of it.
                self.link();
                self.open(false);
            }
            Token::LParen | Token::LBracket | Token::LBrace => {
                // A call, if a name was before it.
                self.operations += usize::from(self.after_name);
                self.open(false);
            }
            Token::RParen | Token::RBracket | Token::RBrace => self.close(),
            Token::Comma | Token::SemiColon => self.comma(),
            Token::Word(_) => self.word(keyword),
            Token::Period => self.period(),
            Token::VerticalBarRightAngleBracket => self.set_operations += 1,
            literal if is_literal(literal) => {}
            _operator => self.link(),
        }
        self.last = keyword;
        self.after_name = matches!(token, Token::Word(_)) && !matches!(keyword, Keyword::VALUES | Keyword::IN);
        self.position.pass(token);
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.depth > MAX_EXPRESSION_DEPTH || self.links > MAX_CHAIN {
            Err(too_deep())
        } else if self.queries > MAX_QUERY_DEPTH
            || (self.last == Keyword::SELECT && self.doubled > MAX_DOUBLE_PARENTHESES)
        {
            Err(too_large("has too many queries within queries; name the inner ones in a WITH"))
        } else if self.set_operations > MAX_SET_OPERATIONS {
            Err(too_large("has too many UNION, INTERSECT, EXCEPT or |>; use VALUES for rows"))
        } else if self.operations > MAX_OPERATIONS {
            Err(too_large("has too many operators and functions; split it, or use a list (IN, VALUES) or a join"))
        } else if self.windows > MAX_WINDOWS {
            Err(too_large("has too many windows (OVER); split it into several statements"))
        } else if self.inserts > MAX_INSERTS {
            Err(too_large("has an INSERT within an INSERT; send one after the other"))
        } else {
            Ok(())
        }
    }

    /// The innermost frame; there is always one, because the last is never closed.
    fn frame(&mut self) -> &mut Frame {
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let innermost = self.frames.len() - 1;
        &mut self.frames[innermost]
    }

    fn open(&mut self, is_case: bool) {
        let frame = self.frame();
        let is_table = !is_case && (frame.table_due || (frame.is_table && frame.is_fresh));
        let doubles = is_table && frame.is_fresh && frame.is_table;
        frame.is_doubled |= doubles;
        (frame.is_fresh, frame.table_due) = (false, false);
        self.doubled += usize::from(doubles);
        self.frames.push(Frame { is_case, is_table, is_fresh: true, ..Frame::default() });
        self.depth += 1;
    }

    fn close(&mut self) {
        // A CASE without END ends with what it stands in; the parser will complain.
        while self.frames.len() > 1 {
            if !self.pop().is_case {
                break;
            }
        }
        self.frame().table_due = false;
    }

    fn pop(&mut self) -> Frame {
        let frame = self.frames.pop().unwrap_or_default();
        self.depth -= frame.chain + 1;
        self.links -= frame.long_chain;
        self.queries -= usize::from(frame.is_query);
        self.doubled -= usize::from(frame.is_doubled);
        frame
    }

    fn comma(&mut self) {
        self.reset_chain();
        self.links -= std::mem::take(&mut self.frame().long_chain);
        let frame = self.frame();
        (frame.is_fresh, frame.table_due) = (false, frame.in_from);
    }

    /// Counts one more operator in a row.
    fn link(&mut self) {
        let frame = self.frame();
        frame.chain += 1;
        frame.long_chain += 1;
        (frame.is_fresh, frame.table_due) = (false, false);
        self.depth += 1;
        self.links += 1;
        self.operations += 1;
    }

    fn period(&mut self) {
        self.periods += 1;
        if self.periods > MAX_PERIODS {
            self.link();
        }
    }

    /// A list goes on or a clause starts: what follows is not below what came before.
    fn reset_chain(&mut self) {
        self.depth -= std::mem::take(&mut self.frame().chain);
    }

    fn word(&mut self, keyword: Keyword) {
        // Keywords are names where an operand is due, and start no clause.
        let starts_clause = !self.position.is_name();
        match keyword {
            Keyword::CASE => self.open(true),
            Keyword::INSERT => self.inserts += 1,
            Keyword::OVER => self.windows += 1,
            Keyword::END if starts_clause && self.frame().is_case => {
                self.pop();
            }
            // `a IS DISTINCT FROM b` is an operator, not a clause.
            Keyword::FROM if self.last == Keyword::DISTINCT => self.link(),
            Keyword::SELECT | Keyword::VALUES => {
                if starts_clause {
                    self.clause(false);
                }
                let frame = self.frame();
                (frame.is_fresh, frame.table_due) = (false, false);
                let was_query = std::mem::replace(&mut self.frame().is_query, true);
                self.queries += usize::from(!was_query);
            }
            Keyword::FROM | Keyword::JOIN if starts_clause => self.clause(true),
            Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::MINUS => {
                self.set_operations += 1;
                if starts_clause {
                    self.clause(false);
                }
            }
            Keyword::WHERE
            | Keyword::HAVING
            | Keyword::ON
            | Keyword::SET
            | Keyword::WHEN
            | Keyword::THEN
            | Keyword::ELSE
            | Keyword::BY
                if starts_clause =>
            {
                self.clause(false);
            }
            Keyword::AND
            | Keyword::OR
            | Keyword::XOR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::SIMILAR
            | Keyword::BETWEEN
            | Keyword::DIV
            | Keyword::AT
            | Keyword::COLLATE
            | Keyword::INTERVAL
            | Keyword::PRIOR
            | Keyword::MEMBER
            | Keyword::MATCH
            | Keyword::OVERLAPS
            | Keyword::PIVOT
            | Keyword::UNPIVOT
            | Keyword::OPERATOR => self.link(),
            Keyword::LATERAL => {}
            _name => {
                let frame = self.frame();
                (frame.is_fresh, frame.table_due) = (false, false);
            }
        }
    }

    fn clause(&mut self, brings_table: bool) {
        self.reset_chain();
        let frame = self.frame();
        (frame.is_fresh, frame.table_due, frame.in_from) = (false, brings_table, brings_table);
    }
}

#[cfg(test)]
mod tests;
