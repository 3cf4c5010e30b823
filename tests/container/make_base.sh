#!/usr/bin/env bash
# A Debian 12 with Python 3.11 as a folder, for envs/build_image.sh to build upon: a base image that
# needs Debian's mirror and no registry. Does nothing where it is there already.
set -euo pipefail

base=${1:?the folder to make}
[[ ! -x $base/usr/bin/python3 ]] || exit 0
work=$(mktemp -d "$(mkdir -p "$(dirname "$base")" && realpath "$(dirname "$base")")/base.XXXXXX")
trap 'rm -rf "$work"' EXIT
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m 1 -v security)
mmdebstrap --quiet --variant=essential --include=python3-venv,libstdc++6 --dpkgopt=force-unsafe-io \
  bookworm "$work/root" "$mirror"
rm -rf "$work/root/dev" "$work/root/var/cache/apt/archives"  # a build without full rights makes no devices
mkdir "$work/root/dev"
mv "$work/root" "$base"
