//! DataFusion's errors as the client sees them.
//!
//! Invariant: told apart by their type, not by their text (one kind has none of its own). What DataFusion says is shown only where no row can be in
//! it: while a statement is planned, or when it reads no table. Once rows are read, and for errors of storage and of
//! ours always, there is a sentence for the kind; the log gets the kind only.

use std::error::Error as StdError;

use datafusion::{
    arrow::error::ArrowError,
    common::{Column, SchemaError},
    error::DataFusionError,
};
use kalamdb_protocol::ErrorCode;

use super::memory::Refused;
use crate::{Error, functions::TooLarge, sql::suggestions};

/// The sentence for a row's value that its function or operator does not take. Their own sentence may hold the value.
const NOT_COMPUTED: &str = "The statement cannot be computed for one of its rows: a function or operator does not take \
                            the value that is there, or a subquery has several rows where one value is needed.";
/// The sentence for a row's value that is not of the type asked for.
const NOT_CAST: &str = "A value of one of the rows cannot be read as the type that it is cast to or compared with; \
                        TRY_CAST gives NULL for such values.";
const OVERFLOW: &str = "A number of the statement overflows: it grows beyond what its type can hold; CAST to DOUBLE or \
                        DECIMAL(38,0) before computing, or choose fewer rows.";

/// The beginning of what DataFusion says of a plan of its own making that does not hold together; the plan follows.
const BROKEN_PLAN: &str = "Plan: [";

/// The longest sentence taken over from DataFusion, in characters: some list a whole signature.
const MAX_SENTENCE_CHARS: usize = 400;

/// The client's error for a failure while rows were read. `refused` is the last refusal of the statement's memory.
pub(crate) fn client_error(error: &DataFusionError, refused: Option<Refused>) -> Error {
    classified(error, refused, false)
}

/// The client's error for a failure before any row was read.
pub(super) fn rowless_error(error: &DataFusionError, refused: Option<Refused>) -> Error {
    classified(error, refused, true)
}

/// `shows` says whether the text may be shown.
fn classified(error: &DataFusionError, refused: Option<Refused>, shows: bool) -> Error {
    // Ours travel inside of theirs, as they are.
    if let Some(ours) = inside::<Error>(error) {
        return ours.clone();
    }
    if let Some(too_large) = TooLarge::of(error) {
        return Error::new(ErrorCode::QueryTooLarge, too_large.to_string());
    }
    if inside::<regex::Error>(error).is_some() {
        return invalid(
            "A pattern here is no regular expression, or too large a one; look for an open bracket or a \
                        high repetition in it.",
        );
    }
    match root(error) {
        DataFusionError::SchemaError(error, _) => schema_error(error),
        DataFusionError::ResourcesExhausted(_) => out_of_memory(refused),
        DataFusionError::NotImplemented(text) => Error::new(ErrorCode::Unsupported, sentence(text)),
        DataFusionError::Plan(text) if text.starts_with(BROKEN_PLAN) => internal("plan"),
        DataFusionError::Plan(text) | DataFusionError::Configuration(text) => {
            Error::new(ErrorCode::InvalidValue, sentence(text))
        }
        DataFusionError::Execution(text) if shows => invalid(sentence(text)),
        DataFusionError::Execution(_) => invalid(NOT_COMPUTED),
        DataFusionError::SQL(error, _) => Error::new(ErrorCode::SyntaxError, sentence(&error.to_string())),
        DataFusionError::ArrowError(error, _) => value_error(error, shows),
        DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => storage(),
        DataFusionError::External(_) => internal("external"),
        DataFusionError::ExecutionJoin(_) => internal("join"),
        _ => internal("internal"),
    }
}

/// An error of that type anywhere in the chain.
fn inside<T: StdError + 'static>(error: &DataFusionError) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The innermost of DataFusion's errors, through wrappers that only say where it happened.
fn root(error: &DataFusionError) -> &DataFusionError {
    match error.find_root() {
        DataFusionError::Collection(errors) => errors.first().map_or(error, root),
        found => found,
    }
}

fn out_of_memory(refused: Option<Refused>) -> Error {
    match refused {
        Some(Refused::Total) => Error::new(
            ErrorCode::ResourceExhausted,
            "The statements that run now use all of the server's memory for queries; try again in a moment.",
        ),
        Some(Refused::User) => Error::new(
            ErrorCode::RateLimited,
            "Your statements that run now use all of the memory that one user may have; wait until one has ended.",
        ),
        // Spilling to disk is off, so an operator that wants it has no memory left either.
        Some(Refused::Share) | None => Error::new(
            ErrorCode::QueryTooLarge,
            "The statement needs more memory than one may have; narrow it with WHERE or LIMIT, or read fewer columns.",
        ),
    }
}

fn schema_error(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => unknown_column(field, valid_fields),
        SchemaError::AmbiguousReference { field } => Error::new(
            ErrorCode::InvalidValue,
            format!("More than one table here has a column `{}`; write the table's name before it.", field.name),
        ),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(
                ErrorCode::InvalidValue,
                format!("Two columns here are called `{name}`; give one of them another name with AS."),
            )
        }
    }
}

fn unknown_column(field: &Column, valid_fields: &[Column]) -> Error {
    let names = valid_fields.iter().map(|valid| valid.name.as_str()).filter(|name| !name.starts_with('_'));
    let mut suggestions = suggestions(&field.name, names);
    // A column of that name is there, and not the one that is meant.
    suggestions.retain(|name| *name != field.name);
    let message = match suggestions.first() {
        None if field.relation.is_some() && valid_fields.iter().any(|valid| valid.name == field.name) => format!(
            "The column `{0}` of `{1}` cannot be used here; after GROUP BY only what it groups by can: name that in a \
             subquery first, SELECT … FROM (SELECT upper({0}) AS k FROM …) GROUP BY k.",
            field.name,
            field.relation.as_ref().map_or("", |relation| relation.table())
        ),
        Some(likely) => format!("There is no column `{}` here; did you mean `{likely}`?", field.name),
        None => format!("There is no column `{}` here.", field.name),
    };
    Error::new(ErrorCode::UnknownColumn, message).with("suggestions", suggestions)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidValue, message)
}

/// The client's error for a value that an operator could not take.
fn value_error(error: &ArrowError, shows: bool) -> Error {
    match error {
        ArrowError::DivideByZero => invalid("The statement divides by zero."),
        ArrowError::ArithmeticOverflow(_) => invalid(OVERFLOW),
        ArrowError::NotYetImplemented(text) => Error::new(ErrorCode::Unsupported, sentence(text)),
        ArrowError::MemoryError(_) | ArrowError::OffsetOverflowError(_) => {
            Error::new(ErrorCode::QueryTooLarge, "A value of the statement grows larger than a column can hold.")
        }
        ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::SchemaError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text)
            if shows =>
        {
            invalid(sentence(text))
        }
        ArrowError::CastError(_) | ArrowError::ParseError(_) => invalid(NOT_CAST),
        ArrowError::SchemaError(_) | ArrowError::ComputeError(_) | ArrowError::InvalidArgumentError(_) => {
            invalid(NOT_COMPUTED)
        }
        ArrowError::IoError(..) | ArrowError::ParquetError(_) => storage(),
        _ => internal("arrow"),
    }
}

fn storage() -> Error {
    tracing::error!("a segment could not be read");
    Error::new(ErrorCode::StorageUnavailable, "The message files cannot be read at the moment; try again later.")
}

fn internal(kind: &'static str) -> Error {
    tracing::error!(kind, "a statement failed inside");
    Error::new(ErrorCode::Internal, "The server made a mistake with this statement; its log says more.")
}

/// The first line of a text, as a sentence that a person can act on.
fn sentence(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("The statement cannot be run");
    if let Some(known) = known_sentence(line) {
        return known;
    }
    // `… is not valid Substring { expr: …`: what follows is the program's, and not the client's.
    let line = line.split_once(" { ").map_or(line, |(before, _)| before.rsplit_once(' ').map_or(before, |(of, _)| of));
    let mut sentence: String = line.chars().take(MAX_SENTENCE_CHARS).collect();
    if let Some(first) = sentence.chars().next().filter(char::is_ascii_lowercase) {
        sentence.replace_range(..1, &first.to_ascii_uppercase().to_string());
    }
    if !sentence.ends_with(['.', '?', '!']) {
        sentence.push('.');
    }
    sentence
}

/// A sentence in the place of one of DataFusion's that tells of its own parts.
fn known_sentence(line: &str) -> Option<String> {
    let quoted = || line.split('\'').nth(1);
    if line.contains("failed to match any signature") || line.contains("user-defined coercion failed") {
        return Some(format!(
            "The function `{}` does not take arguments of this number or these types; CAST them to what it takes, for \
             instance CAST(x AS BIGINT).",
            quoted()?
        ));
    }
    if line.starts_with("Physical plan does not support logical expression OuterReferenceColumn") {
        return Some(
            "A subquery here depends on the row around it in a way that cannot be computed; write it as a join."
                .to_owned(),
        );
    }
    if line.starts_with("Physical plan does not support logical expression") {
        return Some(
            "An expression stands where it cannot be computed; compute it in a subquery, as in SELECT … FROM (SELECT …, \
             row_number() OVER () AS n FROM messages) WHERE n = 1."
                .to_owned(),
        );
    }
    let unknown = line.strip_prefix("Unsupported ast node in sqltorel: ")?;
    let name: String = unknown.chars().take_while(char::is_ascii_alphanumeric).collect();
    Some(format!("This is not offered in a statement: {}.", name.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::error::DataFusionError as E;

    use super::*;

    fn code(error: &E) -> ErrorCode {
        client_error(error, None).code
    }

    #[test]
    fn ours_come_back_as_they_were_however_deep() {
        let ours = Error::new(ErrorCode::ScopeViolation, "no").with("a", 1);
        let wrapped = E::Shared(Arc::new(
            E::ArrowError(Box::new(ArrowError::ExternalError(Box::new(E::External(Box::new(ours))))), None)
                .context("while reading"),
        ));
        let back = client_error(&wrapped, None);
        assert_eq!((back.code, back.message.as_str()), (ErrorCode::ScopeViolation, "no"));
        assert_eq!(back.details["a"], 1);
    }

    #[test]
    fn each_kind_has_its_code() {
        assert_eq!(code(&E::Plan("x".into()).context("y")), ErrorCode::InvalidValue);
        assert_eq!(code(&E::Collection(vec![E::NotImplemented("x".into())])), ErrorCode::Unsupported);
        assert_eq!(code(&E::ArrowError(Box::new(ArrowError::DivideByZero), None)), ErrorCode::InvalidValue);
        assert_eq!(code(&E::IoError(std::io::Error::other("/secret"))), ErrorCode::StorageUnavailable);
        assert_eq!(code(&E::External("boom".into())), ErrorCode::Internal);
        let internal = client_error(&E::Internal("/secret".into()), None);
        assert!(!internal.message.contains("secret"));
        let full = E::ResourcesExhausted("x".into());
        assert_eq!(client_error(&full, Some(Refused::Total)).code, ErrorCode::ResourceExhausted);
        assert_eq!(client_error(&full, Some(Refused::Share)).code, ErrorCode::QueryTooLarge);
    }

    #[test]
    fn the_text_of_an_error_is_shown_only_while_no_row_is_read() {
        let secret = || "about 'my secret'".to_owned();
        let of_rows = [
            E::Execution(secret()),
            E::ArrowError(Box::new(ArrowError::CastError(secret())), None),
            E::ArrowError(Box::new(ArrowError::ParseError(secret())), None).context("while reading"),
            E::ArrowError(Box::new(ArrowError::ComputeError(secret())), None),
            E::ArrowError(Box::new(ArrowError::InvalidArgumentError(secret())), None),
        ];
        for error in of_rows {
            let shown = client_error(&error, None);
            assert_eq!(shown.code, ErrorCode::InvalidValue);
            assert!(!shown.message.contains("secret"), "{shown}");
            assert!(rowless_error(&error, None).message.contains("secret"));
        }
        let overflow = E::ArrowError(Box::new(ArrowError::ArithmeticOverflow("7 + 1".to_owned())), None);
        for shown in [client_error(&overflow, None), rowless_error(&overflow, None)] {
            assert!(shown.message.contains("overflow") && !shown.message.contains('7'), "{shown}");
        }
        let pattern = regex::Regex::new(&["(", "secret"].concat()).unwrap_err();
        let shown = client_error(&E::External(Box::new(pattern)), None);
        assert_eq!(shown.code, ErrorCode::InvalidValue);
        assert!(shown.message.contains("regular expression") && !shown.message.contains("secret"), "{shown}");
    }

    #[test]
    fn a_misspelt_column_gets_the_likely_ones() {
        let fields = ["content", "contentRef", "_position", "msgId"].map(Column::from_name).to_vec();
        let field = Box::new(Column::from_name("contnt"));
        let error =
            E::SchemaError(Box::new(SchemaError::FieldNotFound { field, valid_fields: fields }), Box::new(None));
        let error = client_error(&error, None);
        assert_eq!(error.code, ErrorCode::UnknownColumn);
        assert_eq!(error.message, "There is no column `contnt` here; did you mean `content`?");
        assert_eq!(error.details["suggestions"], serde_json::json!(["content", "contentRef"]));
    }

    #[test]
    fn the_planner_s_own_parts_are_in_no_sentence() {
        let signature =
            "Internal error: Function 'sum' failed to match any signature, errors: Error during planning: …";
        assert!(sentence(signature).starts_with("The function `sum` does not take arguments"));
        let window = "Physical plan does not support logical expression WindowFunction(WindowFunction { fun: …";
        assert!(sentence(window).starts_with("An expression stands where it cannot be computed"));
        let collation = "Unsupported ast node in sqltorel: Collate { expr: Identifier(Ident { value: …";
        assert_eq!(sentence(collation), "This is not offered in a statement: COLLATE.");
        let substring = "Substring without for/from is not valid Substring { expr: Value(…";
        assert_eq!(sentence(substring), "Substring without for/from is not valid.");
    }

    #[test]
    fn a_long_text_becomes_one_sentence() {
        assert_eq!(sentence("\nno such thing\ncandidates:\n a"), "No such thing.");
        assert!(sentence(&"x".repeat(9999)).chars().count() <= MAX_SENTENCE_CHARS + 1);
    }
}
