//! The SQL that is understood: what DataFusion can run, and as much more as is needed to say clearly what is not
//! offered.
//!
//! Invariant: parsing takes time in proportion to the statement. The parser tries one reading after another, and
//! nested `CAST(`, `NOT (` or `POSITION(` that do not close double its work with each level (fifteen levels took a
//! minute); so every attempt is counted here and a statement has a fixed number of them.

use std::{any::TypeId, cell::Cell};

use datafusion::sql::sqlparser::{
    ast::{Expr, Statement},
    dialect::{Dialect, GenericDialect, Precedence},
    parser::{Parser, ParserError},
};

/// Attempts at an expression for each token; an ordinary statement needs fewer than two.
const ATTEMPTS_PER_TOKEN: usize = 8;
/// The attempts that every statement has, so that a short one may be as intricate as it likes.
const ATTEMPTS_AT_LEAST: usize = 5_000;

/// Statements within statements: an EXPLAIN has one. The parser has no net for more (`EXPLAIN EXPLAIN …`).
const MAX_STATEMENTS: usize = 8;

/// The dialect of one statement.
#[derive(Debug)]
pub(super) struct KalamDialect {
    attempts_left: Cell<usize>,
    statements_left: Cell<usize>,
}

impl KalamDialect {
    /// The dialect for a statement of `tokens` tokens.
    pub(super) fn new(tokens: usize) -> Self {
        Self {
            attempts_left: Cell::new(ATTEMPTS_AT_LEAST + tokens.saturating_mul(ATTEMPTS_PER_TOKEN)),
            statements_left: Cell::new(MAX_STATEMENTS),
        }
    }
}

/// Takes one from what is left. Once nothing is, every further attempt fails at once, so that the parser unwinds in
/// a moment.
fn spend<T>(left: &Cell<usize>) -> Option<Result<T, ParserError>> {
    match left.get().checked_sub(1) {
        Some(fewer) => {
            left.set(fewer);
            None
        }
        None => Some(Err(ParserError::RecursionLimitExceeded)),
    }
}

macro_rules! offered {
    ($($feature:ident)+) => { $(fn $feature(&self) -> bool { true })+ };
}

impl Dialect for KalamDialect {
    /// The parser has readings of its own for the generic dialect, which DataFusion expects.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_delimited_identifier_start(ch)
    }

    /// Without `@` and `#`: neither variables nor temporary tables are offered, and `@name` is then read as a
    /// placeholder, for which there is a good answer.
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        GenericDialect.is_identifier_part(ch)
    }

    fn parse_prefix(&self, _parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        spend(&self.attempts_left)
    }

    fn parse_statement(&self, _parser: &mut Parser) -> Option<Result<Statement, ParserError>> {
        spend(&self.statements_left)
    }

    /// `metadata->>'role' = 'user'` compares what `->>` reads, and `content || metadata->>'role'` appends it.
    fn prec_value(&self, precedence: Precedence) -> u8 {
        match precedence {
            Precedence::PgOther => GenericDialect.prec_value(Precedence::AtTz) + 1,
            other => GenericDialect.prec_value(other),
        }
    }

    offered! {
        supports_dollar_placeholder
        supports_unicode_string_literal
        supports_string_escape_constant
        supports_nested_comments
        supports_group_by_expr
        supports_left_associative_joins_without_parens
        supports_parens_around_table_factor
        supports_values_as_table_factor
        supports_filter_during_aggregation
        supports_window_function_null_treatment_arg
        supports_window_clause_named_window_reference
        supports_select_wildcard_except
        supports_select_wildcard_exclude
        supports_select_wildcard_ilike
        supports_select_wildcard_rename
        supports_select_wildcard_replace
        supports_pipe_operator
        supports_limit_comma
        supports_bitwise_shift_operators
        supports_interval_options
        supports_comma_separated_trim
        supports_array_typedef_with_brackets
        supports_dictionary_syntax
        support_map_literal_syntax
        supports_struct_literal
        supports_named_fn_args_with_assignment_operator
        allow_extract_custom
        allow_extract_single_quotes
        supports_update_order_by
        supports_start_transaction_modifier
        supports_comment_on
        supports_install
        supports_detach
        supports_load_extension
        supports_optimize_table
    }
}
