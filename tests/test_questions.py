"""exploration/questions.sql: two engines agree, and the answers are those worked out by hand."""

from __future__ import annotations

import decimal
import re
from pathlib import Path

import duckdb
import pytest
import sqlglot

import etl
from lake.tables import TABLES
from tests.lake import build_sample_lake, write_lake

QUESTIONS_SQL = Path(etl.__file__).parent / "exploration" / "questions.sql"
DIALECTS = ("spark", "athena", "redshift", "duckdb", "postgres")


def read_questions():
    """The questions of the file: name -> SQL with its comments."""
    blocks = re.split(r"^-- name: ", QUESTIONS_SQL.read_text(encoding="utf-8"), flags=re.M)[1:]
    questions = dict(block.split("\n", 1) for block in blocks)
    assert len(questions) == len(blocks), "two questions have the same name"
    return questions


QUESTIONS = read_questions()


@pytest.fixture(scope="module")
def sample(spark, tmp_path_factory):
    return build_sample_lake(spark, tmp_path_factory)


def ask_spark(spark, lake, question):
    session = spark.newSession()
    session.conf.set("spark.sql.session.timeZone", "UTC")
    for table in TABLES:
        session.read.parquet(f"{lake}/{table.name}").createOrReplaceTempView(table.name)
    answer = session.sql(QUESTIONS[question].rstrip(";\n"))
    return answer.columns, plain(answer.collect())


def ask_duckdb(lake, question):
    with duckdb.connect() as database:
        database.execute("set TimeZone = 'UTC'")
        for table in TABLES:
            files = f"{lake}/{table.name}/**/*.parquet"
            database.execute(f"create view {table.name} as from read_parquet('{files}')")
        answer = database.execute(QUESTIONS[question])
        return [column[0] for column in answer.description], plain(answer.fetchall())


def plain(rows):
    """Rows with every decimal as a float: the engines differ in which of the two they return."""
    return [
        tuple(float(v) if isinstance(v, (float, decimal.Decimal)) else v for v in row)
        for row in rows
    ]


@pytest.mark.parametrize("question", QUESTIONS)
def test_spark_and_duckdb_give_the_same_rows_in_the_same_order(spark, sample, question):
    columns, rows = ask_spark(spark, sample, question)
    assert (columns, rows) == ask_duckdb(sample, question)
    assert len(rows) > 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_dialect_parses_each_question(question, dialect):
    (statement,) = sqlglot.parse(
        QUESTIONS[question], dialect=dialect, error_level=sqlglot.ErrorLevel.RAISE
    )
    assert isinstance(statement, sqlglot.exp.Select)


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_says_what_it_asks(question):
    assert re.match(r"-- [A-Z].*\?", QUESTIONS[question])


# ---- Answers worked out by hand ------------------------------------------------------------------


def user(user_id, level="free"):
    return [user_id, f"First {user_id}", f"Last {user_id}", "F", level]


def play(start, user_id="1", level="free", **changes):
    fields = {"song": None, "artist": None, "session": 1, "location": "Rome", **changes}
    ids = (fields["song"], fields["artist"], fields["session"], fields["location"])
    return [f"2018-11-{start}+00", user_id, level, *ids, "Mozilla"]


@pytest.fixture
def answer(tmp_path):
    """The rows that DuckDB gives to a question about a few users, plays and songs."""

    def ask(question, plays, users=(), songs=(), artists=()):
        starts = sorted({play[0] for play in plays})
        rows = {
            "songs": list(songs) or [["S0", "Nobody's", "A0", 2000, 1.0]],
            "artists": list(artists) or [["A0", "Nobody", None, None, None]],
            "users": list(users) or [user("1")],
            "time": [[start, *time_parts(start)] for start in starts],
            "songplays": [[number, *play] for number, play in enumerate(plays)],
        }
        write_lake(tmp_path, rows, {"time": ("year", "month"), "songplays": ("year", "month")})
        return ask_duckdb(tmp_path, question)[1]

    return ask


def time_parts(start):
    """Hour, day, week, month, year, weekday of a start in November 2018; the 1st is a Thursday."""
    day, hour = int(start[8:10]), int(start[11:13])
    return hour, day, 44 + (day + 2) // 7, 11, 2018, (day + 3) % 7 + 1


def test_plays_are_counted_by_hour(answer):
    plays = [play("01 00:59:59.999"), play("02 00:00:00"), play("01 23:00:00")]
    assert answer("plays_by_hour", plays) == [(0, 2), (23, 1)]


def test_weekdays_come_with_the_number_of_days_that_had_plays(answer):
    plays = [play("01 10:00:00"), play("01 11:00:00"), play("08 10:00:00"), play("04 10:00:00")]
    assert answer("plays_by_weekday", plays) == [(1, 1, 1), (5, 2, 3)]


def test_a_play_counts_for_the_level_at_its_time(answer):
    plays = [
        play("01 10:00:00", session=1),
        play("01 10:05:00", session=1),
        play("02 10:00:00", session=2),
        play("03 10:00:00", session=2, level="paid"),
        play("03 10:00:00", user_id="2", session=2, level="paid"),
    ]
    assert answer("plays_by_level", plays) == [("free", 1, 2, 3), ("paid", 2, 2, 2)]


def test_plays_are_counted_by_day_and_level(answer):
    plays = [play("01 23:59:59"), play("02 00:00:00"), play("02 01:00:00", level="paid")]
    assert answer("plays_by_day_and_level", plays) == [
        (2018, 11, 1, "free", 1),
        (2018, 11, 2, "free", 1),
        (2018, 11, 2, "paid", 1),
    ]


def test_likely_to_upgrade_are_the_busiest_free_users_of_the_last_14_days(answer):
    users = [user("1"), user("2"), user("3", "paid"), user("4", "paid"), user("5")]
    plays = [
        play("30 12:00:00", "1"),
        play("16 12:00:01", "1"),
        play("16 12:00:00", "1"),  # just too long ago
        play("29 12:00:00", "2"),
        play("30 11:00:00", "3"),
        *(play(f"30 0{hour}:00:00", "4") for hour in range(4)),
        play("01 12:00:00", "5"),
    ]
    assert answer("likely_to_upgrade", plays, users) == [
        ("1", "First 1", "Last 1", 2, 2.5),
        ("2", "First 2", "Last 2", 1, 2.5),
    ]


def test_likely_to_leave_are_paid_users_whose_plays_fell_by_more_than_half(answer):
    users = [user("fell", "paid"), user("halved", "paid"), user("free"), user("silent", "paid")]
    early = [f"10 0{hour}:00:00" for hour in range(4)]
    plays = [
        *(play(start, name) for start in early for name in ("fell", "halved", "free")),
        play("01 12:00:00", "fell"),  # more than 28 days ago
        play("20 12:00:00", "fell"),
        play("20 12:00:00", "halved"),
        play("21 12:00:00", "halved"),
        play("12 12:00:00", "silent"),
        play("30 12:00:00", "free"),
    ]
    assert answer("likely_to_leave", plays, users) == [
        ("fell", "First fell", "Last fell", 4, 1),
        ("silent", "First silent", "Last silent", 1, 0),
    ]


def test_songs_and_artists_are_ranked_by_their_plays(answer):
    songs = [
        ["S1", "Same", "A1", 0, 1.0],
        ["S2", "Same", "A2", 0, 1.0],
        ["S3", "More", "A2", 0, 1.0],
    ]
    artists = [["A1", "One", None, None, None], ["A2", "Two", None, None, None]]
    plays = [
        play("01 10:00:00", song="S2", artist="A2"),
        play("01 11:00:00", song="S1", artist="A1"),
        play("01 12:00:00", song="S3", artist="A2", user_id="2"),
        play("01 14:00:00", song="S3", artist="A2"),
        play("01 13:00:00"),
    ]
    assert answer("top_songs", plays, songs=songs, artists=artists) == [
        ("S3", "More", "Two", 2),
        ("S1", "Same", "One", 1),
        ("S2", "Same", "Two", 1),
    ]


def test_artists_come_with_their_listeners(answer):
    artists = [["A1", "One", None, None, None], ["A2", "Two", None, None, None]]
    plays = [
        play("01 10:00:00", artist="A2"),
        play("01 11:00:00", artist="A2", user_id="2"),
        play("01 12:00:00", artist="A2", user_id="2"),
        play("01 13:00:00", artist="A1"),
    ]
    assert answer("top_artists", plays, artists=artists) == [
        ("A2", "Two", 2, 3),
        ("A1", "One", 1, 1),
    ]


def test_sessions_are_sorted_by_the_time_from_first_to_last_play(answer):
    plays = [
        play("01 10:00:00", session=1),
        play("01 10:00:00", session=2),
        play("01 10:14:59.999", session=2),
        play("01 10:00:00", session=2, user_id="2"),  # the same number, but someone else's
        play("01 10:15:00", session=2, user_id="2"),
        play("01 23:00:00", session=3),
        play("03 01:00:00", session=3),
    ]
    assert answer("sessions_by_length", plays) == [(0, 2, 3), (15, 1, 2), (240, 1, 2)]


def test_areas_are_ranked_by_their_listeners(answer):
    plays = [
        play("01 10:00:00", location="Rome"),
        play("01 11:00:00", location="Rome"),
        play("01 12:00:00", location="Rome"),
        play("01 10:00:00", user_id="2", location="Oslo"),
        play("01 10:00:00", user_id="3", location="Oslo"),
        play("01 10:00:00", user_id="4", location=None),
    ]
    assert answer("listeners_by_area", plays) == [("Oslo", 2, 2), ("Rome", 1, 3)]
