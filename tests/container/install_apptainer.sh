#!/usr/bin/env bash
# Apptainer for the container tests, on Debian (amd64) as root. Does nothing where it is there already.
#
# Debian 12 and 13 have no package of it; sid has one, for a newer libc. That package's two programs
# run here on sid's libc, kept in a folder of its own: the system's libc and its sources of packages
# stay as they are.
set -euo pipefail
umask 022

LIBC=/opt/apptainer-libc
PARTS=/usr/lib/x86_64-linux-gnu/apptainer
TOOLS=(ca-certificates mmdebstrap patchelf squashfs-tools uidmap)

refuse() {
  echo "error: the container tests cannot run here: $*" >&2
  exit 1
}

[[ $(id -u) == 0 ]] || refuse "installing Apptainer and building images take root"
command -v apt-get >/dev/null || refuse "Apptainer is installed through apt-get, which is missing"
[[ $(dpkg --print-architecture) == amd64 ]] || refuse "Apptainer is installed for amd64 only"

missing=()
for tool in "${TOOLS[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$tool" 2>/dev/null | grep -qx installed || missing+=("$tool")
done
if ((${#missing[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! apptainer --version >/dev/null 2>&1; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m 1 -v security)
  mkdir -p "$work"/{lists,archives}/partial "$work"/{apptainer,libc}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" \
    >"$work/sources.list"
  # lists and archives of its own
  sid=(-qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=-
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=root)
  apt-get "${sid[@]}" update
  (cd "$work" && apt-get "${sid[@]}" download apptainer libc6)
  dpkg-deb -x "$work"/apptainer_*.deb "$work/apptainer"
  dpkg-deb -x "$work"/libc6_*.deb "$work/libc"
  rm -rf "$LIBC"
  cp -a "$work/libc" "$LIBC"
  libraries=$LIBC/usr/lib/x86_64-linux-gnu
  for program in /usr/bin/apptainer "$PARTS/bin/starter"; do
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --set-rpath "$libraries" \
      "$work/apptainer$program"
    install -D -m 755 "$work/apptainer$program" "$program"
  done
  cp -a "$work/apptainer/etc/apptainer" /etc/
  mkdir -p "$PARTS/lib" /var/lib/apptainer/mnt/session
fi

# a root with less than every capability cannot hand all of them on, as Apptainer does by default
full=$(printf '%x' $(((1 << ($(cat /proc/sys/kernel/cap_last_cap) + 1)) - 1)))
grep -qi "^CapPrm:.*$full\$" /proc/self/status ||
  apptainer config global --set "root default capabilities" no
# builds with --fakeroot map these users
for file in /etc/subuid /etc/subgid; do
  grep -qs '^root:' "$file" || echo 'root:200000:65536' >>"$file"
done
apptainer --version
