"""The job's settings: precedence, and a refusal that names file, section, key and what is due."""

from __future__ import annotations

import pytest

import etl
from configs import DL_CFG, ConfigError, load_etl_config
from lake.tables import TABLES


def cfg(tmp_path, old="", new=""):
    """A copy of the shipped dl.cfg with one text replaced."""
    text = DL_CFG.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "dl.cfg"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def load(path, flags=None, environ=None):
    return load_etl_config(path, flags, environ or {})


def test_the_shipped_file_reads_the_sample_data_and_writes_output():
    config = load(DL_CFG)
    assert (config.song_data, config.log_data) == ("data/song_data", "data/log_data")
    assert config.output == "output"
    assert config.partitions["songs"] == ("year",)


def test_a_flag_beats_the_environment_and_that_beats_the_file():
    environ = {"SPARKIFY_ETL_OUTPUT": "/environment", "SPARKIFY_ETL_LOG_DATA": "/logs"}
    config = load(DL_CFG, {("etl", "output"): "/flag"}, environ)
    assert (config.output, config.log_data) == ("/flag", "/logs")


def test_every_flag_of_the_job_reaches_its_setting(tmp_path):
    flags = ["--song-data=s", "--log-data=l", "--output=o", "--max-rejected-percent=7"]
    flags += ["--partition-songs=year,artist_id", f"--config={cfg(tmp_path)}"]
    config = etl.load_config(etl.parse_args(flags))
    assert (config.song_data, config.log_data, config.output) == ("s", "l", "o")
    assert config.max_rejected_percent == 7
    assert config.partitions["songs"] == ("year", "artist_id")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("keep_reports = 30", "", "[etl] keep_reports is missing: expected a whole number"),
        ("output = output", "output =", "[etl] output = '': expected a folder or a URI"),
        (
            "max_rejected_percent = 1",
            "max_rejected_percent = 101",
            "expected a number from 0 to 100",
        ),
        (
            "max_rejected_percent = 1",
            "max_rejected_percent = nan",
            "expected a number from 0 to 100",
        ),
        (
            "lock_minutes = 10",
            "lock_minutes = soon",
            "[etl] lock_minutes = 'soon': expected minutes",
        ),
        (
            "max_rows_per_file = 1000000",
            "max_rows_per_file = 1.5",
            "expected a whole number from 1",
        ),
        (
            "keep_reports = 30",
            "keep_report = 30",
            "keep_report is unknown; did you mean keep_reports?",
        ),
        ("songs = year", "songs = title", "[partitions] songs = 'title': expected a list of year"),
        ("songs = year", "songs = year, year", "expected a list of year, artist_id"),
        ("songs = year", "users = level", "[partitions] users is unknown"),
        ("[etl]", "[elt]", "[elt]"),
        ("[etl]", "[etl", "dl.cfg"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_is_due(tmp_path, old, new, message):
    path = cfg(tmp_path, old, new)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert message in str(raised.value)
    assert "dl.cfg" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.cfg: no such file; name another with --config"):
        load(tmp_path / "none.cfg")


def test_a_bad_variable_is_named():
    with pytest.raises(ConfigError, match="environment variable SPARKIFY_ETL_KEEP_REPORTS = 'x'"):
        load(DL_CFG, environ={"SPARKIFY_ETL_KEEP_REPORTS": "x"})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/lake/100%", "/lake/100%"),
        ("/lake/%(home)s", "/lake/%(home)s"),
        ("/lake   # why", "/lake"),
        ("/lake   ; why", "/lake"),
        ("/la#ke", "/la#ke"),
        ('"/lake"', "/lake"),
        ("'/lake'", "/lake"),
    ],
)
def test_percent_signs_comments_and_quotes_do_no_harm(tmp_path, written, meant):
    assert load(cfg(tmp_path, "output = output", f"output = {written}")).output == meant


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "dl.cfg"
    path.write_text("\ufeff" + DL_CFG.read_text(encoding="utf-8"), encoding="utf-8")
    assert load(path).output == "output"


def test_a_blank_partition_means_unpartitioned(tmp_path):
    assert load(cfg(tmp_path, "songs = year", "songs =")).partitions["songs"] == ()


def test_each_table_with_a_year_or_a_date_can_be_partitioned():
    dated = {table.name for table in TABLES if {"year", "start_time"} & set(table.columns)}
    assert {table.name for table in TABLES if table.partition_choices} == dated
