"""The oracle against answers worked out by hand, so that it can be trusted with larger data."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timezone

import duckdb
import pytest

from tests import oracle

# 2018-12-31 23:30:00.123 UTC, a Monday: ISO week 1 (of 2019), and another year further east.
NEW_YEARS_EVE = 1546299000123


def song(**changes):
    return {
        "song_id": "S1",
        "title": "Title",
        "artist_id": "A1",
        "artist_name": "Artist",
        "artist_location": "",
        "artist_latitude": None,
        "artist_longitude": None,
        "year": 2000,
        "duration": 200.5,
        "num_songs": 1,
        **changes,
    }


def event(**changes):
    return {
        "ts": 1541105830796,
        "page": "NextSong",
        "userId": "8",
        "firstName": "Kaylee",
        "lastName": "Summers",
        "gender": "F",
        "level": "free",
        "sessionId": 139,
        "itemInSession": 0,
        "song": "Title",
        "artist": "Artist",
        "length": 200.5,
        "location": "Phoenix",
        "userAgent": "Mozilla",
        "status": 200,
        **changes,
    }


def lines(records):
    """Records as JSON lines; a record that is text already stands as it is."""
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)


def folders(tmp_path, songs, events):
    song_data, log_data = tmp_path / "song_data" / "A", tmp_path / "log_data"
    song_data.mkdir(parents=True)
    log_data.mkdir()
    (song_data / "songs.json").write_text(lines(songs), encoding="utf-8")
    (log_data / "events.json").write_text(lines(events), encoding="utf-8")
    return song_data.parent, log_data


@pytest.fixture
def tables(tmp_path):
    """All five tables of a few songs and events."""

    def build(songs=(), events=()):
        return oracle.build_tables(*folders(tmp_path, songs, events))

    return build


def matched_songs(tables_built):
    return [row[3] for row in tables_built["songplays"]]


def mojibake(name, rounds=2):
    for _ in range(rounds):
        name = name.encode("utf-8").decode("latin-1")
    return name


def test_each_table_has_its_columns_in_contract_order(tables):
    built = tables([song()], [event()])

    start_time = datetime(2018, 11, 1, 20, 57, 10, 796000)  # noqa: DTZ001 (naive UTC by contract)
    assert built == {
        "songs": [("S1", "Title", "A1", 2000, 200.5)],
        "artists": [("A1", "Artist", "", None, None)],
        "users": [("8", "Kaylee", "Summers", "F", "free")],
        "time": [(start_time, 20, 1, 44, 11, 2018, 5)],
        "songplays": [
            (start_time, "8", "free", "S1", "A1", 139, "Phoenix", "Mozilla", 2018, 11),
        ],
    }


def test_time_is_utc_with_iso_weeks_and_sunday_as_the_first_weekday(tables):
    sunday = NEW_YEARS_EVE - 24 * 3600 * 1000

    built = tables([], [event(ts=NEW_YEARS_EVE), event(ts=sunday)])

    assert [row[1:] for row in built["time"]] == [
        (23, 30, 52, 12, 2018, 1),
        (23, 31, 1, 12, 2018, 2),
    ]
    moment = datetime.fromtimestamp(NEW_YEARS_EVE // 1000, timezone.utc).replace(tzinfo=None)
    assert built["time"][1][0] == moment.replace(microsecond=123000)


def test_equal_moments_of_two_users_are_one_row_of_time(tables):
    built = tables([], [event(), event(userId="9")])

    assert (len(built["time"]), len(built["songplays"])) == (1, 2)


def test_an_unknown_year_is_zero(tables):
    assert tables([song(year=None)])["songs"][0][3] == 0


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        ({"title": "b"}, {"title": "a", "artist_id": "Z"}),
        ({"title": None}, {"title": "z", "artist_id": "Z"}),
        ({"title": "é"}, {"title": "z", "artist_id": "Z"}),
        ({"artist_id": "B"}, {"artist_id": "A", "year": 2001}),
        ({"year": 2001}, {"year": 2000, "duration": 300.0}),
        ({"year": None}, {"year": 2000, "duration": 300.0}),
        ({"duration": 2.0}, {"duration": 1.0}),
        ({"duration": None}, {"duration": 1.0}),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_smallest_record_of_a_song_wins(tables, loser, winner, backwards):
    records = [song(**loser), song(**winner)]
    expected = song(**winner)

    built = tables(records[::-1] if backwards else records)

    columns = ("song_id", "title", "artist_id", "year", "duration")
    assert built["songs"] == [tuple(expected[column] for column in columns)]


BOTH = {"artist_latitude": 1.0, "artist_longitude": 2.0}


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        ({"artist_latitude": 1.0, "artist_location": "Rome", "year": 2009}, {**BOTH, "year": 0}),
        ({"artist_location": " ", "year": 2009}, {"artist_location": "Rome", "year": 1990}),
        ({"artist_location": None, "year": 2009}, {"artist_location": "Rome", "year": 1990}),
        ({"year": 1999, "artist_name": "a"}, {"year": 2000, "artist_name": "b"}),
        ({"year": None, "artist_name": "a"}, {"year": 1000, "artist_name": "b"}),
        ({"artist_name": "b"}, {"artist_name": "a"}),
        ({"artist_name": None}, {"artist_name": "z"}),
        ({"artist_location": None}, {"artist_location": ""}),
        ({**BOTH, "artist_latitude": 3.0}, {**BOTH, "artist_longitude": 4.0}),
        ({**BOTH, "artist_longitude": 4.0}, BOTH),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_best_described_record_of_an_artist_wins(tables, loser, winner, backwards):
    records = [song(song_id="S1", **loser), song(song_id="S2", **winner)]
    expected = song(**winner)

    built = tables(records[::-1] if backwards else records)

    columns = ("artist_name", "artist_location", "artist_latitude", "artist_longitude")
    assert built["artists"] == [("A1", *(expected[column] for column in columns))]


def test_only_nextsong_is_a_play(tables):
    built = tables([], [event(page="Home"), event(page="Login", userId=""), event(page=None)])

    assert (built["users"], built["time"], built["songplays"]) == ([], [], [])


@pytest.mark.parametrize("key", ["ts", "userId", "sessionId", "itemInSession"])
def test_plays_that_differ_in_any_part_of_their_key_are_all_kept(tables, key):
    other = {"ts": 1541105830797, "userId": "9", "sessionId": None, "itemInSession": None}[key]

    assert len(tables([], [event(), event(**{key: other})])["songplays"]) == 2


def test_an_event_delivered_twice_counts_once_even_with_nulls_in_its_key(tables):
    twice = event(sessionId=None, itemInSession=None)

    assert len(tables([], [twice, event(), twice, event()])["songplays"]) == 2


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        ({"level": "paid", "location": "a"}, {"level": "free", "location": "b"}),
        ({"location": "b", "userAgent": "a"}, {"location": "a", "userAgent": "b"}),
        ({"firstName": "b", "lastName": "a"}, {"firstName": "a", "lastName": "b"}),
        ({"lastName": "b", "gender": "F"}, {"lastName": "a", "gender": "M"}),
        ({"gender": "M"}, {"gender": "F"}),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_smallest_of_two_records_with_one_key_wins(tables, loser, winner, backwards):
    records = [event(**loser), event(**winner)]
    expected = event(**winner)

    built = tables([], records[::-1] if backwards else records)

    (play,) = built["songplays"]
    assert (play[2], play[6], play[7]) == tuple(
        expected[column] for column in ("level", "location", "userAgent")
    )
    assert built["users"][0][1:] == tuple(
        expected[column] for column in ("firstName", "lastName", "gender", "level")
    )


@pytest.mark.parametrize("backwards", [False, True])
def test_of_two_records_with_one_key_the_one_whose_song_is_known_wins(tables, backwards):
    known = event(location="b")
    unknown = event(song="Another", location="a")
    catalogue = song(title=known["song"], artist_name=known["artist"], duration=known["length"])
    records = [unknown, known]

    (play,) = tables([catalogue], records[::-1] if backwards else records)["songplays"]

    assert (play[3], play[6]) == (catalogue["song_id"], "b")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"ts": 1541105830795, "sessionId": 200}, {}),
        ({"sessionId": 1, "itemInSession": 9}, {"sessionId": 2, "itemInSession": 1}),
        ({"sessionId": None}, {"sessionId": 1}),
        ({"itemInSession": 1}, {"itemInSession": 2}),
        ({"itemInSession": None}, {"itemInSession": 0}),
    ],
)
@pytest.mark.parametrize("levels", [("free", "paid"), ("paid", "free")])
def test_a_user_is_as_of_the_latest_play(tables, earlier, later, levels):
    built = tables([], [event(**later, level=levels[1]), event(**earlier, level=levels[0])])

    assert built["users"] == [("8", "Kaylee", "Summers", "F", levels[1])]


@pytest.mark.parametrize(
    "other",
    [
        {"title": "title"},
        {"artist_name": "Artist "},
        {"duration": 200.50001},
        {"title": None},
        {"artist_name": None},
        {"duration": None},
    ],
)
def test_a_play_matches_on_title_artist_and_duration_together(tables, other):
    songs = [song(**other), song(song_id="S2", title="Another")]
    events = [event(), event(itemInSession=1, song="Another")]

    assert sorted(map(str, matched_songs(tables(songs, events)))) == ["None", "S2"]


def test_a_play_without_names_or_length_is_kept_and_matches_nothing(tables):
    nameless = song(title=None, artist_name=None, duration=None)

    assert matched_songs(tables([nameless], [event(song=None, artist=None, length=None)])) == [None]


def test_songs_that_share_all_three_are_one_match_the_smallest_id(tables):
    songs = [song(song_id="S3"), song(song_id="S2", artist_id="A9"), song(song_id="S4")]

    built = tables(songs, [event()])

    assert [row[3:5] for row in built["songplays"]] == [("S2", "A9")]


def test_an_artist_of_two_names_matches_under_each(tables):
    songs = [song(), song(song_id="S2", artist_name="Alias", title="Other")]

    built = tables(songs, [event(), event(itemInSession=1, song="Other", artist="Alias")])

    assert sorted(matched_songs(built)) == ["S1", "S2"]
    assert len(built["artists"]) == 1


def test_the_losing_record_of_a_song_matches_nothing(tables):
    songs = [song(title="Title"), song(title="A title", artist_name="Other")]

    assert matched_songs(tables(songs, [event()])) == [None]


@pytest.mark.parametrize(
    ("logged", "catalogued"),
    [
        (mojibake("Beyoncé"), "Beyoncé"),
        (mojibake("Beyoncé", rounds=1), "Beyoncé"),
        ("Beyoncé", "Beyoncé"),  # é alone is no UTF-8: nothing to undo
        (mojibake("Beyoncé", rounds=3), mojibake("Beyoncé", rounds=1)),  # two rounds at most
        (mojibake("Björk 椎名 🎵"), "Björk 椎名 🎵"),
        ("椎名 Ã©", "椎名 Ã©"),  # a character above U+00FF: not Latin-1
        (mojibake("line\né"), "line\né"),
        ("Ã\x80 À Ã©", "Ã\x80 À Ã©"),  # one part is no UTF-8, so none is repaired
        ("Plain", "Plain"),
    ],
)
@pytest.mark.parametrize(("in_log", "in_song"), [("artist", "artist_name"), ("song", "title")])
def test_the_logs_names_are_repaired_before_matching(tables, logged, catalogued, in_log, in_song):
    built = tables([song(**{in_song: catalogued})], [event(**{in_log: logged})])

    assert matched_songs(built) == ["S1"]


@pytest.mark.parametrize("backwards", [False, True])
def test_records_with_one_key_are_compared_by_their_repaired_names(tables, backwards):
    late, early = mojibake("椎", rounds=2), mojibake("é", rounds=1)
    assert late < early  # as they stand in the log
    records = [event(artist=late, location="late"), event(artist=early, location="early")]

    built = tables([], records[::-1] if backwards else records)

    assert [row[6] for row in built["songplays"]] == ["early"]


def test_the_first_and_last_possible_moments_are_kept(tables):
    built = tables([], [event(ts=946684800000), event(ts=4102444800000)])

    assert [row[5] for row in built["time"]] == [2000, 2100]


def test_other_texts_of_the_log_are_not_repaired(tables):
    wrong = mojibake("é")

    built = tables([], [event(firstName=wrong, location=wrong, userAgent=wrong)])

    assert built["users"][0][1] == wrong
    assert built["songplays"][0][6:8] == (wrong, wrong)


def test_a_name_given_as_a_number_is_text(tables):
    built = tables(
        [song(artist_name=311, title=1999, artist_location=5)], [event(artist=311, song=1999)]
    )

    assert built["artists"][0][1:3] == ("311", "5")
    assert matched_songs(built) == ["S1"]


@pytest.mark.parametrize(
    "bad",
    [
        "not JSON",
        json.dumps(event(itemInSession=5))[:-9],
        json.dumps(event(itemInSession=5)) + json.dumps(event(itemInSession=6)),
        "[]",
        "null",
        json.dumps([event(itemInSession=5)]),
        event(itemInSession=5, ts=None),
        event(itemInSession=5, ts="abc"),
        event(itemInSession=5, level="Paid"),
        event(itemInSession=5, level=None),
        event(itemInSession=5, ts=1541105830796.5),
        event(itemInSession=5, ts=946684799999),  # 1999
        event(itemInSession=5, ts=4102444800001),  # 2100
        event(itemInSession=5, ts=10**18),
        event(itemInSession=5, ts=10**19),
        event(itemInSession=5, userId=""),
        event(itemInSession=5, userId=" \t"),
        event(itemInSession=5, userId=None),
        event(itemInSession=5, sessionId="x"),
        event(itemInSession=5, length="200.5"),
        event(itemInSession=5, length=float("nan")),
        event(itemInSession=5, length=float("inf")),
        event(itemInSession=5, location={"city": "Rome"}),
    ],
)
def test_a_rejected_line_of_the_log_leaves_no_trace(tables, bad):
    built = tables([song()], [bad, event()])

    assert [len(built[table]) for table in ("users", "time", "songplays")] == [1, 1, 1]


@pytest.mark.parametrize(
    "bad",
    [
        "not JSON",
        song(song_id="", artist_id="A2"),
        song(song_id=None, artist_id="A2"),
        song(song_id="S2", artist_id="  "),
        song(song_id="S2", artist_id="A2", year="MM"),
        song(song_id="S2", artist_id="A2", year=99999),
        song(song_id="S2", artist_id="A2", duration=-3),
        song(song_id="S2", artist_id="A2", artist_latitude=999),
        song(song_id="S2", artist_id="__HIVE_DEFAULT_PARTITION__"),
        song(song_id="S2", artist_id="A2", year=10**10),
        song(song_id="S2", artist_id="A2", duration="long"),
        song(song_id="S2", artist_id="A2", title=["a"]),
        song(song_id="S2", artist_id="A2", artist_latitude=float("inf")),
    ],
)
def test_a_rejected_song_leaves_no_trace(tables, bad):
    built = tables([bad, song()])

    assert [len(built[table]) for table in ("songs", "artists")] == [1, 1]


def test_whole_numbers_in_other_spellings_are_these_numbers(tables):
    spelt = [
        event(ts="1541105830796", userId=8.0, sessionId="139", itemInSession=0.0),
        json.dumps(event()).replace("1541105830796", "1.541105830796E12"),
    ]

    built = tables([song(year="2000"), song(song_id="S2", year=2001.0)], [event(), *spelt])

    assert [row[3] for row in built["songs"]] == [2000, 2001]
    assert [len(built[table]) for table in ("users", "songplays")] == [1, 1]


def test_a_song_file_may_be_an_array(tmp_path):
    song_data, log_data = folders(tmp_path, [], [event()])
    (song_data / "songs.json").write_text(json.dumps([song(), song(song_id="S2")], indent=1))

    assert len(oracle.build_tables(song_data, log_data)["songs"]) == 2


def test_song_files_may_be_pretty_printed_and_any_file_compressed(tmp_path):
    song_data, log_data = folders(tmp_path, [song()], [event()])
    (song_data / "pretty.json").write_text(json.dumps(song(song_id="S2"), indent=4))
    with gzip.open(log_data / "more.json.gz", "wt") as file:
        file.write(lines([event(itemInSession=1)]))
    (log_data / "_SUCCESS").write_text(lines([event(itemInSession=2)]))

    built = oracle.build_tables(song_data, log_data)

    assert (len(built["songs"]), len(built["songplays"])) == (2, 2)


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path):
    song_data, log_data = folders(tmp_path, [], [])
    (song_data / "songs.json").write_text(lines([song()]), encoding="utf-8-sig")
    (log_data / "events.json").write_text(lines([event()]), encoding="utf-8-sig")

    built = oracle.build_tables(song_data, log_data)

    assert (len(built["songs"]), len(built["songplays"])) == (1, 1)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path, line_end):
    song_data, log_data = folders(tmp_path, [], [])
    text = lines([event(), event(userId="9")]).replace("\n", line_end)
    (log_data / "events.json").write_bytes(text.encode())

    assert len(oracle.build_tables(song_data, log_data)["songplays"]) == 2


def test_an_invalid_byte_rejects_its_line_alone(tmp_path):
    song_data, log_data = folders(tmp_path, [song()], [])
    good = lines([event()]).encode()
    (log_data / "events.json").write_bytes(good.replace(b"Phoenix", b"\xff") + good)

    assert len(oracle.build_tables(song_data, log_data)["songplays"]) == 1


@pytest.mark.parametrize(
    ("partition_songs", "song_folder"),
    [("year", "year=2000"), ("year, artist_id", "year=2000/artist_id=A1")],
)
def test_written_tables_are_the_built_ones(tmp_path, partition_songs, song_folder):
    events = [event(), event(userId="9", ts=NEW_YEARS_EVE), event(page="Home"), event()]
    song_data, log_data = folders(tmp_path, [song()], events)
    output = tmp_path / "lake"

    oracle.write_tables(song_data, log_data, output, partition_songs)

    assert (output / "songs" / song_folder).is_dir()
    for table, rows in oracle.build_tables(song_data, log_data).items():
        written = duckdb.sql(
            f"select {oracle.COLUMNS[table]}"
            f" from read_parquet('{output / table}/**/*.parquet', hive_partitioning = true)"
            " order by all"
        ).fetchall()
        assert [tuple(map(str, row)) for row in written] == [tuple(map(str, row)) for row in rows]
