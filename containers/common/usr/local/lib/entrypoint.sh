#!/bin/sh
# Functions for the containers' entrypoints. They source this file with `container` set to their container's name, and `user`
# to the user that its services run as (default: root). In a cluster most containers are started as that user already. Then
# nothing changes owner, since volumes and Secrets belong to the user's group.
set -eu

credentials=/run/credentials/${container:?}
private=/run/$container
scan=/run/service
is_root=$([ "$(id -u)" != 0 ] || echo yes)

# give OWNER FILE...: make OWNER the owner of each FILE, which may be a link.
give() {
    owner=$1
    shift
    [ -z "$is_root" ] || chown --no-dereference "$owner:$(id -g "$owner")" "$@"
}

# take_over FOLDER: make `user` the owner of everything in FOLDER, which root or an earlier version may have written.
take_over() {
    [ -z "$is_root" ] || find "$1" ! -user "$user" -exec chown --no-dereference "$user:$(id -g "$user")" {} +
}

# Only root can read the Secret's files, whatever modes they have. A restarted container begins with empty folders.
[ -z "$is_root" ] || chmod 0700 /run/credentials
rm -rf "$private" "$scan"
mkdir -m 0700 "$private"
give "${user:-root}" "$private"

# podman before 5 mounts a Secret's base64 text, later versions the bytes: the key `format` is `plain` in clear or not.
case $(cat "$credentials/format") in
    plain) decode='cat' ;;
    *) decode='base64 --decode' ;;
esac

for key in "$credentials"/*; do
    [ "$(head -c 8 "$key")" != REPLACE ] || { echo "Secret of $container: ${key##*/} is not filled in" >&2; exit 1; }
done

# secret KEY TARGET [MODE [OWNER]]: a copy of the Secret's KEY that OWNER (`user`) alone can write, and (0400) read.
secret() {
    rm -f "$2"
    (umask 077 && $decode <"$credentials/$1" >"$2")
    chmod "${3:-0400}" "$2"
    give "${4:-${user:-root}}" "$2"
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
    # An earlier version's, in a cluster.
    [ -n "$is_root" ] || [ "$(stat -c %u "$2/$1" 2>/dev/null || id -u)" = "$(id -u)" ] || mv "$2/$1" "$2/$1.$(date +%s)"
    mkdir -p "$2/$1"
    chmod 0750 "$2/$1"
    give "$3" "$2/$1"
    ln -s "$2/$1" "$scan/$1/log/main"
}

# stop_in_order STEP...: stop the services of each STEP (names or patterns, separated by spaces) before those of the next
# when the container is stopped. By default all stop at once.
stop_in_order() {
    printf '%s\n' "$@" >"$scan/.stop-order"
}

# supervise: become the supervisor of the services, as `user`.
supervise() {
    mkdir "$scan/.s6-svscan"
    ln -s /usr/local/lib/s6/svscan/* "$scan/.s6-svscan"
    run_as_user s6-svscan "$scan"
}

# run_as_user PROGRAM...: become PROGRAM, as `user`.
run_as_user() {
    [ -n "${user:-}" ] || exec "$@"
    [ ! -e "$scan" ] || take_over "$scan"
    exec /usr/local/lib/s6/as-user "$user" "$@"
}
