# Everything that is done with this project, by name. `make run` and `make test` need a Debian machine with a
# Rust toolchain, make and root; what else the build needs is installed when it is missing.

# Outside the checkout, so that every checkout and CI share one build: it takes long enough once.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/kalamdb
# A Python that has DuckDB, which reads our files in tests and benchmarks.
export KALAMDB_PYTHON ?= $(HOME)/.cache/kalamdb-venv/bin/python

BUILT := $(CARGO_TARGET_DIR)/debug

.PHONY: run test bench fmt lint clean-data tools duckdb build

# Starts the server on 127.0.0.1:8080 with its data in ./data, loads the sample, prints what to try.
run: build
	@scripts/run.sh $(BUILT)/kalamdb

# Every test, in one invocation and one build. There are no tests in documentation: looking for them would end the
# run with a summary of none.
test: duckdb
	@scripts/install.sh tests
	cargo test --workspace --lib --bins --tests

# Figures as ratios to what this machine can do, in data/bench.json. `make bench ARGS=--quick` only tries it out.
# Thousands of connections need as many files as the system allows.
bench: build duckdb
	@mkdir -p data
	ulimit -n "$$(ulimit -Hn)"; $(BUILT)/kalamdb-bench --dir data --out data/bench.json $(ARGS)

fmt:
	cargo fmt --all

lint: tools
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Forgets the sample and everything else that `make run` has stored.
clean-data:
	rm -rf data

build: tools
	cargo build --workspace

tools:
	@scripts/install.sh

duckdb: tools
	@scripts/duckdb.sh $(KALAMDB_PYTHON)
