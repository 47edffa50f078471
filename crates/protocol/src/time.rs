//! Time as the protocol has it: microseconds since the Unix epoch, UTC.
//!
//! Invariant: pure arithmetic; the clock is somebody else's.

/// Microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;

/// The last moment that a timestamp may name (2^53 − 1, in the year 2255): beyond it JavaScript would round.
pub const MAX_MICROS: Micros = (1 << 53) - 1;

/// Below this a number means seconds.
const SECONDS_BELOW: i64 = 100_000_000_000;
/// Below this (and not seconds) a number means milliseconds.
const MILLIS_BELOW: i64 = 100_000_000_000_000;

/// Reads a time given in seconds, milliseconds or microseconds, told apart by its size: below 10^11 it is
/// seconds, below 10^14 milliseconds. So `1699000000` means 2023, and JavaScript's `Date.now()` works.
/// Negative times (before 1970) are told apart the same way.
#[must_use]
pub fn to_micros(given: i64) -> Micros {
    match given.unsigned_abs() {
        size if size < SECONDS_BELOW.unsigned_abs() => given * 1_000_000,
        size if size < MILLIS_BELOW.unsigned_abs() => given * 1_000,
        _ => given,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_told_by_the_size() {
        let november_2023 = 1_699_000_000_000_000;
        assert_eq!(to_micros(1_699_000_000), november_2023);
        assert_eq!(to_micros(1_699_000_000_000), november_2023);
        assert_eq!(to_micros(november_2023), november_2023);
        assert_eq!(to_micros(99_999_999_999), 99_999_999_999_000_000);
        assert_eq!(to_micros(100_000_000_000), 100_000_000_000_000);
        assert_eq!(to_micros(-1), -1_000_000);
        assert_eq!(to_micros(0), 0);
        assert_eq!(to_micros(i64::MIN), i64::MIN);
    }
}
