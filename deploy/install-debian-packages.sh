#!/usr/bin/env bash
# Debian packages for development and for the tests marked "external". None is needed by `make demo`.
#   redis-server   preferred over the embedded Redis when it is on PATH
#   orthanc        a real PACS to send results to
#   dcmtk          a modality and a second archive that are not ours: storescu, storescp, dcmdump, dsrdump
#   postgresql     the ledger's database when hosts are many
#   orthanc-dicomweb, npm, chromium, fonts-dejavu-core
#                  what opens results in OHIF: DICOMweb, OHIF itself, a browser, and letters for the browser
#   rsyslog, rsyslog-openssl
#                  an audit repository that is not ours: syslog over TLS
#   prometheus     its promtool checks the alert rules in deploy/prometheus
#   systemd        what it says of our units
#   libfribidi0    lays out names in Arabic and Hebrew in pictures; without it they fall back to Latin letters
# Installs what is missing when it may (root and apt-get); otherwise it says what is missing and exits with 1.
set -u
# What each package brings: a program, or a file where the key begins with a slash.
declare -A packages=(
    [redis-server]=redis-server
    [promtool]=prometheus
    [Orthanc]=orthanc
    [/usr/share/orthanc/plugins/libOrthancDicomWeb.so]=orthanc-dicomweb
    [storescu]=dcmtk
    [pg_ctl]=postgresql
    [chromium]=chromium
    [npm]=npm
    [rsyslogd]=rsyslog
    [systemd-analyze]=systemd
    [/usr/share/doc/rsyslog-openssl]=rsyslog-openssl
    [/usr/share/doc/libfribidi0]=libfribidi0
    [/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf]=fonts-dejavu-core
)
there() {
    case $1 in
        /*) [ -e "$1" ] ;;
        *) command -v "$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
    esac
}
missing=()
for key in "${!packages[@]}"; do
    there "$key" || missing+=("${packages[$key]}")
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
