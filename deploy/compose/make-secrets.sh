#!/usr/bin/env bash
# Makes the passwords of compose.yaml, each once: what is there already stays.
#   make-secrets.sh [FOLDER]      FOLDER: secrets, beside this script
# The folder is its owner's alone. The files in it can be read by all, since each container has a user of its own.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
umask 022
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"
password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { # NAME: standard input becomes the file, unless it is there
    if [ ! -e "$1" ]; then
        cat >"$1.part"
        mv "$1.part" "$1"
    else
        cat >/dev/null
    fi
}
password | keep database_password
printf 'postgresql+psycopg://node:%s@postgres:5432/node\n' "$(cat database_password)" | keep database_url
password | keep redis_password
printf 'redis://:%s@redis:6379/0\n' "$(cat redis_password)" | keep broker_url
# What Redis forgets the node submits again, so nothing is kept on disk, and nothing is ever thrown out to make room.
keep redis.conf <<END
bind * -::*
requirepass $(cat redis_password)
save ""
appendonly no
maxmemory 256mb
maxmemory-policy noeviction
END
password | keep orthanc_password
keep orthanc-users.json <<END
{ "AuthenticationEnabled": true, "RegisteredUsers": { "admin": "$(cat orthanc_password)" } }
END
password | keep grafana_password
echo "secrets are in $PWD; users of the web pages: Orthanc and OHIF admin, orthanc_password; Grafana admin, grafana_password"
