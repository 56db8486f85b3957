# Tab completion for bash, of tasks, their options and the names of environments; to be sourced in a checkout.
# shellcheck shell=bash
# shellcheck source=/dev/null  # Invoke's own: it completes tasks and options, but not the values of options
source <(invoke --print-completion-script bash)

_complete_hubenvs() {
    case $3 in
        -e | --env) mapfile -t COMPREPLY < <(cd envs 2>/dev/null && compgen -d -- "$2") ;;
        *) _complete_invoke "$@" ;;
    esac
}

complete -F _complete_hubenvs -o default invoke inv
