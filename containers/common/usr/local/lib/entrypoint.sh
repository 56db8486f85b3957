#!/bin/sh
# What the containers' entrypoints have in common; they source it with `container` set to the container's name in the pod.
set -eu

credentials=/run/credentials/${container:?}
private=/run/$container
scan=/run/service

# Whatever modes the Secret's files have, only root gets at them. A container that is started again begins anew.
chmod 0700 /run/credentials
rm -rf "$private" "$scan" /run/exit-status

# podman before 5 mounts a Secret's base64 text, later versions the bytes: the key `format` is `plain` in clear or not.
case $(cat "$credentials/format") in
    plain) decode='cat' ;;
    *) decode='base64 --decode' ;;
esac

# secret KEY TARGET [MODE [OWNER]]: a copy of the Secret's KEY that OWNER (root) alone can write, and (0400) read.
secret() {
    install -m "${3:-0400}" -o "${4:-root}" -g "${4:-root}" /dev/null "$2"
    $decode <"$credentials/$1" >"$2"
}

# prepare_munge: what munged, a service of common's, needs. A socket of before would look like one that answers.
prepare_munge() {
    secret munge_key /etc/munge/munge.key 0400 munge
    rm -rf /run/munge
    install -d -o munge -g munge /run/munge
}

# service RUN NAME LOGS OWNER: a service that s6 runs, and its logger, which as OWNER writes to LOGS/NAME.
service() {
    mkdir -p "$scan/$2/log"
    ln -s "/usr/local/lib/s6/$1" "$scan/$2/run"
    ln -s /usr/local/lib/s6/finish "$scan/$2/finish"
    ln -s /usr/local/lib/s6/log "$scan/$2/log/run"
    install -d -o "$4" -g "$4" "$3/$2"
    ln -s "$3/$2" "$scan/$2/log/main"
}

# supervise: become the supervisor of the services.
supervise() {
    ln -s /usr/local/lib/s6/svscan "$scan/.s6-svscan"
    exec s6-svscan "$scan"
}
