#!/usr/bin/env bash
# Renews the three lock files from pyproject.toml and docker/requirements-build.in (usage: lock.sh PYTHON).
#
# The locks hold for Python 3.11 and later on every platform, and name no package index.
set -euo pipefail

[ $# = 1 ] || { echo "usage: ${0##*/} PYTHON" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$1" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check uv

compile() {
    "$scratch/venv/bin/uv" pip compile --quiet --no-config --upgrade --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --custom-compile-command 'make lock' "$@"
}
compile pyproject.toml --output-file docker/requirements.lock
compile docker/requirements-build.in --output-file docker/requirements-build.lock
# The tests run with the very versions that are in the image.
compile pyproject.toml --group dev --constraint docker/requirements.lock --output-file tests/requirements.lock
echo 'lock: docker/requirements.lock, docker/requirements-build.lock and tests/requirements.lock are renewed'
