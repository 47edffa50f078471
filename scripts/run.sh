#!/usr/bin/env bash
# Starts the server (the program is the first argument, the others are its own), loads the sample once it answers, and
# keeps the server in the foreground until Ctrl-C.
set -euo pipefail
# Background jobs get process groups of their own, so that Ctrl-C reaches this script alone, and the server gets
# the one signal that lets it end in order.
set -m
kalamdb=$1
shift

folder=$(mktemp -d)
mkfifo "$folder/announced"
"$kalamdb" serve "$@" >"$folder/announced" &
server=$!
stop() {
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || true
}
trap 'stop; exit 0' INT TERM
exec 3<"$folder/announced"
rm -r "$folder"

# The one line that it prints once it answers:
# KalamDB 0.1.0 listens on http://127.0.0.1:8080, data in /home/ann/kalamdb/data
if ! read -r line <&3; then
    # It has said why on standard error.
    wait "$server"
    exit
fi
echo "$line"
url=${line#*listens on }
url=${url%%,*}
data=${line#*, data in }

# In the background, as the server: Ctrl-C is for this script.
status=0
"$kalamdb" demo --url "$url" --data "$data" &
wait $! || status=$?
if [ "$status" -ne 0 ]; then
    stop
    exit "$status"
fi
# Where clients look by themselves is not said again.
elsewhere=
[ "$url" = http://127.0.0.1:8080 ] || elsewhere+=" --url $url"
[ "$data" = "$PWD/data" ] || elsewhere+=" --data $data"
echo "In a second terminal, in this folder, this opens a shell: ./kalamdb sql --user user_john$elsewhere"
echo "The server runs until Ctrl-C."
wait "$server"
