#!/usr/bin/env bash
# Makes debian:SUITE-slim available (usage: base.sh SUITE).
#
# If the image cannot be pulled, the script builds an interchangeable one from Debian's packages with mmdebstrap, under the
# same name. ACCEPT_EXPIRED_MIRROR=1 accepts a mirror whose Release file has expired; the default is off.
#
# base-SUITE.lock names the version of every package of the base, because an image that is built here has no registry's
# digest. Mirrors change every day. So a base that differs gives a warning, and the names of the packages that differ go to
# standard output, for the image's label. REQUIRE_LOCKED_BASE=1 refuses such a base, for example for a release. LOCK_BASE=1
# writes the lock from the base that is here.
set -euo pipefail

[ $# = 1 ] || { echo "usage: ${0##*/} SUITE" >&2; exit 2; }
readonly suite=$1
readonly image="debian:$suite-slim"
scratch=

say() { printf 'base: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
# One apt-get at a time: lint may install packages while the images are built, and apt-get itself does not wait.
apt() { DEBIAN_FRONTEND=noninteractive flock --close /var/cache/apt apt-get "$@"; }
clean_up() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap clean_up EXIT

# Compares the packages of the base with the lock, and prints the names of those that differ. A suite without a lock is not
# pinned.
hold_to_the_lock() {
    local lock packages differing
    lock=$(cd "$(dirname "$0")" && pwd)/base-$suite.lock
    [ -e "$lock" ] || return 0
    packages=$(docker run --rm --network none "$image" dpkg-query --show --showformat '${Package} ${Version}\n' | LC_ALL=C sort)
    if [ "${LOCK_BASE:-}" = 1 ]; then
        printf '%s\n' "$packages" >"$lock"
        say "wrote ${lock##*/}: look at the change, then commit it"
    fi
    differing=$(LC_ALL=C comm -3 "$lock" <(printf '%s\n' "$packages") | awk '{print $1}' | LC_ALL=C sort -u | paste -s -d ' ')
    [ -n "$differing" ] || return 0
    if [ "${REQUIRE_LOCKED_BASE:-}" = 1 ]; then
        fail "$image has other packages than ${lock##*/} pins: $differing. Remove it and use the mirror of that day, or pin these: LOCK_BASE=1 make image"
    fi
    say "WARNING: $image has other packages than ${lock##*/} pins: $differing"
    printf '%s\n' "$differing"
}

if docker image inspect "$image" >/dev/null 2>&1; then
    hold_to_the_lock
    exit 0
fi

# Asks for the manifest first: without a registry this fails soon, and with a slow one the pull may take its time.
if timeout 20 docker manifest inspect "$image" >/dev/null 2>&1; then
    say "pulls $image"
    timeout 600 docker pull --quiet "$image" >/dev/null || fail "$image could not be pulled within 10 minutes: fix the network, then run this again"
    hold_to_the_lock
    exit 0
fi

say "$image cannot be pulled here: builds an interchangeable one from Debian's packages with mmdebstrap"
if ! command -v mmdebstrap >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "mmdebstrap is missing: install it (Debian package mmdebstrap), or let this machine reach a registry that has $image"
    fi
    say "installs Debian's package mmdebstrap"
    { apt update && apt install -y --no-install-recommends mmdebstrap; } >/dev/null 2>&1 ||
        fail "mmdebstrap could not be installed: fix the host's apt sources, then run this again"
fi

options=(
    --variant=minbase
    # Debian's own slim images leave these out too.
    '--dpkgopt=path-exclude=/usr/share/man/*' '--dpkgopt=path-exclude=/usr/share/info/*'
    '--dpkgopt=path-exclude=/usr/share/locale/*' '--dpkgopt=path-exclude=/usr/share/doc/*'
    '--dpkgopt=path-include=/usr/share/doc/*/copyright'
    '--aptopt=Acquire::Languages "none"'
)
if [ "${ACCEPT_EXPIRED_MIRROR:-}" = 1 ]; then
    say "WARNING: accepts a package mirror whose Release file has expired (ACCEPT_EXPIRED_MIRROR=1); updates may be missing"
    options+=('--aptopt=Acquire::Check-Valid-Until "false"')
    # Only this build accepts an expired mirror: the image itself must not.
    # shellcheck disable=SC2016  # mmdebstrap's hook expands $1
    options+=('--customize-hook=sed -i /Check-Valid-Until/d "$1/etc/apt/apt.conf.d/99mmdebstrap"')
fi

scratch=$(mktemp -d)
# Keeps the Release file for the date in the label: mmdebstrap empties apt's lists at its end.
# shellcheck disable=SC2016  # mmdebstrap's hooks expand $1
options+=(
    '--customize-hook=cp "$1"/var/lib/apt/lists/*_dists_'"$suite"'_InRelease "$1/InRelease"'
    "--customize-hook=download /InRelease $scratch/InRelease"
    '--customize-hook=rm "$1/InRelease"'
)
if ! mmdebstrap "${options[@]}" "$suite" "$scratch/base.tar" >"$scratch/log" 2>&1; then
    tail -n 15 "$scratch/log" >&2
    if expired=$("$(dirname "$0")/mirror-expired.sh" "$suite" 2>&1); then
        fail "$expired: use another mirror, or accept this one with ACCEPT_EXPIRED_MIRROR=1"
    fi
    fail "mmdebstrap could not build $suite: the lines above say why"
fi
docker import --change 'CMD ["bash"]' --change 'LABEL org.opencontainers.image.title="Debian '"$suite"' by mmdebstrap"' \
    --change "LABEL org.understudy.debian.release-date=\"$(sed -n 's/^Date: //p' "$scratch/InRelease")\"" \
    "$scratch/base.tar" "$image" >/dev/null
say "$image is ready ($(docker image inspect --format '{{.Size}}' "$image" | numfmt --to=si)B)"
hold_to_the_lock
