#!/bin/sh
# Functions for the containers' entrypoints. They source this file with `container` set to their container's name.
set -eu

credentials=/run/credentials/${container:?}
private=/run/$container
scan=/run/service

# Only root can read the Secret's files, whatever modes they have. A restarted container begins with empty folders.
chmod 0700 /run/credentials
rm -rf "$private" "$scan" /run/exit-status

# podman before 5 mounts a Secret's base64 text, later versions the bytes: the key `format` is `plain` in clear or not.
case $(cat "$credentials/format") in
    plain) decode='cat' ;;
    *) decode='base64 --decode' ;;
esac

for key in "$credentials"/*; do
    [ "$(head -c 8 "$key")" != REPLACE ] || { echo "Secret of $container: ${key##*/} is not filled in" >&2; exit 1; }
done

# secret KEY TARGET [MODE [OWNER]]: a copy of the Secret's KEY that OWNER (root) alone can write, and (0400) read.
secret() {
    install -m "${3:-0400}" -o "${4:-root}" -g "${4:-root}" /dev/null "$2"
    $decode <"$credentials/$1" >"$2"
}

# prepare_munge: the key and folder of munged. A socket left from an earlier start would look like a running munged.
prepare_munge() {
    secret munge_key /etc/munge/munge.key 0400 munge
    rm -rf /run/munge
    install -d -o munge -g munge /run/munge
}

# slurm_address: the address that Slurm's services listen on. Empty: all addresses, as in a cluster, where probes come
# from outside the pod.
slurm_address() {
    [ -n "${KUBERNETES_SERVICE_HOST:-}" ] || echo "${DEPLOY_CONFIG_SLURM_ADDRESS:-}"
}

# service NAME LOGS OWNER [RUN]: define the service NAME, started by the script RUN (default: NAME). Its logger runs as
# OWNER and writes to LOGS/NAME, which jobs can't read.
service() {
    mkdir -p "$scan/$1/log"
    ln -s "/usr/local/lib/s6/${4:-$1}" "$scan/$1/run"
    ln -s /usr/local/lib/s6/finish "$scan/$1/finish"
    ln -s /usr/local/lib/s6/log "$scan/$1/log/run"
    install -d -m 0750 -o "$3" -g "$3" "$2/$1"
    ln -s "$2/$1" "$scan/$1/log/main"
}

# stop_in_order STEP...: stop the services of each STEP (names or patterns, separated by spaces) before those of the next
# when the container is stopped. By default all stop at once.
stop_in_order() {
    printf '%s\n' "$@" >"$scan/.stop-order"
}

# supervise: become the supervisor of the services.
supervise() {
    ln -s /usr/local/lib/s6/svscan "$scan/.s6-svscan"
    exec s6-svscan "$scan"
}
