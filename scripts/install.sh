#!/usr/bin/env bash
# Puts a program and what belongs to it in place, or takes it away again; `make install` and `make uninstall` call it.
#
#   install.sh BINARY DESTDIR PREFIX SYSCONFDIR      install.sh --remove DESTDIR PREFIX
set -euo pipefail
cd "$(dirname "$0")/.."

remove() {
    local root=$1$2
    rm -f "$root/bin/kalamdb" "$root/lib/systemd/system/kalamdb.service" "$root"/share/man/man1/kalamdb{,-*}.1 \
        "$root/share/bash-completion/completions/kalamdb" "$root/share/zsh/site-functions/_kalamdb" \
        "$root/share/fish/vendor_completions.d/kalamdb.fish" "$root/share/doc/kalamdb/LICENSE"
    if [ -d "$root/share/doc/kalamdb" ]; then rmdir "$root/share/doc/kalamdb"; fi
}

if [ "$1" = --remove ]; then
    remove "$2" "$3"
    exit
fi

binary=$1 destdir=$2 prefix=$3 sysconfdir=$4
root=$destdir$prefix
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

# What is installed is for everybody to read, whoever installs it: `install` gives modes, to folders too.
# Man pages and completions come from the program itself, in the folders that they have below share.
"$binary" generate "$made"
install -D -m 755 "$binary" "$root/bin/kalamdb"
(cd "$made" && find . -type f) | while read -r file; do
    install -D -m 644 "$made/$file" "$root/share/$file"
done
install -D -m 644 LICENSE "$root/share/doc/kalamdb/LICENSE"

sed -e "s|@PREFIX@|$prefix|g" -e "s|@SYSCONFDIR@|$sysconfdir|g" packaging/kalamdb.service.in >"$made/kalamdb.service"
install -D -m 644 "$made/kalamdb.service" "$root/lib/systemd/system/kalamdb.service"

# Every setting at its default, but for where the data lies: the folder that the unit makes. Settings that are there stay.
settings=$destdir$sysconfdir/kalamdb/config.toml
if [ ! -e "$settings" ]; then
    "$binary" config --sample |
        sed 's|^#base_storage_path = .*|base_storage_path = "/var/lib/kalamdb"|' >"$made/config.toml"
    grep -q '^base_storage_path' "$made/config.toml"
    install -D -m 644 "$made/config.toml" "$settings"
fi

if [ -z "$destdir" ]; then
    cat <<END
KalamDB is installed. As a service: systemctl daemon-reload && systemctl enable --now kalamdb
Its settings: $settings. Commands on this machine find them by: export KALAMDB_CONFIG=$settings
END
fi
