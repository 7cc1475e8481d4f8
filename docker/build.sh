#!/usr/bin/env bash
# Builds an image with this machine's trust store (usage: build.sh TAG DOCKERFILE CONTEXT).
#
# A package mirror whose Release file has expired is refused, because it may lack updates; ACCEPT_EXPIRED_MIRROR=1 accepts
# it. The label org.understudy.debian.release-date has the date of the Release file that was used. The label
# org.understudy.base.differs names the packages of the base that differ from base-SUITE.lock (base.sh), or says `no`.
set -euo pipefail

[ $# = 3 ] || { echo "usage: ${0##*/} TAG DOCKERFILE CONTEXT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
tag=$1 dockerfile=$2 context=$3
suite=$(sed -nE 's/^FROM debian:([a-z]+)-slim.*/\1/p' "$dockerfile" | head -n 1)

if [ "${ACCEPT_EXPIRED_MIRROR:-0}" != 1 ] && expired=$("$here/mirror-expired.sh" "$suite" 2>&1); then
    echo "build: $tag was not built: $expired. Use another mirror, or accept this one: ACCEPT_EXPIRED_MIRROR=1 make image" >&2
    exit 1
fi
differing=$("$here/base.sh" "$suite")

options=(--build-arg "ACCEPT_EXPIRED_MIRROR=${ACCEPT_EXPIRED_MIRROR:-0}")
revision=$(git -C "$here" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
if grep -q '^ARG REVISION' "$dockerfile"; then
    options+=(--build-arg "REVISION=$revision")
fi
if grep -q '^ARG BASE_DIFFERS' "$dockerfile"; then
    options+=(--build-arg "BASE_DIFFERS=${differing:-no}")
fi
ca=${BUILD_CA:-/etc/ssl/certs/ca-certificates.crt}
if [ -r "$ca" ]; then
    options+=(--secret "id=ca,src=$ca")
fi
echo "build: $tag" >&2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
started=$SECONDS
build() {
    docker buildx build --progress plain --file "$dockerfile" "${options[@]}" "$@" "$context" >"$scratch/log" 2>&1 && return
    tail -n 40 "$scratch/log" >&2
    echo "build: $tag failed: the lines above say why" >&2
    exit 1
}
if grep -q '^FROM scratch AS release-date' "$dockerfile"; then
    build --target release-date --output "type=local,dest=$scratch/told"
    options+=(--build-arg "DEBIAN_RELEASE_DATE=$(cat "$scratch/told/debian-release-date")")
fi
build --load --tag "$tag"
echo "build: $tag is ready after $((SECONDS - started)) s ($(docker image inspect --format '{{.Size}}' "$tag" | numfmt --to=si)B)" >&2
