#!/usr/bin/env bash
# Installs the node on a Debian machine, or brings an installed one to the version beside this script. Say it again as often
# as you like: what is there already stays, settings and data above all.
#
#   sudo deploy/install.sh [--workers N] [--no-services] [--retraining] [--postgresql] [--dry-run]
#   sudo deploy/install.sh --uninstall
#
#   --workers N      explanation workers on this machine, one for each GPU; 0: none, and no PyTorch (default: 1)
#   --no-services    workers only: no listener, dispatcher, sender, retention and web; --services: with them again
#   --retraining     the worker of retraining jobs too; --no-retraining: without it again
#   --postgresql     the ledger in PostgreSQL on this machine, in place of SQLite; only at the first installation
#   --python PATH    Python 3.11 or newer (default: python3)
#   --prefix DIR     everything below DIR, as it would lie below /: to look at it. No Debian packages, no user, no systemd
#   --dry-run        say what would be done, and do nothing
#   --uninstall      remove program and units; settings, data and the user stay
#
# /opt/dicom-node        the program: a link to the version that runs, in /opt/dicom-node-releases; the one before stays there
# /usr/local/bin/dicom-node   the program with the settings of this machine
# /etc/dicom-node        settings        /var/lib/dicom-node    images, results, ledger, models, audit trail
#
# What was said of workers, services, retraining and Python is remembered in /etc/dicom-node/install.options: an upgrade needs no
# option. What is said again holds from then on, and units that it leaves out are stopped.
set -Eeuo pipefail
umask 022

workers='' services='' retraining='' postgresql=no python='' prefix='' dry=no uninstall=no
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
say() { echo "install: $*"; }
fail() {
    echo "install: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
        --workers | --python | --prefix) [ $# -ge 2 ] || fail "$1 needs a value" ;;&
        --workers) workers=$2 && shift ;;
        --python) python=$2 && shift ;;
        --prefix) prefix=${2%/} && shift ;;
        --no-services) services=no ;;
        --services) services=yes ;;
        --retraining) retraining=yes ;;
        --no-retraining) retraining=no ;;
        --postgresql) postgresql=yes ;;
        --dry-run) dry=yes ;;
        --uninstall) uninstall=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "$1: no such option; --help lists them" ;;
    esac
    shift
done
[ -z "$workers" ] || [[ $workers =~ ^[0-9]+$ ]] || fail "--workers $workers: a number is needed"
case $prefix in '' | /*) ;; *) fail "--prefix $prefix: give a path that begins with /" ;; esac
if [ -z "$prefix" ] && [ "$dry" = no ] && [ "$(id -u)" -ne 0 ]; then
    fail "run it as root, or with --dry-run or --prefix"
fi

source=$(cd "$(dirname "$0")/.." && pwd)
program=$prefix/opt/dicom-node
releases=$prefix/opt/dicom-node-releases
settings=$prefix/etc/dicom-node
data=$prefix/var/lib/dicom-node
units=$prefix/etc/systemd/system
command=$prefix/usr/local/bin/dicom-node
options=$settings/install.options

run() { # a command, or its words
    if [ "$dry" = yes ]; then
        printf 'would run:'
        printf ' %q' "$@"
        echo
    else
        "$@"
    fi
}
put() { # FILE MODE: standard input becomes the file, with the paths of the prefix
    if [ "$dry" = yes ]; then
        cat >/dev/null
        echo "would write: $1"
        return
    fi
    mkdir -p "$(dirname "$1")"
    sed -E "s#(^|[^[:alnum:]_./-]|sqlite:///)/(opt|etc|var/lib)/dicom-node#\1$prefix/\2/dicom-node#g" >"$1.part"
    chmod "$2" "$1.part"
    mv "$1.part" "$1"
}
is_ours() { [ "$(readlink "$command" || true)" = "$program/share/dicom-node.sh" ]; }
has_systemd() { [ -z "$prefix" ] && [ -d /run/systemd/system ]; }
as_node() { # a command as the node's user
    if [ -z "$prefix" ]; then run runuser -u dicom-node -- "$@"; else run "$@"; fi
}

if [ "$uninstall" = yes ]; then
    if has_systemd; then
        run systemctl disable --now dicom-node.target 'dicom-node@*.service' 'dicom-node-worker@*.service' \
            dicom-node-shadow.service dicom-node-retraining.service || true
    fi
    run rm -rf "$program" "$releases" "$units"/dicom-node{,@,-worker@,-shadow,-retraining}.service \
        "$units"/dicom-node.{target,slice} "$units"/dicom-node-.service.d/sandbox.conf \
        "$prefix"/etc/sysusers.d/dicom-node.conf "$prefix"/etc/tmpfiles.d/dicom-node.conf
    if is_ours; then run rm -f "$command"; fi
    if has_systemd; then run systemctl daemon-reload; fi
    say "removed. Kept: $settings, $data, and the user dicom-node"
    exit 0
fi

# 0. What this machine is for, as it was said now, or before
unwanted=()
[ "$services" != no ] || unwanted+=(dicom-node@{listener,dispatcher,sender,retention,web}.service)
[ "$retraining" != no ] || unwanted+=(dicom-node-retraining.service)
if [ -n "$workers" ]; then
    for unit in "$units"/dicom-node.target.wants/dicom-node-worker@*.service; do
        number=${unit##*@} number=${number%.service}
        if [[ $number =~ ^[0-9]+$ ]] && [ "$number" -ge "$workers" ]; then unwanted+=("${unit##*/}"); fi
    done
fi
for option in workers services retraining python; do
    if [ -z "${!option}" ] && [ -f "$options" ]; then
        printf -v "$option" %s "$(sed -n "s#^$option=##p" "$options")"
    fi
done
workers=${workers:-1} services=${services:-yes} retraining=${retraining:-no} python=${python:-python3}
say "workers: $workers, services: $services, retraining: $retraining"

extras=admin,postgres,s3,tracing
[ "$workers" -eq 0 ] || extras+=,onnx,worker
[ "$retraining" = no ] || extras+=,training

# 1. Debian packages and the user
if [ -z "$prefix" ]; then
    packages=(python3-venv redis-server libfribidi0)
    [ "$postgresql" = no ] || packages+=(postgresql)
    missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        command -v apt-get >/dev/null || fail "no apt-get here: install what is called ${missing[*]} in Debian, then try again"
        run apt-get update -qq
        run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    fi
    if ! getent passwd dicom-node >/dev/null; then
        run useradd --system --user-group --home-dir /var/lib/dicom-node --no-create-home --shell /usr/sbin/nologin dicom-node
    fi
    run install -d -m 0700 -o dicom-node -g dicom-node "$data"
    run install -d -m 0750 -o root -g dicom-node "$settings" "$settings/secrets"
else
    run install -d -m 0700 "$data"
    run install -d -m 0750 "$settings" "$settings/secrets"
fi

# 2. The program, beside the one that runs
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is no Python 3.11 or newer: --python PATH"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/pyproject.toml")
digest=$(cd "$source" && find dicom_node explain_core training pyproject.toml constraints.txt -type f ! -name '*.pyc' -print0 |
    sort -z | xargs -0 sha256sum | { cat && echo "$extras $python"; } | sha256sum | cut -c1-12)
release=$releases/$version-$digest
if [ -e "$release/complete" ]; then
    say "$release is there already"
else
    run rm -rf "$release"
    run mkdir -p "$releases"
    run "$python" -m venv "$release"
    run "$release/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$source/constraints.txt" \
        "${source}[$extras]"
    run install -D -m 0644 "$source/docs/deploy.md" "$release/share/deploy.md"
    run touch "$release/complete"
fi
put "$release/share/dicom-node.sh" 0755 <"$source/deploy/dicom-node.sh"
run mkdir -p "${command%/*}"
if is_ours || [ ! -e "$command" ]; then
    run ln -sfn "$program/share/dicom-node.sh" "$command"
else
    say "$command is not this script's: it stays as it is"
fi

# 3. Settings, once
if [ ! -e "$settings/node.toml" ]; then
    database='sqlite:////var/lib/dicom-node/ledger.sqlite'
    [ "$postgresql" = no ] || database='postgresql+psycopg://dicom-node@/dicom-node?host=/run/postgresql'
    sed -E -e "s#^database = \"[^\"]*\"#database = \"$database\"#" -e 's#sqlite:///var/#sqlite:////var/lib/dicom-node/#' \
        -e 's#"var/#"/var/lib/dicom-node/#' "$source/deploy/dicom-node.toml" | put "$settings/node.toml" 0640
    if [ -z "$prefix" ]; then run chgrp dicom-node "$settings/node.toml"; fi
fi
if [ "$postgresql" = yes ] && [ -z "$prefix" ]; then
    if ! runuser -u postgres -- psql -tAc "select 1 from pg_roles where rolname = 'dicom-node'" 2>/dev/null | grep -q 1; then
        run runuser -u postgres -- createuser dicom-node
        run runuser -u postgres -- createdb --owner dicom-node --encoding UTF8 --template template0 dicom-node
    fi
fi

put "$options" 0644 <<EOF
# What deploy/install.sh was told when it last ran; it reads this again.
workers=$workers
services=$services
retraining=$retraining
python=$python
EOF

# 4. Units
for unit in "$source"/deploy/systemd/*.{service,target,slice} "$source"/deploy/systemd/*.d/*.conf; do
    put "$units/${unit#"$source/deploy/systemd/"}" 0644 <"$unit"
done
put "$prefix/etc/sysusers.d/dicom-node.conf" 0644 <"$source/deploy/systemd/dicom-node.sysusers"
put "$prefix/etc/tmpfiles.d/dicom-node.conf" 0644 <"$source/deploy/systemd/dicom-node.tmpfiles"
if has_systemd; then run systemctl daemon-reload; fi

# 5. Stop, bring the ledger to this version's schema after a backup, switch, start again
before=$(readlink "$program" || true)
running=no
if has_systemd && systemctl --quiet is-active dicom-node.target; then running=yes; fi
if [ "$before" != "$release" ]; then
    if [ "$running" = yes ]; then
        trap 'systemctl start dicom-node.target; say "failed: the version before runs on" >&2' ERR
        # The target stops first and its services after it: only what is named here is waited for.
        run systemctl stop dicom-node.target 'dicom-node*.service'
    fi
    as_node env --chdir "$data" DICOM_NODE_CONFIG="$settings/node.toml" RELEASE="$release" \
        "$release/share/dicom-node.sh" migrate
    run ln -sfn "$release" "$program"
    trap - ERR
    for old in "$releases"/*; do
        case $old in "$release" | "$before" | "$releases/*") ;; *) run rm -rf "$old" ;; esac
    done
fi
if has_systemd; then
    enabled=(dicom-node.target)
    if [ "$services" = yes ]; then
        for role in listener dispatcher sender retention web; do enabled+=("dicom-node@$role.service"); done
    fi
    for ((number = 0; number < workers; number++)); do enabled+=("dicom-node-worker@$number.service"); done
    [ "$retraining" = no ] || enabled+=(dicom-node-retraining.service)
    if [ ${#unwanted[@]} -gt 0 ]; then run systemctl disable --quiet --now "${unwanted[@]}"; fi
    run systemctl enable --quiet "${enabled[@]}"
    if [ "$running" = yes ]; then run systemctl start dicom-node.target; fi
fi

say "version $version is in $program"
if [ -z "$before" ]; then
    say "next: edit $settings/node.toml (who may send, where results go), then
  sudo -u dicom-node dicom-node doctor
  sudo systemctl start dicom-node.target"
fi
