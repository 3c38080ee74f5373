#!/bin/sh
# Archives the classes that a run loads, so that each later run takes 4 s less.
# Its argument is the virtual environment whose Spark it is, and where the archive is kept.
set -eu
environment=$(cd "$1" && pwd)
work=$(mktemp -d "$environment/.archive.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM

echo "recording the classes of a run in $1/spark.jsa (half a minute, once)" >&2
sh data/unpack-local.sh >/dev/null

# It gets its name only when it is whole: Java crashes on a part of one.
archive=$work/spark.jsa
run() {
    PATH="$environment/bin:$PATH" SPARK_LOCAL_IP=127.0.0.1 spark-submit --conf spark.ui.enabled=false \
        --driver-java-options "-XX:TieredStopAtLevel=1 \"-XX:ArchiveClassesAtExit=$archive\"" \
        etl.py --song-data data/song_data --log-data data/log_data --output "$work/lake"
}
if run >"$work/log" 2>&1 && [ -s "$archive" ]; then
    mv -f "$archive" "$environment/spark.jsa"
else
    echo "setup-archive.sh: no archive was made, and runs start without one: $(tail -n 1 "$work/log")" >&2
fi
