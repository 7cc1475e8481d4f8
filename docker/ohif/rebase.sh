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

# Puts one text in the place of another, which has to be there exactly once.
repair() {
    local old=$1 new=$2 file=$3
    [ "$(grep -cF -- "$old" "$file")" = 1 ] || fail "'$old' is not on one line of $file: is this another release of OHIF?"
    OLD=$old NEW=$new perl -pi -e 's/\Q$ENV{OLD}\E/$ENV{NEW}/' "$file"
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

# DICOM JSON leaves "Value" out where an attribute is empty, and has null for an empty value among others (PS3.18 F.2.5).
# One such study or instance would end the viewer's whole list, or the study that it is in.
repair 'i < ModalitiesInStudy.Value.length;' 'i < (ModalitiesInStudy.Value || []).length;' app.bundle.*.js
repair 'if (element.Value[0].Alphabetic) {' 'if (element.Value[0]?.Alphabetic) {' app.bundle.*.js
repair 'obj[key].Value[0].BulkDataURI) {' 'obj[key].Value[0]?.BulkDataURI) {' 89.bundle.*.js
# The list asks for the modality of a study, which has none: Orthanc would read a file for each row. The modalities in the
# study are answered without being asked for.
repair "'00080060'," '' 89.bundle.*.js

printf '%s\n' '// No service worker: the appliance is the cache.' >init-service-worker.js
