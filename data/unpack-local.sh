#!/bin/sh
# Unpacks the sample, song-data.zip and log-data.zip, into song_data and log_data beside this script,
# laid out as in S3. A folder that is there already is left alone, so this can run again at any time.
set -eu
cd "$(dirname "$0")"

unpacked=
kept=
unfinished=
trap 'rm -rf "$unfinished"' EXIT
trap 'exit 130' HUP INT TERM

fail() {
    echo "unpack-local.sh: error: $1" >&2
    exit 1
}

if command -v unzip >/dev/null; then
    extract() { unzip -q "$1" -d "$2"; }
elif command -v python3 >/dev/null; then
    extract() { python3 -m zipfile -e "$1" "$2"; }
else
    fail "neither unzip nor python3 is installed: install one of them and run this again"
fi

# A folder gets its name only when it is whole: it is unpacked elsewhere, and then renamed.
unpack() { # ZIP FOLDER
    if [ -d "$2" ]; then
        kept="$kept $2"
        [ -z "$(find "$1" -newer "$2")" ] || kept="$kept (older than $1: delete it to get the new one)"
        return
    fi
    [ -f "$1" ] || fail "$PWD/$1 is missing: git checkout -- data/$1 restores it"
    unfinished=$(mktemp -d ./.unpacking.XXXXXX)
    extract "$1" "$unfinished" 2>"$unfinished/errors" ||
        fail "$PWD/$1 cannot be unpacked: $(tr -s '[:space:]' ' ' <"$unfinished/errors" | cut -c 1-200)"
    mv "$unfinished/$2" "$2"
    rm -rf "$unfinished"
    unpacked="$unpacked $2 ($(find "$2" -type f | wc -l | tr -d ' ') files)"
}

unpack song-data.zip song_data
unpack log-data.zip log_data
echo "$PWD: unpacked${unpacked:- nothing}${kept:+; left as they were:$kept}"
