#!/bin/sh
# Archives the Java classes of a run, so that each session of the tests starts 4 s sooner:
# ENVIRONMENT
# It is class-data sharing (https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html).
set -eu
. "$(dirname "$0")/steps.sh"
environment=$(cd "$1" && pwd)
work=$(mktemp -d "$environment/.archive.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
start_log "$environment"

step "Java's classes: recording those of a run in $1/spark.jsa (half a minute, once)"
sh data/unpack-local.sh >/dev/null

# Such an archive builds on Java's own, which a JRE from a wheel comes without.
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
"$java" -Xshare:on -version >/dev/null 2>&1 || quietly "$java" -Xshare:dump || true

# It gets its name only when it is whole: Java crashes on a part of one.
archive=$work/spark.jsa
run() {
    PATH="$environment/bin:$PATH" SPARK_LOCAL_IP=127.0.0.1 \
        spark-submit --conf spark.ui.enabled=false \
        --driver-java-options "-XX:TieredStopAtLevel=1 \"-XX:ArchiveClassesAtExit=$archive\"" \
        etl.py --song-data data/song_data --log-data data/log_data --output "$work/lake"
}
if quietly run && [ -s "$archive" ]; then
    mv -f "$archive" "$environment/spark.jsa"
else
    rm -f "$environment/spark.jsa"
    echo "setup/archive.sh: no archive was made, and the tests run without one: $(reason)" >&2
fi
