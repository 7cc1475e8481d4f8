#!/usr/bin/env bash
# Makes Debian's Chromium available to the tests that look at pages.
set -euo pipefail

say() { printf 'browser: %s\n' "$*" >&2; }

if command -v chromium >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    say "chromium is missing: install it (Debian package chromium), then run this again"
    exit 1
fi
say "installs Debian's package chromium"
log=$(mktemp)
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    say "chromium could not be installed (log: $log): mend the host's apt sources, then run this again"
    exit 1
fi
rm -f "$log"
