#!/usr/bin/env bash
# Checks that Rust is new enough, and installs what else this machine lacks. For the build: a C++ compiler and libclang for
# RocksDB; for `run`: curl, to paste the sample's lines with; for `python`: the Python that DuckDB is put into; for
# `tests`: Chromium, which opens docs/live.html, and Node, which runs the programs of docs/quickstart.md; for `bench`: a load
# generator, and what KalamDB is compared with; for `guard`: valgrind, which counts instructions. Does nothing, quickly, when
# all of it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

# A cargo that is too old does not say so: it stumbles over a word in Cargo.toml.
check_rust() {
    local wanted found advice
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    advice="\`rustup update stable\` brings it; rustup itself is at https://rustup.rs."
    if ! found=$(cargo --version 2>/dev/null); then
        echo "There is no Rust toolchain here, and KalamDB needs Rust $wanted or newer: $advice" >&2
        exit 1
    fi
    found=$(cut -d' ' -f2 <<<"$found")
    if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
        echo "KalamDB needs Rust $wanted or newer, and this is $found: $advice" >&2
        exit 1
    fi
}

# What bindgen loads: libclang.so, libclang.so.14, libclang-14.so.1. Not libclang-cpp.so.14, which Debian's LLVM brings
# along and which holds another interface. What find prints counts, not its status: it complains of loops in LLVM's links.
has_libclang() {
    local found
    found=$(find -L ${LIBCLANG_PATH:+"$LIBCLANG_PATH"} /usr/lib /usr/local/lib -maxdepth 3 \
        \( -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' \) -print -quit 2>/dev/null) || true
    [ -n "$found" ]
}

has() { command -v "$1" >/dev/null; }
has_chromium() { has chromium || has chromium-browser || has google-chrome || has google-chrome-stable; }
# Debian keeps its programs out of the PATH.
has_postgresql() { has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
has_venv() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

missing=()
need() {
    local package=$1
    shift
    "$@" || missing+=("$package")
}

check_rust
need g++ has g++
need libclang-dev has_libclang
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
for purpose in "$@"; do
    case $purpose in
        run) need curl has curl ;;
        python) need python3-venv has_venv ;;
        bench)
            need wrk has wrk
            need redis-server has redis-server
            need postgresql has_postgresql
            ;;
        guard) need valgrind has callgrind_control ;;
        tests)
            need curl has curl
            need chromium has_chromium
            need nodejs has node
            ;;
    esac
done

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
    echo "These packages are needed; install them and try again: ${missing[*]}" >&2
    exit 1
fi
echo "Installing what is missing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
