#!/usr/bin/env bash
# Makes the Python environment with DuckDB whose interpreter is named by the first argument, unless it is there.
set -euo pipefail
python=$1
version=1.4.1

if [ -x "$python" ] && "$python" -c 'import duckdb' 2>/dev/null; then
    exit 0
fi
"$(dirname "$0")/tools.sh" python
folder=$(dirname "$(dirname "$python")")
echo "Installing DuckDB $version into a Python environment of its own, for tests and benchmarks."
python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet "duckdb==$version"
