# launch SCRIPT HOME LOG SECONDS [MINUTES]: let launcher.py run SCRIPT, this one, again, from here on. $python is what runs it.
launch() {
    if [ -n "${JUPYTERHUB_LAUNCHED-}" ]; then
        export JUPYTERHUB_SERVICE_URL=$JUPYTERHUB_LAUNCHED
        unset JUPYTERHUB_LAUNCHED
        return
    fi
    exec "${python:-python3}" -I -S - "$@" <<'END_OF_LAUNCHER'
{launcher}
END_OF_LAUNCHER
}
