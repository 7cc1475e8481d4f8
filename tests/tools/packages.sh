#!/usr/bin/env bash
# Makes Debian's programs available to the tests (usage: packages.sh PROGRAM[=PACKAGE]...; the package has the program's name if not said).
set -euo pipefail

say() { printf 'packages: %s\n' "$*" >&2; }
# One at a time: lint may install something while the images are made, and apt-get does not wait.
apt() { DEBIAN_FRONTEND=noninteractive flock --close /var/cache/apt apt-get "$@"; }

missing=()
for program in "$@"; do
    command -v "${program%%=*}" >/dev/null || missing+=("${program#*=}")
done
if [ ${#missing[@]} = 0 ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "missing: ${missing[*]}: install these Debian packages, then run this again"
    exit 1
fi
say "installs Debian's ${missing[*]}"
log=$(mktemp)
if ! { apt update && apt install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    say "${missing[*]} could not be installed (log: $log): fix the host's apt sources, then run this again"
    exit 1
fi
rm -f "$log"
