"""Songs and events as the app writes them, and folders of them; a test changes what it is about."""

from __future__ import annotations

import datetime
import json

from configs import load_etl_config
from lake.lines import build_log_data, build_song_data
from lake.spark import set_what_results_depend_on
from lake.tables import partitioned_tables, stored_schema

TS = 1_541_105_830_796  # 2018-11-01 20:57:10.796 UTC, a Thursday


def song(**changes):
    """One song file's record."""
    return {
        "num_songs": 1,
        "artist_id": "AR1",
        "artist_latitude": 40.7,
        "artist_longitude": -74.0,
        "artist_location": "New York, NY",
        "artist_name": "The Lines",
        "song_id": "SO1",
        "title": "First Light",
        "duration": 201.5,
        "year": 1999,
        **changes,
    }


def event(**changes):
    """One line of the log: a play of song()."""
    return {
        "artist": "The Lines",
        "auth": "Logged In",
        "firstName": "Ada",
        "gender": "F",
        "itemInSession": 0,
        "lastName": "Moss",
        "length": 201.5,
        "level": "free",
        "location": "Austin-Round Rock, TX",
        "method": "PUT",
        "page": "NextSong",
        "registration": 1541016707796.0,
        "sessionId": 1,
        "song": "First Light",
        "status": 200,
        "ts": TS,
        "userAgent": "Mozilla/5.0",
        "userId": "7",
        **changes,
    }


def text_frame(spark, *texts):
    """What reading text files gives: one row per text, each from a file of its own."""
    # createDataFrame would send the rows through Python processes, which takes a second each time.
    rows = ", ".join(f"('file:///in/{number}.json', ?)" for number in range(len(texts)))
    return spark.sql(f"SELECT * FROM VALUES {rows} AS files(file, line)", args=list(texts))


def song_data(spark, *songs):
    """Song records as the job has them once they are parsed."""
    set_what_results_depend_on(spark)
    return parsed(build_song_data(text_frame(spark, *map(json.dumps, songs))))


def log_data(spark, *events):
    """Events as the job has them once they are parsed."""
    set_what_results_depend_on(spark)
    return parsed(build_log_data(text_frame(spark, *map(json.dumps, events))))


def parsed(records):
    """The records as rows: the job stages them too, so that no filter is pushed into the parser."""
    return records.localCheckpoint()


def rows(frame):
    """A DataFrame's rows in an order of their own, so that a difference reads as a plain diff."""
    return sorted((tuple(row) for row in frame.collect()), key=repr)


def one_row(frame):
    """The only row, as a dict."""
    found = frame.collect()
    assert len(found) == 1, found
    return found[0].asDict()


def utc(milliseconds):
    """The naive UTC datetime of a ts."""
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=milliseconds)  # noqa: DTZ001


def write_input(folder, songs=(), events=()):
    """Song files and one log file below a folder; returns the flags that read them."""
    for number, record in enumerate(songs):
        path = folder / "song_data" / "A" / "B" / f"TR{number:04d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record), encoding="utf-8")
    log = folder / "log_data" / "2018" / "11" / "2018-11-01-events.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(map(json.dumps, events)) + "\n", encoding="utf-8")
    return input_flags(folder)


def input_flags(folder):
    """The flags that read an input folder and write to the lake beside it."""
    return [
        f"--song-data={folder / 'song_data'}",
        f"--log-data={folder / 'log_data'}",
        f"--output={folder / 'lake'}",
    ]


def read_report(folder):
    """The latest report of the lake beside an input folder."""
    reports = sorted((folder / "lake" / "_etl" / "reports").glob("*.json"))
    return json.loads(reports[-1].read_text(encoding="utf-8"))


def read_lake(spark, lake):
    """All five published tables of a lake: name -> sorted rows, columns in alphabetical order."""
    return {
        table.name: rows(
            spark.read.schema(stored_schema(table))
            .parquet(f"{lake}/{table.name}")
            .transform(lambda frame: frame.select(*sorted(frame.columns)))
        )
        for table in partitioned_tables(load_etl_config(environ={}).partitions)
    }
