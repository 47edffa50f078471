#!/usr/bin/env bash
# Installs what the build needs and this machine lacks: a C++ compiler and libclang for RocksDB, curl to paste the
# demo's lines with, and venv for the Python that the tests use. Does nothing, quickly, when all of it is there.
set -euo pipefail

has_libclang() {
    ldconfig -p | grep -q 'libclang.*\.so' || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null
}

missing=()
command -v g++ >/dev/null || missing+=(g++)
has_libclang || missing+=(libclang-dev)
command -v curl >/dev/null || missing+=(curl)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The build needs these packages; install them and try again: ${missing[*]}" >&2
    exit 1
fi
echo "Installing what the build needs: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
