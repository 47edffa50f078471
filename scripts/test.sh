#!/usr/bin/env bash
# Runs every test, to the end also where some fail, and sums up what the runners say: the last line is
# `N passed, N failed`, the lines before it name those that failed. Arguments go to the runners: a part of a test's name
# runs those alone, `--skip NAME` leaves some out.
set -euo pipefail
cd "$(dirname "$0")/.."
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# Tests that open our files with DuckDB fail without it; nothing else needs it, so everything else is run.
scripts/duckdb.sh "${KALAMDB_PYTHON:-$HOME/.cache/kalamdb-venv/bin/python}" || {
    echo "DuckDB could not be installed: the tests that need it will fail. To leave them out:" >&2
    echo "make test ARGS='--skip cold_files --skip operations_md'" >&2
}

# Cargo's own lines go past on standard error, the runners' on standard output. No tests stand in documentation: looking
# for them would take minutes for none.
status=0
cargo test --workspace --lib --bins --tests --no-fail-fast -- "$@" | tee "$output" || status=$?

sum() { awk -v word="$1;" '/^test result: / { for (i = 2; i <= NF; i++) if ($i == word) n += $(i - 1) } END { print n + 0 }' "$output"; }
passed=$(sum passed)
failed=$(sum failed)
echo
sed -n 's/^test \(.*\) \.\.\. FAILED$/failed: \1/p' "$output"
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
    echo "failed: what cargo says above; it did not build, or a runner ended before its summary"
    failed=1
fi
echo "$passed passed, $failed failed"
exit "$status"
