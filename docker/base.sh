#!/usr/bin/env bash
# Makes debian:SUITE-slim available (usage: base.sh SUITE).
#
# Where it cannot be pulled, an interchangeable image is built from Debian's packages with mmdebstrap and given the same
# name. ACCEPT_EXPIRED_MIRROR=1 accepts a mirror whose Release file has expired; it is off unless somebody sets it.
set -euo pipefail

[ $# = 1 ] || { echo "usage: ${0##*/} SUITE" >&2; exit 2; }
readonly suite=$1
readonly image="debian:$suite-slim"
scratch=

say() { printf 'base: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
# One at a time: lint may install something while the images are made, and apt-get does not wait.
apt() { DEBIAN_FRONTEND=noninteractive flock --close /var/cache/apt apt-get "$@"; }
clean_up() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap clean_up EXIT

if docker image inspect "$image" >/dev/null 2>&1; then
    exit 0
fi

# The manifest is asked for first: without a registry this ends soon, and with a slow one the pull has its time.
if timeout 20 docker manifest inspect "$image" >/dev/null 2>&1; then
    say "pulls $image"
    timeout 600 docker pull --quiet "$image" >/dev/null || fail "$image could not be pulled within 10 minutes: mend the network, then run this again"
    exit 0
fi

say "$image cannot be pulled here: builds an interchangeable one from Debian's packages with mmdebstrap"
if ! command -v mmdebstrap >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "mmdebstrap is missing: install it (Debian package mmdebstrap), or let this machine reach a registry that has $image"
    fi
    say "installs Debian's package mmdebstrap"
    { apt update && apt install -y --no-install-recommends mmdebstrap; } >/dev/null 2>&1 ||
        fail "mmdebstrap could not be installed: mend the host's apt sources, then run this again"
fi

options=(
    --variant=minbase
    # What Debian's own slim images leave out, too.
    '--dpkgopt=path-exclude=/usr/share/man/*' '--dpkgopt=path-exclude=/usr/share/info/*'
    '--dpkgopt=path-exclude=/usr/share/locale/*' '--dpkgopt=path-exclude=/usr/share/doc/*'
    '--dpkgopt=path-include=/usr/share/doc/*/copyright'
    '--aptopt=Acquire::Languages "none"'
)
if [ "${ACCEPT_EXPIRED_MIRROR:-}" = 1 ]; then
    say "WARNING: accepts a package mirror whose Release file has expired (ACCEPT_EXPIRED_MIRROR=1); updates may be missing"
    options+=('--aptopt=Acquire::Check-Valid-Until "false"')
    # The switch ends with this build: the image itself must not accept an expired mirror.
    # shellcheck disable=SC2016  # mmdebstrap's hook expands $1
    options+=('--customize-hook=sed -i /Check-Valid-Until/d "$1/etc/apt/apt.conf.d/99mmdebstrap"')
fi

scratch=$(mktemp -d)
if ! mmdebstrap "${options[@]}" "$suite" "$scratch/base.tar" >"$scratch/log" 2>&1; then
    tail -n 15 "$scratch/log" >&2
    if "$(dirname "$0")/mirror-expired.sh" "$suite"; then
        fail "the mirror's Release file of $suite has expired: use another mirror, or accept it with ACCEPT_EXPIRED_MIRROR=1"
    fi
    fail "mmdebstrap could not build $suite: the lines above say why"
fi
docker import --change 'CMD ["bash"]' --change 'LABEL org.opencontainers.image.title="Debian '"$suite"' by mmdebstrap"' \
    "$scratch/base.tar" "$image" >/dev/null
say "$image is ready ($(docker image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B)"
