#!/usr/bin/env bash
# Starts the server (the first argument), loads the sample once it answers, and keeps the server in the foreground
# until Ctrl-C.
set -euo pipefail
# Background jobs get process groups of their own, so that Ctrl-C reaches this script alone, and the server gets
# the one signal that lets it end in order.
set -m
kalamdb=$1
# As many connections as the system allows; where it allows no more, the server takes fewer.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

"$kalamdb" serve &
server=$!
stop() {
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || true
}
trap 'stop; exit 0' INT TERM

"$kalamdb" demo --wait 60 &
demo=$!
# Whichever ends first: nobody should wait for a server that could not start.
status=0
wait -n -p ended "$server" "$demo" || status=$?
if [ "$ended" = "$server" ]; then
    kill "$demo" 2>/dev/null || true
    exit "$status"
fi
if [ "$status" -ne 0 ]; then
    stop
    exit "$status"
fi
echo "The server runs until Ctrl-C."
wait "$server"
