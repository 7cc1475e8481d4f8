#!/usr/bin/env bash
# Turns OHIF's bundle, built for /, into one that lives below /ohif/ (usage: rebase.sh DIST_FOLDER).
#
# Every rewrite must find its text: an OHIF release that is built another way fails the image's build, not a reader.
set -euo pipefail

cd "$1"
fail() { echo "ohif: $*" >&2; exit 1; }

rewrite() {
    local pattern=$1 replacement=$2
    shift 2
    grep -lE -- "$pattern" "$@" >/dev/null || fail "found no '$pattern' in $1: is this another release of OHIF?"
    sed -E -i "s#$pattern#$replacement#g" "$@"
}

# Models for in-browser segmentation (136 MB), source maps, settings for other web servers, and a service worker and an
# analytics snippet that would ask hosts outside the clinic.
rm -rf ort _headers _redirects serve.json silent-refresh.html google.js sw.js
find . -name '*.map' -delete

rewrite 'href="/' 'href="/ohif/' index.html
rewrite 'src="/' 'src="/ohif/' index.html
rewrite 'PUBLIC_URL="/"' 'PUBLIC_URL="/ohif/"' index.html
rewrite '"src": "/' '"src": "/ohif/' manifest.json
rewrite '__webpack_require__\.p = "/"' '__webpack_require__.p = "/ohif/"' ./*.js
rewrite 'url\(/' 'url(/ohif/' ./*.css
printf '%s\n' '// No service worker: the appliance is the cache.' >init-service-worker.js
