#!/bin/sh
# Makes a virtual environment, if need be, and installs requirements: ENVIRONMENT [FILE [HOW-MUCH]]
set -eu
. "$(dirname "$0")/steps.sh"
environment=$1 requirements=${2:-} how_much=${3:-}

is_new_enough='import sys
sys.version_info >= (3, 9) or sys.exit("it is Python %d.%d" % sys.version_info[:2])'

find_python() { # that Spark 3.5 runs on and that can make environments, the best known first
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.11 python3.10 python3.12 python3.9 python3
    fi
    for python in "$@"; do
        if "$python" -c "$is_new_enough; import ensurepip, venv" >/dev/null 2>&1; then
            return
        fi
    done
    false
}

make_environment() {
    if [ -n "${PYTHON:-}" ]; then
        why=$("$PYTHON" -c "$is_new_enough" 2>&1) ||
            fail "PYTHON=$PYTHON cannot be used: $(echo "$why" | tail -n 1);" \
                "name one of 3.9 or newer"
    fi
    start_log
    if ! find_python && may_install; then
        step "Python: apt-get installs python3-venv"
        install_package python3-venv || fail "python3-venv could not be installed: $(reason)"
    fi
    find_python ||
        fail "no Python 3.9 or newer can make a virtual environment: install python3-venv" \
            "(Debian, Ubuntu; else https://www.python.org) or name one with PYTHON=...," \
            "and run this again"
    step "Python: $environment with $("$python" --version)"
    # Cleared, because an interrupted one, or one whose Python has gone, cannot be mended.
    quietly "$python" -m venv --clear "$environment" ||
        fail "$environment could not be made: $(reason)"
    rm -f "$log"
}

install_requirements() {
    step "Packages: $requirements into $environment${how_much:+ (the first time $how_much)}"
    start_log "$environment"
    quietly "$environment/bin/python" -m pip install --disable-pip-version-check --no-input \
        --progress-bar off -r "$requirements" ||
        fail "not all of $requirements could be installed, mend that and run this again: $(reason)"
}

if ! "$environment/bin/python" -c 'import pip' >/dev/null 2>&1; then
    make_environment
elif [ -z "$requirements" ]; then
    step "Python: $environment with $("$environment/bin/python" --version)"
fi
if [ -n "$requirements" ]; then
    install_requirements
fi
