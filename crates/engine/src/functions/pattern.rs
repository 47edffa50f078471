//! Patterns that come from rows: each different one is compiled, and kept until its batch is done.
//!
//! Invariant: a batch has at most [`MAX_PATTERNS`] different regular expressions from rows, each of a bounded size; and
//! the patterns of LIKE, which are compiled one after the other, take a bounded time.

use std::collections::HashSet;

use datafusion::{
    arrow::{
        array::{Array, AsArray},
        compute::cast,
        datatypes::DataType,
    },
    common::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};
use regex::RegexBuilder;

use super::TooLarge;

/// Different regular expressions from rows in one batch.
const MAX_PATTERNS: usize = 16;
/// Bytes that one of them may become when compiled: `\w` ten times over.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Bytes of one of them.
const MAX_PATTERN_BYTES: usize = 1_000;
/// Nanoseconds that the patterns of LIKE may take in one batch, by a generous estimate…
const MAX_LIKE_NANOS: usize = 1_000_000_000;
/// …of what each takes, and each of its bytes.
const NANOS_PER_LIKE: usize = 5_000;
const NANOS_PER_LIKE_BYTE: usize = 500;

/// The use of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A regular expression.
    Regex,
    /// The flags of one.
    Flags,
    /// The pattern of LIKE.
    Like,
}

/// `pattern(p)`: what it is given, when there is not too much of it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    kind: Kind,
    signature: Signature,
}

impl Pattern {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, signature: Signature::any(1, Volatility::Immutable) }
    }

    fn check(&self, patterns: &dyn Array) -> Result<()> {
        let patterns = cast(patterns, &DataType::Utf8View)?;
        let patterns = patterns.as_string_view().iter().flatten();
        let fits = match self.kind {
            Kind::Regex => are_few(patterns, MAX_PATTERNS, is_small),
            Kind::Flags => are_few(patterns, MAX_PATTERNS / 4, |flags| flags.len() <= MAX_PATTERNS),
            Kind::Like => compile_soon(patterns),
        };
        if fits { Ok(()) } else { Err(TooLarge::Patterns.into()) }
    }
}

fn are_few<'a>(patterns: impl Iterator<Item = &'a str>, most: usize, is_small: impl Fn(&str) -> bool) -> bool {
    let mut different = HashSet::new();
    for pattern in patterns {
        if different.insert(pattern) && (different.len() > most || !is_small(pattern)) {
            return false;
        }
    }
    true
}

/// Whether a regular expression stays small; one that is none is for the function to complain about.
fn is_small(pattern: &str) -> bool {
    let compiled = RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build();
    pattern.len() <= MAX_PATTERN_BYTES && !matches!(compiled, Err(regex::Error::CompiledTooBig(_)))
}

/// Whether the patterns of LIKE that become regular expressions are compiled in time: one that is the same as the last
/// is not, nor is one that only says how a text begins, ends, or what it holds.
fn compile_soon<'a>(patterns: impl Iterator<Item = &'a str>) -> bool {
    let (mut nanos, mut last) = (0_usize, None);
    for pattern in patterns {
        if last.replace(pattern) != Some(pattern) && pattern.trim_matches('%').contains(['%', '_', '\\']) {
            nanos = nanos.saturating_add(NANOS_PER_LIKE + NANOS_PER_LIKE_BYTE * pattern.len());
        }
    }
    nanos <= MAX_LIKE_NANOS
}

impl ScalarUDFImpl for Pattern {
    fn name(&self) -> &'static str {
        "pattern"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut args = args.args;
        let pattern = args.swap_remove(0);
        // One for all rows is a constant like one that is written out, and looked at as such.
        if let ColumnarValue::Array(patterns) = &pattern {
            self.check(patterns)?;
        }
        Ok(pattern)
    }
}
