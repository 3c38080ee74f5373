#!/bin/sh
# Makes a virtual environment, if need be, and installs requirements into it: FOLDER REQUIREMENTS
set -eu
venv=$1 requirements=$2

find_python() { # the Pythons that Spark 3.5 runs on, the best known first
    for name in ${PYTHON:-python3.11 python3.10 python3.12 python3.9 python3}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "setup-venv.sh: Python 3.9 or newer is needed: install it, or name one with PYTHON=..." >&2
    exit 1
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip' 2>/dev/null && command -v apt-get >/dev/null; then
        # Debian and Ubuntu keep what venv needs in a package of its own.
        as_root=$([ "$(id -u)" = 0 ] || echo sudo)
        $as_root apt-get update -qq >&2
        $as_root apt-get install -qq -y python3-venv >&2
    fi
    echo "making $venv with $("$python" --version)" >&2
    "$python" -m venv "$venv"
fi
echo "installing $requirements into $venv (the first time takes a minute)" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
