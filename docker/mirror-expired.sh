#!/usr/bin/env bash
# Succeeds if the Release file of SUITE at the package mirror has expired (usage: mirror-expired.sh SUITE).
#
# Only a host with apt knows its mirror. On any other host, or if the mirror does not answer, the script says "not expired",
# and apt's own check inside the build decides.
set -euo pipefail

[ $# = 1 ] || { echo "usage: ${0##*/} SUITE" >&2; exit 2; }
readonly suite=$1
readonly apt_helper=/usr/lib/apt/apt-helper

[ -x "$apt_helper" ] || exit 1
# shellcheck disable=SC2016  # apt expands $(SITE)
archive=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' |
    grep -E '/debian/?$' | sort -u | head -n 1) || exit 1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
timeout 20 "$apt_helper" download-file "${archive%/}/dists/$suite/InRelease" "$scratch/InRelease" >/dev/null 2>&1 || exit 1

valid_until=$(sed -n 's/^Valid-Until: //p' "$scratch/InRelease")
# A stable suite has no such line, because it does not expire.
[ -n "$valid_until" ] || exit 1
[ "$(date -d "$valid_until" +%s)" -lt "$(date +%s)" ] || exit 1
printf 'the Release file of %s at the mirror expired on %s\n' "$suite" "$valid_until" >&2
