//! The parser: from tokens to one statement.
//!
//! Invariant: where a statement does not parse is said by position, taken from the tokenizer or the parser's own
//! tokens; a literal of the client's is never repeated in an error.

use datafusion::sql::sqlparser::{
    ast::Statement,
    keywords::Keyword,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, TokenWithSpan},
};
use kalamdb_protocol::ErrorCode;

use super::{dialect::KalamDialect, forms, limits, position::is_literal};
use crate::{Error, Result};

/// The one statement that `tokens` are.
pub(super) fn parse(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let start = Location::new(1, 1);
    let end = tokens.last().map_or(start, |token| token.span.end);
    let dialect = KalamDialect::new(tokens.len());
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(limits::MAX_PARSER_RECURSION).with_tokens_with_locations(tokens);
    while parser.consume_token(&Token::SemiColon) {}
    if parser.peek_token_ref().token == Token::EOF {
        return Err(syntax_error(start, "the statement is empty"));
    }
    let foreign = is_foreign(parser.peek_token_ref());
    let parsed = parser.parse_statement();
    let statement = parsed.map_err(|error| match error {
        ParserError::ParserError(_) if foreign => forms::only_these(),
        error => explain(&error, &parser, end),
    })?;
    let ended = parser.consume_token(&Token::SemiColon);
    while parser.consume_token(&Token::SemiColon) {}
    match parser.peek_token_ref() {
        token if token.token == Token::EOF => Ok(statement),
        _ if ended => Err(Error::new(ErrorCode::Unsupported, "Send one statement at a time.")),
        token => Err(unexpected(token, end, None)),
    }
}

/// Whether a statement that begins so is none of ours however it goes on, in whatever dialect it is written.
fn is_foreign(first: &TokenWithSpan) -> bool {
    use Keyword::{
        ALTER, ATTACH, BEGIN, CALL, COMMIT, COPY, CREATE, DEALLOCATE, DETACH, DROP, EXECUTE, GRANT, INSTALL, LOAD,
        MERGE, PRAGMA, PREPARE, REVOKE, ROLLBACK, SAVEPOINT, SET, SHOW, START, TRUNCATE, USE, VACUUM,
    };
    matches!(
        &first.token,
        Token::Word(word) if matches!(
            word.keyword,
            ALTER | ATTACH | BEGIN | CALL | COMMIT | COPY | CREATE | DEALLOCATE | DETACH | DROP | EXECUTE | GRANT
                | INSTALL | LOAD | MERGE | PRAGMA | PREPARE | REVOKE | ROLLBACK | SAVEPOINT | SET | SHOW | START
                | TRUNCATE | USE | VACUUM
        )
    )
}

/// A `syntax_error` at `location`.
pub(super) fn syntax_error(location: Location, what: &str) -> Error {
    let Location { line, column } = location;
    Error::new(ErrorCode::SyntaxError, format!("The statement does not parse at line {line}, column {column}: {what}."))
        .with("line", line)
        .with("column", column)
}

fn explain(error: &ParserError, parser: &Parser, end: Location) -> Error {
    match error {
        ParserError::RecursionLimitExceeded => limits::too_deep(),
        ParserError::TokenizerError(message) => syntax_error(culprit(message, parser).span.start, message),
        ParserError::ParserError(message) => unexpected(culprit(message, parser), end, Some(message)),
    }
}

/// The token that the parser stumbled over: the one it had taken, or the one it looked at next. The parser adds the
/// place to its message, so that a comparison tells which of the two; when it does not, the one it had taken is as
/// good.
fn culprit<'a>(message: &str, parser: &'a Parser) -> &'a TokenWithSpan {
    let (taken, next) = (parser.get_current_token(), parser.peek_token_ref());
    let is_named = |token: &TokenWithSpan| {
        let place = token.span.start.to_string();
        if place.is_empty() { message.ends_with("found: EOF") } else { message.ends_with(&place) }
    };
    if !is_named(taken) && is_named(next) { next } else { taken }
}

/// A `syntax_error` at `token`, with what was expected there when the parser says so.
fn unexpected(token: &TokenWithSpan, end: Location, message: Option<&str>) -> Error {
    let expected = message
        .and_then(|message| message.strip_prefix("Expected: "))
        .and_then(|rest| rest.split_once(", found"))
        .map_or(String::new(), |(expected, _)| format!(", where {expected} is expected"));
    match &token.token {
        Token::EOF => syntax_error(end, &format!("it ends too soon{expected}")),
        literal if is_literal(literal) => syntax_error(token.span.start, &format!("a value stands there{expected}")),
        other => syntax_error(token.span.start, &format!("{other} stands there{expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::tokens;

    fn failure(sql: &str) -> Error {
        tokens::read(sql).and_then(parse).unwrap_err()
    }

    #[test]
    fn what_is_not_offered_in_any_dialect_is_no_syntax_error() {
        for sql in ["CREATE EXTERNAL TABLE x STORED AS CSV LOCATION 'x.csv'", "COPY that", "DROP it"] {
            assert_eq!(failure(sql).code, ErrorCode::Unsupported, "{sql}");
        }
        assert_eq!(failure("SELEC 1").code, ErrorCode::SyntaxError);
    }

    #[track_caller]
    fn place(sql: &str) -> (u64, u64) {
        let error = failure(sql);
        assert_eq!(error.code, ErrorCode::SyntaxError, "{sql}: {error}");
        (error.details["line"].as_u64().unwrap(), error.details["column"].as_u64().unwrap())
    }

    #[test]
    fn a_syntax_error_points_at_what_the_client_wrote() {
        assert_eq!(place("SELEC * FROM messages"), (1, 1));
        assert_eq!(place("SELECT * FROM messages WHERE )"), (1, 30));
        assert_eq!(place("SELECT *\n  FROM messages\n  WHERE (a = 1 b"), (3, 16));
        assert_eq!(place("SELECT * FROM messages WHERE"), (1, 29));
        assert_eq!(place("SELECT 'abc"), (1, 8));
        assert_eq!(place("SELECT 1 2 3"), (1, 10));
        assert_eq!(place(""), (1, 1));
        assert_eq!(place("  -- nothing\n ; ;"), (1, 1));
    }

    #[test]
    fn a_literal_is_never_repeated() {
        let error = failure("SELECT * FROM messages WHERE (content 'my secret')");
        assert!(!error.message.contains("secret"), "{error}");
    }

    #[test]
    fn one_statement_at_a_time() {
        assert!(tokens::read("/* a */ ; SELECT 1; -- b\n ;").and_then(parse).is_ok());
        assert_eq!(failure("SELECT 1; SELECT 2").code, ErrorCode::Unsupported);
        assert_eq!(failure("SELECT 1; DROP TABLE x").code, ErrorCode::Unsupported);
    }

    #[test]
    fn what_the_parser_would_try_for_ever_is_refused_at_once() {
        for (open, close) in [
            ("CAST(", " AS INT)"),
            ("NOT (", ")"),
            ("POSITION(", ")"),
            ("SUBSTRING(", ")"),
            ("ARRAY[", "]"),
            ("1 IN (VALUES(", "))"),
            ("OVERLAY(", ")"),
            ("CEIL(", ")"),
        ] {
            let sql = format!("SELECT {}1 1{}", open.repeat(60), close.repeat(60));
            assert!(matches!(failure(&sql).code, ErrorCode::QueryTooLarge | ErrorCode::SyntaxError), "{open}");
        }
    }
}
