"""One rule of the tables a test: what each of them holds, and who wins among duplicates."""

from __future__ import annotations

import pytest

import etl
from lake.lines import loaded
from tests.factories import TS, event, log_data, one_row, rows, song, song_data, utc

MINUTE = 60_000


def plays_of(spark, *events):
    """Plays as the job has them once their songs are matched."""
    return etl.match_songs(etl.build_plays(log_data(spark, *events)), song_data(spark, song()))


def build(spark, songs, events):
    return etl.build_tables(song_data(spark, *songs), log_data(spark, *events))


def rotations(records):
    """Orders in which each record is the first once and the last once."""
    return [records[at:] + records[:at] for at in range(len(records))]


@pytest.mark.parametrize("table", etl.TABLES, ids=lambda table: table.name)
def test_each_table_has_the_columns_and_types_of_its_contract(spark, table):
    built = build(spark, [song()], [event()])[table.name]
    found = {f.name: f.dataType.simpleString().upper() for f in built.schema}
    assert found == table.columns


# songs and artists


def test_a_song_keeps_its_fields(spark):
    songs = etl.build_songs(song_data(spark, song()))
    assert rows(songs) == [("SO1", "First Light", "AR1", 1999, 201.5)]


def test_an_unknown_year_is_0(spark):
    assert one_row(etl.build_songs(song_data(spark, song(year=None))))["year"] == 0


def test_a_song_id_appears_once_and_its_winner_does_not_depend_on_the_order(spark):
    records = [
        song(title=title, year=year) for title, year in [("B", 1001), ("A", 1002), ("A", None)]
    ]
    winners = {
        tuple(rows(etl.build_songs(song_data(spark, *order)))) for order in rotations(records)
    }
    assert winners == {(("SO1", "A", "AR1", 1002, 201.5),)}


def test_an_artist_keeps_name_location_and_coordinates(spark):
    artists = etl.build_artists(song_data(spark, song()))
    assert rows(artists) == [("AR1", "The Lines", "New York, NY", 40.7, -74.0)]


BARE = {"artist_latitude": None, "artist_longitude": None, "artist_location": ""}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (
            song(artist_location="", year=1001),
            song(**{**BARE, "artist_location": "Rome", "year": 1009}),
        ),
        (song(**{**BARE, "artist_location": "Rome", "year": 1001}), song(**BARE, year=1009)),
        (song(artist_name="Eve", year=2000), song(artist_name="Eve & DMX", year=2001)),
        (song(artist_name="Z", year=2001), song(artist_name="A", year=2000)),
        (song(artist_name="A"), song(artist_name="B")),
        (song(artist_latitude=1.0), song(artist_latitude=2.0)),
    ],
    ids=["coordinates", "location", "shortest name", "latest year", "name", "latitude"],
)
def test_an_artist_is_the_best_described_record(spark, better, worse):
    better, worse = {**better, "song_id": "SO1"}, {**worse, "song_id": "SO2"}
    expected = rows(etl.build_artists(song_data(spark, better)))
    assert rows(etl.build_artists(song_data(spark, better, worse))) == expected
    assert rows(etl.build_artists(song_data(spark, worse, better))) == expected


def test_an_artists_name_is_the_one_that_most_of_the_records_carry(spark):
    records = [
        song(artist_name="DMX", year=1999),
        song(artist_name="Eve", song_id="SO2", year=2008),
        song(artist_name="DMX", song_id="SO3", year=2000),
    ]
    for order in rotations(records):
        assert one_row(etl.build_artists(song_data(spark, *order)))["name"] == "DMX"


def test_an_artists_better_described_record_beats_the_commonest_name(spark):
    bare = [song(**BARE, song_id=f"SO{n}", artist_name="DMX") for n in (2, 3)]
    placed = song(artist_name="DMX / Eve / Jadakiss")
    artist = one_row(etl.build_artists(song_data(spark, *bare, placed)))
    assert artist["name"] == placed["artist_name"]


def test_half_a_coordinate_is_no_description(spark):
    half = song(artist_longitude=None, artist_location="", artist_name="A")
    placed = song(song_id="SO2", **{**BARE, "artist_location": "Rome"})
    assert one_row(etl.build_artists(song_data(spark, half, placed)))["location"] == "Rome"


# plays and users


def test_only_next_song_is_a_play(spark):
    plays = plays_of(spark, event(), event(page="Home", itemInSession=1))
    assert plays.count() == 1


def test_an_event_delivered_twice_counts_once(spark):
    assert etl.build_songplays(plays_of(spark, event(), event())).count() == 1


@pytest.mark.parametrize(
    "change",
    [{"ts": TS + 1}, {"userId": "8"}, {"sessionId": 2}, {"itemInSession": 1}, {"sessionId": None}],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_the_natural_key_makes_another_play(spark, change):
    tables = build(spark, [song()], [event(), event(**change)])
    assert len({row["songplay_id"] for row in tables["songplays"].collect()}) == 2


def test_among_differing_copies_of_a_play_the_winner_does_not_depend_on_the_order(spark):
    copies = [event(level="paid"), event(location=None), event(location="A")]
    winners = {
        tuple(rows(etl.build_songplays(plays_of(spark, *order)).select("level", "location")))
        for order in rotations(copies)
    }
    assert winners == {(("free", "A"),)}


def test_a_user_is_as_of_the_latest_play(spark):
    events = [event(level="paid", ts=TS + MINUTE), event(level="free"), event(ts=TS - MINUTE)]
    users = etl.build_users(plays_of(spark, *events))
    assert rows(users) == [("7", "Ada", "Moss", "F", "paid")]


@pytest.mark.parametrize(
    ("later", "earlier"),
    [({"sessionId": 2}, {"sessionId": 1}), ({"itemInSession": 2}, {"itemInSession": 1})],
    ids=["session", "item"],
)
def test_at_the_same_moment_the_later_session_and_item_tell_the_level(spark, later, earlier):
    events = [event(level="paid", **later), event(level="free", **earlier)]
    for order in (events, events[::-1]):
        users = etl.build_users(plays_of(spark, *order))
        assert one_row(users)["level"] == "paid"


def test_who_only_visits_is_no_user(spark):
    tables = build(spark, [song()], [event(), event(page="Home", userId="8")])
    assert [row["user_id"] for row in tables["users"].collect()] == ["7"]


def test_a_user_id_given_as_a_number_is_text(spark):
    assert one_row(plays_of(spark, event(userId=7)))["user_id"] == "7"


# time


def test_time_is_in_utc_and_keeps_the_milliseconds(spark):
    times = etl.build_time(plays_of(spark, event()))
    assert rows(times) == [(utc(TS), 20, 1, 44, 11, 2018, 5)]


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_another_zone_of_the_session_changes_nothing(spark, zone):
    last_hour_of_november = event(ts=1_543_622_399_999)
    spark.conf.set("spark.sql.session.timeZone", zone)
    times = etl.build_time(plays_of(spark, last_hour_of_november))
    assert one_row(times.select("hour", "day", "month")) == {"hour": 23, "day": 30, "month": 11}


def test_the_week_is_iso_and_sunday_is_weekday_1(spark):
    new_years_eve = event(ts=1_546_214_400_000)  # Monday, 2018-12-31
    sunday = event(ts=1_546_128_000_000)
    times = etl.build_time(plays_of(spark, new_years_eve, sunday))
    assert rows(times.select("day", "week", "weekday")) == [(30, 52, 1), (31, 1, 2)]


def test_two_plays_at_one_moment_share_a_time(spark):
    times = etl.build_time(plays_of(spark, event(), event(userId="8")))
    assert times.count() == 1


# songplays


def songplay(spark, songs, played):
    return one_row(build(spark, songs, [played])["songplays"])


def test_a_play_has_the_song_and_artist_that_it_matches(spark):
    found = songplay(spark, [song()], event())
    assert {**found, "songplay_id": None} == {
        "songplay_id": None,
        "start_time": utc(TS),
        "user_id": "7",
        "level": "free",
        "song_id": "SO1",
        "artist_id": "AR1",
        "session_id": 1,
        "location": "Austin-Round Rock, TX",
        "user_agent": "Mozilla/5.0",
    }


@pytest.mark.parametrize(
    "change",
    [{"song": "Other"}, {"artist": "Other"}, {"length": 201.6}, {"song": None}, {"length": None}],
    ids=str,
)
def test_a_play_that_no_song_matches_is_kept_without_ids(spark, change):
    found = songplay(spark, [song()], event(**change))
    assert (found["song_id"], found["artist_id"]) == (None, None)


def test_two_songs_with_the_same_title_artist_and_duration_do_not_multiply_plays(spark):
    songs = [song(song_id="SO2", artist_id="AR0"), song()]
    found = songplay(spark, songs, event())
    assert (found["song_id"], found["artist_id"]) == ("SO1", "AR1")


def test_an_artist_with_two_names_is_matched_by_the_name_of_the_song(spark):
    songs = [song(), song(song_id="SO2", title="Duet", artist_name="The Lines feat. Bo")]
    found = songplay(spark, songs, event(song="Duet", artist="The Lines feat. Bo"))
    assert found["song_id"] == "SO2"


def test_a_songplay_id_is_the_same_in_every_run(spark):
    # Written down once: a change of the hash would give every published play another id.
    assert songplay(spark, [song()], event())["songplay_id"] == SONGPLAY_ID


SONGPLAY_ID = 2775924854123623771


def test_a_null_in_one_part_of_the_key_differs_from_a_null_in_another(spark):
    events = [event(sessionId=5, itemInSession=None), event(sessionId=None, itemInSession=5)]
    tables = build(spark, [song()], events)
    assert len({row["songplay_id"] for row in tables["songplays"].collect()}) == 2


# names


def mangled(name, rounds=2):
    for _ in range(rounds):
        name = name.encode("utf-8").decode("latin-1")
    return name


@pytest.mark.parametrize("name", ["Zoë", "Ænima", "Żółć", "日本の歌", "🎵 Note", "naïve déjà"])
def test_a_name_that_was_decoded_wrongly_twice_is_repaired(spark, name):
    plays = loaded(log_data(spark, event(artist=mangled(name), song=mangled(name))))
    found = one_row(plays.select("artist", "song", "repaired"))
    assert found == {"artist": name, "song": name, "repaired": 2}


def test_a_name_that_was_decoded_wrongly_once_is_repaired(spark):
    assert one_row(log_data(spark, event(artist=mangled("Zoë", 1))))["artist"] == "Zoë"


@pytest.mark.parametrize(
    "name",
    ["Zoë", "日本", "Ã", "Café Ã", mangled("Zoë") + "日", mangled("Zoë")[:-1], "AC/DC", ""],
)
def test_a_name_whose_repair_is_not_exact_stays_as_it_is(spark, name):
    found = one_row(log_data(spark, event(artist=name)).select("artist", "repaired"))
    assert found == {"artist": name, "repaired": 0}


def test_a_repaired_name_matches_its_song(spark):
    found = songplay(
        spark,
        [song(artist_name="Zoë", title="Été")],
        event(artist=mangled("Zoë"), song=mangled("Été")),
    )
    assert found["song_id"] == "SO1"


def test_the_order_of_files_and_partitions_changes_no_table(spark):
    songs = [song(song_id=f"SO{i % 4}", artist_id=f"AR{i % 3}", title=f"T{i}") for i in range(8)]
    events = [event(ts=TS + i // 2, song=f"T{i}", userId=str(i % 3)) for i in range(12)]
    one, other = build(spark, songs, events), build(spark, songs[::-1], events[::-1])
    spark.conf.set("spark.sql.shuffle.partitions", 5)
    try:
        for table in etl.TABLES:
            assert rows(one[table.name]) == rows(other[table.name]), table.name
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", 2)
