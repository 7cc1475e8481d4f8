#!/usr/bin/env bash
# Makes sure of a Python that can make environments (usage: python.sh PYTHON). With INSTALL_PACKAGES=no it installs nothing.
set -euo pipefail

[ $# = 1 ] || { echo "usage: ${0##*/} PYTHON" >&2; exit 2; }
python=$1
fail() { printf 'python: %s\n' "$*" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is missing or older than 3.11: install Python 3.11 or later, or name one with PYTHON=..."
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "${INSTALL_PACKAGES:-yes}" = no ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "Python's venv module is missing: install it (Debian package python3-venv)"
    fi
    echo "python: installs Debian's package python3-venv" >&2
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv; } >/dev/null 2>&1 ||
        fail "python3-venv could not be installed: fix the host's apt sources, then run this again"
fi
