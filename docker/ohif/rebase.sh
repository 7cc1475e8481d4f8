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

# The page's inline scripts become a file, so that the edge's policy can refuse every inline script.
rewrite '<script>console\.time\("scriptToView"\),window\.PUBLIC_URL="/"</script>' '<script src="/setup.js"></script>' index.html
rewrite '<script>function browserImportFunction\(n\)\{return import\(n\)\}window\.PUBLIC_URL="/"</script>' '' index.html
if grep -q '<script>' index.html; then fail 'index.html still holds an inline script: is this another release of OHIF?'; fi
cat >setup.js <<'SCRIPT'
console.time('scriptToView');
window.PUBLIC_URL = '/ohif/';
function browserImportFunction(address) {
  return import(address);
}
SCRIPT

rewrite 'href="/' 'href="/ohif/' index.html
rewrite 'src="/' 'src="/ohif/' index.html
rewrite '"src": "/' '"src": "/ohif/' manifest.json
rewrite '__webpack_require__\.p = "/"' '__webpack_require__.p = "/ohif/"' ./*.js
rewrite 'url\(/' 'url(/ohif/' ./*.css
printf '%s\n' '// No service worker: the appliance is the cache.' >init-service-worker.js
