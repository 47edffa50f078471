# Everything that is done with this project, by name. `make run` and `make test` need a Debian machine with a
# Rust toolchain, make and root; what else the build needs is installed when it is missing.

# Outside the checkout, so that every checkout and CI share one build: it takes long enough once.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/kalamdb
# A Python that has DuckDB, which reads our files in tests and benchmarks.
export KALAMDB_PYTHON ?= $(HOME)/.cache/kalamdb-venv/bin/python

BUILT := $(CARGO_TARGET_DIR)/debug

# Where `make install` puts things. DESTDIR, for packagers, is the root of the tree that they fill.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
# What it puts there. Another program than the one that it builds: `make install BINARY=…`.
BINARY ?=

.PHONY: run test soak bench guard fmt lint clean-data install uninstall tools peers duckdb build

# Starts the server on 127.0.0.1:8080 with its data in ./data, loads the sample, prints what to try. The server's own
# arguments: `make run ARGS="--port 8081"`.
run: build
	@scripts/tools.sh run
	@scripts/run.sh $(BUILT)/kalamdb $(ARGS)

# Every test, in one build; the last line counts them. Some of them: `make test ARGS=live::`.
test:
	@scripts/tools.sh tests
	@scripts/test.sh $(ARGS)

# The random nets for wrong answers, over so many statements each: SOAK=1000000 goes on for a day.
SOAK ?= 100000
soak:
	@scripts/tools.sh tests
	KALAMDB_SOAK=$(SOAK) cargo test --workspace --lib tests::nets -- --nocapture

# Figures of KalamDB beside others', in data/bench.json and data/performance.md, in about twelve minutes on a quiet machine.
# `ARGS=--quick` only tries it out, `ARGS="--only sends,last50"` does some of it, `ARGS=--full` far more of it. The page in the
# project is made by `ARGS="--page docs/performance.md"`. Thousands of connections need as many files as the system allows.
bench: build peers
	@mkdir -p data
	ulimit -n "$$(ulimit -Hn)"; $(BUILT)/kalamdb-bench --dir data --out data/bench.json --page data/performance.md $(ARGS)

# Fails where a request of a hot path takes a third more instructions than crates/bench/guard.json says, however busy the
# machine is. A change that is meant to cost more, or that costs less: `make guard ARGS=--write`, and the file goes with it.
guard: build
	@scripts/tools.sh guard
	@mkdir -p data
	$(BUILT)/kalamdb-bench guard --dir data $(ARGS)

fmt:
	cargo fmt --all

lint: tools
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

# Forgets the sample and everything else that `make run` has stored.
clean-data:
	rm -rf data

# The program, its man pages, completions and systemd unit; and settings to begin with, where there are none. It builds
# the release profile, which takes as long again as the first build did.
install:
ifeq ($(BINARY),)
	@scripts/tools.sh
	KALAMDB_COMMIT=$$(git describe --always --dirty --exclude '*' 2>/dev/null) \
	    cargo build --release -p kalamdb-server --bin kalamdb
endif
	@scripts/install.sh "$(or $(BINARY),$(CARGO_TARGET_DIR)/release/kalamdb)" "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

# Takes away what `make install` put there, but neither settings nor data.
uninstall:
	@scripts/install.sh --remove "$(DESTDIR)" "$(PREFIX)"

# ./kalamdb is the program that was built, under a short name.
build: tools
	cargo build --workspace
	@ln -sfn $(BUILT)/kalamdb kalamdb

tools:
	@scripts/tools.sh

# What `make bench` compares with.
peers: tools
	@scripts/peers.sh $(KALAMDB_PYTHON)

duckdb: tools
	@scripts/duckdb.sh $(KALAMDB_PYTHON)
