#!/bin/sh
# What the tunnel's container runs: the client, again whenever the tunnel has ended.
set -eu
umask 077
credentials=/run/credentials/zenith-client
private=$(mktemp -d)
# podman before 5 mounts a Secret's base64 text, later versions the bytes: the key `format` is `plain` in clear or not.
case $(cat "$credentials/format") in
    plain) decode='cat' ;;
    *) decode='base64 --decode' ;;
esac
for key in "$credentials"/*; do
    [ "$(head -c 8 "$key")" != REPLACE ] || { echo "Secret of zenith-client: ${key##*/} is not filled in" >&2; exit 1; }
done
for name in zenith_key zenith_config; do $decode <"$credentials/$name" >"$private/$name"; done
$decode <"$credentials/zenith_public_key" >"$private/zenith_key.pub"

export ZENITH_CLIENT_CONFIG="$private/zenith_config"
export ZENITH_CLIENT__SSH_IDENTITY_PATH="$private/zenith_key"
export ZENITH_CLIENT__SERVER_ADDRESS="$DEPLOY_CONFIG_ZENITH_SERVER_ADDRESS"
export ZENITH_CLIENT__SERVER_PORT="$DEPLOY_CONFIG_ZENITH_SERVER_PORT"
export ZENITH_CLIENT__FORWARD_TO_HOST=127.0.0.1
export ZENITH_CLIENT__FORWARD_TO_PORT=8000

# Where the image has it, if it isn't on its PATH.
PATH="$PATH:/venv/bin"
# In the background, so that the shell, which is the container's first process, hears of SIGTERM while it waits.
trap 'exit 0' TERM INT
while :; do
    zenith-client connect &
    wait "$!" || echo "zenith-client ended with exit status $?" >&2
    sleep 5 &
    wait "$!"
done
