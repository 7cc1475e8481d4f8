#!/usr/bin/env bash
# Makes the environment that tests and lint run in, from its lock (usage: venv.sh PYTHON FOLDER).
set -euo pipefail

[ $# = 2 ] || { echo "usage: ${0##*/} PYTHON FOLDER" >&2; exit 2; }
python=$1 folder=$2
say() { printf 'venv: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

"$(dirname "$0")/python.sh" "$python"
say "installs the locked tools into $folder"
"$python" -m venv --clear "$folder"
log=$(mktemp)
if ! "$folder/bin/pip" install --disable-pip-version-check --only-binary :all: --require-hashes \
    -r tests/requirements.lock >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail "the locked tools could not be installed (log: $log): fix the network or pip's settings, then run this again"
fi
rm -f "$log"
touch "$folder/installed"
