#!/usr/bin/env bash
# Puts OHIF, the web viewer that the tests open results in, into a folder:  install-ohif.sh FOLDER
# The exact version comes from the npm registry and is unpacked only if it has the digest below; nothing of it is run
# here. Without npm the tests that need OHIF skip, so this says so and exits with 0.
set -eu
version=3.13.2
sha256=b189d3963bfc58e9394a9db8c7be75d07beb029ec211dbb126d47b62969dd3f1
folder=$1
if [ "$(cat "$folder/VERSION" 2>/dev/null)" = "$version" ]; then
    exit 0
fi
if ! command -v npm >/dev/null; then
    echo "npm is not installed: OHIF $version stays away and the tests that open results in it will skip" >&2
    exit 0
fi
echo "fetching OHIF $version (50 MB)"
mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
if ! npm pack --silent --pack-destination "$work" "@ohif/app@$version" >/dev/null; then
    echo "OHIF $version could not be fetched; the tests that open results in it will skip" >&2
    exit 0
fi
if ! echo "$sha256  $work/ohif-app-$version.tgz" | sha256sum --check --quiet; then
    echo "OHIF $version is not the file that was pinned: it was not unpacked" >&2
    exit 1
fi
tar -xzf "$work/ohif-app-$version.tgz" -C "$work" package/dist package/LICENSE
rm -rf "$folder/dist"
mv "$work/package/dist" "$work/package/LICENSE" "$folder/"
echo "$version" >"$folder/VERSION"
