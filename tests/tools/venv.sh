#!/usr/bin/env bash
# Makes the environment that tests and lint run in, from its lock (usage: venv.sh PYTHON FOLDER).
set -euo pipefail

[ $# = 2 ] || { echo "usage: ${0##*/} PYTHON FOLDER" >&2; exit 2; }
python=$1 folder=$2
say() { printf 'venv: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is missing or older than 3.11: install Python 3.11 or later, or name one with PYTHON=..."
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "Python's venv module is missing: install it (Debian package python3-venv)"
    fi
    say "installs Debian's package python3-venv"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv; } >/dev/null 2>&1 ||
        fail "python3-venv could not be installed: mend the host's apt sources, then run this again"
fi
say "installs the locked tools into $folder"
"$python" -m venv --clear "$folder"
log=$(mktemp)
if ! "$folder/bin/pip" install --disable-pip-version-check --only-binary :all: --require-hashes \
    -r tests/requirements.lock >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail "the locked tools could not be installed (log: $log): mend the network or pip's settings, then run this again"
fi
rm -f "$log"
touch "$folder/installed"
