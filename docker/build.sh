#!/usr/bin/env bash
# Builds an image with this machine's trust store and its finding about the mirror (usage: build.sh TAG DOCKERFILE CONTEXT).
set -euo pipefail

[ $# = 3 ] || { echo "usage: ${0##*/} TAG DOCKERFILE CONTEXT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
tag=$1 dockerfile=$2 context=$3
suite=$(sed -nE 's/^FROM debian:([a-z]+)-slim.*/\1/p' "$dockerfile" | head -n 1)

if [ -z "${ACCEPT_EXPIRED_MIRROR:-}" ] && "$here/mirror-expired.sh" "$suite"; then
    echo "build: WARNING: turns on ACCEPT_EXPIRED_MIRROR=1 for $tag, because of that; updates may be missing" >&2
    export ACCEPT_EXPIRED_MIRROR=1
fi
"$here/base.sh" "$suite"

options=(--build-arg "ACCEPT_EXPIRED_MIRROR=${ACCEPT_EXPIRED_MIRROR:-0}")
revision=$(git -C "$here" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
if grep -q '^ARG REVISION' "$dockerfile"; then
    options+=(--build-arg "REVISION=$revision")
fi
ca=${BUILD_CA:-/etc/ssl/certs/ca-certificates.crt}
if [ -r "$ca" ]; then
    options+=(--secret "id=ca,src=$ca")
fi
echo "build: $tag" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
started=$SECONDS
if ! docker buildx build --load --progress plain --tag "$tag" --file "$dockerfile" "${options[@]}" "$context" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "build: $tag failed: the lines above say why" >&2
    exit 1
fi
echo "build: $tag is ready after $((SECONDS - started)) s ($(docker image inspect --format '{{.Size}}' "$tag" | numfmt --to=si)B)" >&2
