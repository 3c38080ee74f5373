#!/bin/sh
# Finds Java 17 or newer, or installs it, and prints the JAVA_HOME to run Spark with.
# It prints nothing where the java on the PATH will do.
set -eu

is_new_enough() { # $1: a java command
    major=$("$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 17 ]
}

say() { echo "setup-java.sh: $*" >&2; }

if [ -n "${JAVA_HOME:-}" ] && is_new_enough "$JAVA_HOME/bin/java"; then
    echo "$JAVA_HOME"
    exit
fi
if command -v java >/dev/null && is_new_enough java; then
    exit # the PATH has it, whatever JAVA_HOME said
fi

if command -v brew >/dev/null; then
    say "no Java 17 or newer: installing openjdk@17 with Homebrew"
    brew install openjdk@17 >&2
    echo "$(brew --prefix openjdk@17)/libexec/openjdk.jdk/Contents/Home"
elif command -v apt-get >/dev/null; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    say "no Java 17 or newer: installing one with apt-get"
    $as_root apt-get update -qq >&2
    $as_root apt-get install -qq -y openjdk-17-jre-headless >&2 ||
        $as_root apt-get install -qq -y openjdk-21-jre-headless >&2
else
    say "Spark needs Java 17 or newer: install it (https://adoptium.net), set JAVA_HOME to its folder," \
        "and run this again"
    exit 1
fi
