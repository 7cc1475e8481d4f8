#!/usr/bin/env bash
# Changes OHIF's bundle, which is built for /, so that it works below /ohif/ (usage: rebase.sh DIST_FOLDER).
#
# Every rewrite must find its text, so that an OHIF release with another structure breaks the image's build, and not the
# viewer.
set -euo pipefail

cd "$1"
fail() { echo "ohif: $*" >&2; exit 1; }

rewrite() {
    local pattern=$1 replacement=$2
    shift 2
    grep -lE -- "$pattern" "$@" >/dev/null || fail "found no '$pattern' in $1: is this another release of OHIF?"
    sed -E -i "s#$pattern#$replacement#g" "$@"
}

# Replaces one text by another. The old text has to be there exactly once.
repair() {
    local old=$1 new=$2 file=$3
    [ "$(grep -cF -- "$old" "$file")" = 1 ] || fail "'$old' is not on one line of $file: is this another release of OHIF?"
    OLD=$old NEW=$new perl -pi -e 's/\Q$ENV{OLD}\E/$ENV{NEW}/' "$file"
}

# Removes models for in-browser segmentation (136 MB), source maps, settings for other web servers, and a service worker
# and an analytics snippet that would contact hosts outside the clinic.
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

# DICOM JSON omits "Value" if an attribute is empty, and has null for an empty value among others (PS3.18 F.2.5). One such
# study would break the viewer's whole list, and one such instance its study.
repair 'i < ModalitiesInStudy.Value.length;' 'i < (ModalitiesInStudy.Value || []).length;' app.bundle.*.js
repair 'if (element.Value[0].Alphabetic) {' 'if (element.Value[0]?.Alphabetic) {' app.bundle.*.js
repair 'obj[key].Value[0].BulkDataURI) {' 'obj[key].Value[0]?.BulkDataURI) {' 89.bundle.*.js
# The list asks for the attribute Modality of a study, which studies lack: Orthanc would read a file for each row. Orthanc
# returns ModalitiesInStudy without being asked.
repair "'00080060'," '' 89.bundle.*.js

printf '%s\n' '// No service worker: the appliance is the cache.' >init-service-worker.js
