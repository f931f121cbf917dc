#!/usr/bin/env bash
# Debian packages for development and for the tests marked "external". None is needed by `make demo`.
#   redis-server   preferred over the embedded Redis when it is on PATH
#   orthanc        a real PACS to send results to
#   dcmtk          a modality and a second archive that are not ours: storescu, storescp, dcmdump, dsrdump
#   postgresql     the ledger's database when hosts are many
# Installs what is missing when it may (root and apt-get); otherwise it says what is missing and exits with 1.
set -u
declare -A packages=(
    [redis-server]=redis-server
    [Orthanc]=orthanc
    [storescu]=dcmtk
    [pg_ctl]=postgresql
)
missing=()
for program in "${!packages[@]}"; do
    if ! command -v "$program" >/dev/null && ! compgen -G "/usr/lib/postgresql/*/bin/$program" >/dev/null \
        && ! [ -x "/usr/sbin/$program" ]; then
        missing+=("${packages[$program]}")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed: ${missing[*]}; tests that need them will skip. As root: apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Services must not start on installation: tests start their own, on free loopback ports.
policy=/usr/sbin/policy-rc.d
created=0
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && created=1
fi
apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
status=$?
[ "$created" -eq 1 ] && rm -f "$policy"
[ $status -eq 0 ] || echo "could not install ${missing[*]}; tests that need them will skip" >&2
exit $status
