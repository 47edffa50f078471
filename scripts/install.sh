#!/usr/bin/env bash
# Installs what this machine lacks. For the build: a C++ compiler and libclang for RocksDB, curl to paste the demo's lines
# with, venv for the Python that reads our files. With `tests`: Chromium besides, which opens docs/live.html. Does
# nothing, quickly, when all of it is there.
set -euo pipefail

# What bindgen loads: libclang.so, libclang.so.14, libclang-14.so.1. Not libclang-cpp.so.14, which Debian's LLVM brings
# along and which holds another interface.
has_libclang() {
    find -L ${LIBCLANG_PATH:+"$LIBCLANG_PATH"} /usr/lib /usr/local/lib -maxdepth 3 \
        \( -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' \) -print -quit 2>/dev/null | grep -q .
}

has_chromium() {
    command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable
}

missing=()
command -v g++ >/dev/null || missing+=(g++)
has_libclang || missing+=(libclang-dev)
command -v curl >/dev/null || missing+=(curl)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
[ "${1:-}" != tests ] || has_chromium >/dev/null || missing+=(chromium)

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "These packages are needed; install them and try again: ${missing[*]}" >&2
    exit 1
fi
echo "Installing what is missing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
