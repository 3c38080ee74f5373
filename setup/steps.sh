# What the scripts of this folder share: one line a step, and other programs' output in a log.

step() { echo "${STEP:+$STEP }$*" >&2; }

fail() {
    echo "setup/$(basename "$0"): error: $*" >&2
    [ -s "${log:-}" ] || rm -f "${log:-}"
    exit 1
}

start_log() { # [ENVIRONMENT]: a new log in it, or a temporary one
    log=${1:+$1/setup.log}
    log=${log:-$(mktemp "${TMPDIR:-/tmp}/sparkify-setup.XXXXXX")}
    : >"$log"
}

quietly() { # COMMAND...: run it with its output in the log
    "$@" >>"$log" 2>&1
}

reason() { # the last error in the log or, where no line is one, the last line
    found=$(grep -iE '^(error|e|fatal):' "$log" | tail -n 1)
    echo "${found:-$(tail -n 1 "$log")} (all of it: $log)"
}

may_install() { # whether this user can have Debian's packages installed
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }
}

install_package() { # PACKAGE: without what it only recommends, and without questions
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    quietly $as_root apt-get update &&
        quietly $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends -o Dpkg::Use-Pty=0 "$1"
}
