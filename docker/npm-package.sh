#!/usr/bin/env bash
# Unpacks an npm package after comparing it with its pinned digest (usage: npm-package.sh NAME@VERSION SHA512 FOLDER).
set -euo pipefail

[ $# = 3 ] || { echo "usage: ${0##*/} NAME@VERSION sha512-DIGEST FOLDER" >&2; exit 2; }
package=$1 integrity=$2 folder=$3

mkdir -p "$folder"
cd "$folder"
archive=$(npm pack --silent --prefer-offline "$package")
actual="sha512-$(openssl dgst -sha512 -binary "$archive" | base64 -w 0)"
if [ "$actual" != "$integrity" ]; then
    echo "$package has the digest $actual and not the pinned $integrity: it was changed, do not use it" >&2
    exit 1
fi
tar -x -z -f "$archive" --strip-components=1 --no-same-owner --exclude='*.map' --exclude='package/dist/ort'
rm "$archive"
