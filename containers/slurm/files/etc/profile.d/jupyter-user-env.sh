# shellcheck shell=sh
# JupyterLab's terminals are login shells, for which /etc/profile has just reset PATH: the server's environment comes first.
[ -z "${VIRTUAL_ENV:-}" ] || PATH=$VIRTUAL_ENV/bin:$PATH
export LANG="${LANG:-C.UTF-8}"
