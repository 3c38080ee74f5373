"""The Glue Data Catalog against the published files, with the real service's limits on moto's."""

from __future__ import annotations

import dataclasses
import json

import boto3
import duckdb
import pytest
from moto import mock_aws
from moto.core.responses import ActionResult
from moto.glue.exceptions import GlueClientError
from moto.glue.responses import GlueResponse

from aws import catalog
from aws.catalog import (
    CatalogConfig,
    build_published,
    build_table_input,
    load_catalog_config,
    publish_catalog,
)
from aws.glue import TableChange, apply_change, check_errors, fetch_registered
from aws.s3 import list_keys
from aws.session import AwsError
from configs import ConfigError
from lake.tables import DATE_PARTS, SONGPLAYS, SONGS, TABLES
from tests.lake import DUCKDB_TYPES, build_sample_lake, make_rows, write_lake

BUCKET = "my-sparkify-bucket"
OUTPUT = f"s3://{BUCKET}/some/lake"
CONFIG = CatalogConfig(database="sparkify", output=OUTPUT)
REGION = "us-west-2"
BY_MONTH = {"songs": ("year",), "time": ("year", "month"), "songplays": ("year", "month")}
STARTS = ["2018-10-31 23:59:59.999", "2018-11-01 00:00:00.001", "2018-11-02 12:00:00.796"]
GLUE_LIMITS = {
    "batch_create_partition": ("PartitionInputList", 100),
    "batch_update_partition": ("Entries", 100),
    "batch_delete_partition": ("PartitionsToDelete", 25),
}


# ---- An account as strict as the real one --------------------------------------------------------


@pytest.fixture
def session(monkeypatch):
    """An emulated account, with a bucket, whose Glue keeps the real one's limits."""
    make_strict(monkeypatch)
    with mock_aws():
        session = boto3.Session(region_name=REGION)
        place = {"LocationConstraint": REGION}
        session.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        yield session


@pytest.fixture
def glue(session):
    return session.client("glue")


def make_strict(monkeypatch):
    """Refuse what moto lets pass: large batches, new partition keys, partitions left behind."""
    for name, (field, limit) in GLUE_LIMITS.items():
        monkeypatch.setattr(GlueResponse, name, limited(getattr(GlueResponse, name), field, limit))
    for method in (get_partitions, update_table, delete_table):
        monkeypatch.setattr(GlueResponse, method.__name__, method)


GET_PARTITIONS = GlueResponse.get_partitions
UPDATE_TABLE = GlueResponse.update_table
DELETE_TABLE = GlueResponse.delete_table
PAGE = 30


def get_partitions(self):
    found = GET_PARTITIONS(self).result["Partitions"]
    start = int(self.parameters.get("NextToken") or 0)
    more = {"NextToken": str(start + PAGE)} if start + PAGE < len(found) else {}
    return ActionResult({"Partitions": found[start : start + PAGE], **more})


def update_table(self):
    wanted = self.parameters["TableInput"]
    table = self.glue_backend.get_table(self.parameters["DatabaseName"], wanted["Name"])
    if table.as_dict()["PartitionKeys"] != wanted["PartitionKeys"]:
        raise GlueClientError("InvalidInputException", "partition keys cannot be altered")
    return UPDATE_TABLE(self)


def delete_table(self):
    names = self.parameters["DatabaseName"], self.parameters["Name"]
    if self.glue_backend.get_table(*names).get_partitions(""):
        raise GlueClientError("InvalidInputException", "its partitions would outlive it")
    return DELETE_TABLE(self)


def limited(method, field, limit):
    def call(self):
        if not 1 <= len(self.parameters[field]) <= limit:
            raise GlueClientError("ValidationException", f"{field}: 1 to {limit}")
        return method(self)

    return call


class Lake:
    """The lake in the emulated S3; its versions are made on local disk."""

    def __init__(self, s3, folder):
        self.s3, self.folder, self.versions = s3, folder, 0

    def publish(self, starts=STARTS, songs=None, layout=None):
        """Put a new version of all tables in the place of the old one."""
        self.replace(self.make(starts, songs, layout))

    def make(self, starts=STARTS, songs=None, layout=None):
        """A new version of all tables, not published yet: its files by their keys."""
        self.versions += 1
        folder = self.folder / str(self.versions)
        songs = songs or {"S1": ("A1", 0), "S2": ("A2", 1984), "S3": ("A1", 2004)}
        write_lake(folder, make_rows(starts, songs), BY_MONTH if layout is None else layout)
        return self.files(folder, f"-{self.versions}.parquet")

    def files(self, folder, ending=".parquet"):
        """The tables in a folder as keys and contents; no two versions name files alike."""
        return {
            f"some/lake/{path.relative_to(folder)}".replace(".parquet", ending): path.read_bytes()
            for table in TABLES
            for path in (folder / table.name).rglob("*.parquet")
        }

    def replace(self, files):
        """Delete what is there, then write the files."""
        for key in [key for table in TABLES for key in self.find(table.name)]:
            self.s3.delete_object(Bucket=BUCKET, Key=key)
        self.put(files)

    def put(self, files):
        """Write the files."""
        for key, content in files.items():
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=content)

    def find(self, table):
        """The keys of a table's files."""
        return list_keys(self.s3, BUCKET, f"some/lake/{table}/")

    def commit(self, run):
        """Leave what a run leaves that is committed and not swapped in."""
        self.put({f"some/lake/_etl/{run}/plan.json": b"{}", f"some/lake/_etl/{run}/songs/x": b""})

    def finish(self, run):
        """Drop it, as the recovery does at its end."""
        for name in ("plan.json", "songs/x"):
            self.s3.delete_object(Bucket=BUCKET, Key=f"some/lake/_etl/{run}/{name}")

    def download(self, keys, folder):
        """The objects as local files, in folders of the same names."""
        for key in keys:
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        return [str(folder / key) for key in keys]


@pytest.fixture
def lake(session, tmp_path):
    lake = Lake(session.client("s3"), tmp_path / "versions")
    lake.put({"some/lake/_etl/reports/20181130T000000Z-abc.json": b"{}"})
    lake.put({"some/lake_of_others/songs/year=1999/part.parquet": b"not ours"})
    lake.put({"some/lake/songs_of_old/year=1999/part.parquet": b"no table of ours"})
    return lake


# ---- The catalogue as an engine sees it ----------------------------------------------------------


def assert_shows_what_is_published(session, lake, folder):
    """The catalogue's tables hold the rows of the published files, and every file once."""
    for table in TABLES:
        keys = lake.find(table.name)
        assert keys, table.name
        found = session.client("glue").get_table(DatabaseName="sparkify", Name=table.name)["Table"]
        assert scanned_keys(session, found) == sorted(keys), table.name
        contract = dict(table.columns)
        contract.update(dict.fromkeys(set(DATE_PARTS) & set(partition_keys(found)), "INT"))
        assert column_types(found) == {name: kind.lower() for name, kind in contract.items()}
        assert query(session, lake, found, folder) == read_files(lake, keys, contract, folder)


def column_types(found):
    described = [*found["StorageDescriptor"]["Columns"], *found["PartitionKeys"]]
    return {column["Name"]: column["Type"] for column in described}


def partition_keys(found):
    return [column["Name"] for column in found["PartitionKeys"]]


def scans(session, found):
    """The folders that an engine reads for a table, with the values of the partition keys."""
    if not found["PartitionKeys"]:
        return [([], found["StorageDescriptor"])]
    pages = (
        session.client("glue")
        .get_paginator("get_partitions")
        .paginate(DatabaseName=found["DatabaseName"], TableName=found["Name"])
    )
    partitions = [partition for page in pages for partition in page["Partitions"]]
    return [(partition["Values"], partition["StorageDescriptor"]) for partition in partitions]


def scanned_keys(session, found):
    return sorted(
        key for _, storage in scans(session, found) for key in keys_at(session, storage["Location"])
    )


def keys_at(session, location):
    return list_keys(session.client("s3"), BUCKET, location.removeprefix(f"s3://{BUCKET}/"))


def query(session, lake, found, folder):
    """All rows of a table by nothing but what the catalogue says of it."""
    selects = []
    for values, storage in scans(session, found):
        files = lake.download(keys_at(session, storage["Location"]), folder)
        described = {column["Name"]: column["Type"] for column in storage["Columns"]}
        stored = [
            f"cast({name} as {DUCKDB_TYPES[kind.upper()]}) as {name}"
            for name, kind in described.items()
        ]
        keys = [
            f"cast('{value}' as {DUCKDB_TYPES[key['Type'].upper()]}) as {key['Name']}"
            for key, value in zip(found["PartitionKeys"], values)
        ]
        source = f"read_parquet({files}, hive_partitioning = false)"
        selects.append(f"select {', '.join(stored + keys)} from {source}")
    return rows_of(" union all by name ".join(selects), sorted(column_types(found)))


def read_files(lake, keys, contract, folder):
    """All rows of a table by its files and their folders alone."""
    files = lake.download(keys, folder)
    in_folders = [part.partition("=")[0] for part in keys[0].split("/")[3:-1]]
    hive = ", ".join(f"'{name}': {DUCKDB_TYPES[contract[name]]}" for name in in_folders)
    types = f", hive_types = {{{hive}}}" if hive else ""
    source = f"read_parquet({files}, hive_partitioning = true{types})"
    return rows_of(f"select * from {source}", sorted(contract))


def rows_of(sql, names):
    with duckdb.connect() as database:
        database.execute("set TimeZone = 'UTC'")
        order = ", ".join(
            f"epoch_us({name}) as {name}" if name == "start_time" else name for name in names
        )
        return sorted(database.sql(f"select {order} from ({sql})").fetchall(), key=repr)


# ---- After each change ---------------------------------------------------------------------------


def test_a_first_run_is_registered_whole(session, lake, tmp_path):
    lake.publish()
    changes = publish_catalog(session, CONFIG)
    assert {change.name: change.action for change in changes} == dict.fromkeys(
        ("songs", "artists", "users", "time", "songplays"), "create"
    )
    assert_shows_what_is_published(session, lake, tmp_path)


def test_the_same_again_only_asks(session, lake):
    lake.publish()
    publish_catalog(session, CONFIG)
    asked = []
    session.events.register("before-call.glue", lambda model, **_: asked.append(model.name))
    changes = publish_catalog(session, CONFIG)
    assert not any(change.is_needed for change in changes)
    assert set(asked) == {"GetTable", "GetPartitions"}


def test_changed_input_is_registered(session, lake, tmp_path):
    lake.publish()
    publish_catalog(session, CONFIG)
    lake.publish(starts=[*STARTS, "2018-12-01 00:00:00"], songs={"S9": ("A9", 1999)})
    changes = {change.name: change for change in publish_catalog(session, CONFIG)}
    assert [partition["Values"] for partition in changes["songplays"].create] == [["2018", "12"]]
    assert (changes["songplays"].update, changes["songplays"].delete) == ([], [])
    assert changes["songs"].delete == [("0",), ("1984",), ("2004",)]
    assert_shows_what_is_published(session, lake, tmp_path)


def test_removed_months_leave_the_catalogue(session, lake, tmp_path):
    lake.publish()
    publish_catalog(session, CONFIG)
    lake.publish(starts=STARTS[:1])
    changes = {change.name: change for change in publish_catalog(session, CONFIG)}
    assert changes["songplays"].delete == changes["time"].delete == [("2018", "11")]
    assert_shows_what_is_published(session, lake, tmp_path)


LAYOUTS = [
    {**BY_MONTH, "songs": ("year", "artist_id")},
    {"songs": ("artist_id",), "time": ("year",), "songplays": ("year", "month", "day")},
    {},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["artists", "days", "unpartitioned"])
def test_a_changed_layout_makes_the_table_anew_and_back(session, lake, tmp_path, layout):
    songs = {"S1": ("A1", 0), "S2": ("A/2: 50%=é", 1984), "S3": ("1984", 2004)}
    lake.publish(songs=songs)
    publish_catalog(session, CONFIG)
    lake.publish(songs=songs, layout=layout)
    changes = {change.name: change.action for change in publish_catalog(session, CONFIG)}
    assert changes["songs"] == "replace"
    assert_shows_what_is_published(session, lake, tmp_path)
    lake.publish(songs=songs)
    publish_catalog(session, CONFIG)
    assert_shows_what_is_published(session, lake, tmp_path)


def test_a_crash_keeps_the_catalogue_as_it_was_until_the_recovery(session, lake, tmp_path):
    lake.publish()
    publish_catalog(session, CONFIG)
    before = dump(session)
    new = lake.make(starts=["2019-01-01 00:00:00"])
    lake.commit("20190101T000000Z-dead")
    lake.put({key: content for key, content in new.items() if "/songplays/" not in key})
    with pytest.raises(AwsError, match=r"20190101T000000Z-dead/plan.json.*etl.py --recover"):
        publish_catalog(session, CONFIG)
    assert dump(session) == before
    lake.finish("20190101T000000Z-dead")
    lake.replace(new)
    publish_catalog(session, CONFIG)
    assert_shows_what_is_published(session, lake, tmp_path)


@pytest.mark.parametrize("moment", ["begins", "ends"])
def test_a_swap_that_begins_or_ends_while_the_files_are_listed_is_noticed(session, lake, moment):
    lake.publish()
    run = "20190101T000000Z-busy"
    if moment == "ends":
        lake.commit(run)

    def go_on(params, **_):
        if params["Prefix"].endswith("/songplays/"):
            {"begins": lake.commit, "ends": lake.finish}[moment](run)

    session.events.register("before-parameter-build.s3.ListObjectsV2", go_on)
    with pytest.raises(AwsError, match=run):
        publish_catalog(session, CONFIG)
    assert dump(session) == []


def dump(session):
    """Every table and partition of the catalogue."""
    glue = session.client("glue")
    try:
        tables = glue.get_tables(DatabaseName="sparkify")["TableList"]
    except glue.exceptions.EntityNotFoundException:
        return []
    return [(found, scans(session, found)) for found in tables]


# ---- Limits and errors ---------------------------------------------------------------------------


def test_hundreds_of_partitions_go_in_batches(session, lake):
    songs = {f"S{number}": (f"A{number}", 1700 + number) for number in range(230)}
    lake.publish(songs=songs)
    publish_catalog(session, CONFIG)
    songs_table = fetch_registered(session.client("glue"), "sparkify", "songs")
    assert sorted(songs_table.partitions) == [(str(1700 + number),) for number in range(230)]
    moved = dataclasses.replace(CONFIG, output=f"{OUTPUT}_of_others")
    keys = [key for table in TABLES for key in lake.find(table.name)]
    lake.put({key.replace("some/lake/", "some/lake_of_others/"): b"" for key in keys})
    changes = {change.name: change for change in publish_catalog(session, moved)}
    assert (changes["songs"].action, len(changes["songs"].update)) == ("update", 230)
    lake.publish(songs={"S1": ("A1", 1700)})
    publish_catalog(session, CONFIG)
    songs_table = fetch_registered(session.client("glue"), "sparkify", "songs")
    assert list(songs_table.partitions) == [("1700",)]


def test_a_partition_with_a_wrong_folder_is_put_right(session, lake, glue, tmp_path):
    lake.publish()
    publish_catalog(session, CONFIG)
    place = {"DatabaseName": "sparkify", "TableName": "songplays"}
    partition = glue.get_partition(**place, PartitionValues=["2018", "11"])["Partition"]
    wrong = {"Values": ["2018", "11"], "StorageDescriptor": partition["StorageDescriptor"]}
    wrong["StorageDescriptor"]["Location"] += "elsewhere/"
    glue.update_partition(**place, PartitionValueList=["2018", "11"], PartitionInput=wrong)
    publish_catalog(session, CONFIG)
    assert_shows_what_is_published(session, lake, tmp_path)


def test_a_changed_column_is_put_right_and_foreign_parameters_stay(session, lake, glue, tmp_path):
    lake.publish()
    publish_catalog(session, CONFIG)
    found = glue.get_table(DatabaseName="sparkify", Name="users")["Table"]
    table = {key: found[key] for key in ("Name", "PartitionKeys", "StorageDescriptor")}
    table["StorageDescriptor"]["Columns"][0]["Type"] = "bigint"
    table["Parameters"] = {**found["Parameters"], "numRows": "96"}
    glue.update_table(DatabaseName="sparkify", TableInput=table)
    changes = {change.name: change.action for change in publish_catalog(session, CONFIG)}
    assert changes["users"] == "update"
    assert_shows_what_is_published(session, lake, tmp_path)
    found = glue.get_table(DatabaseName="sparkify", Name="users")["Table"]
    assert found["Parameters"]["numRows"] == "96"


def test_what_another_has_done_meanwhile_is_as_good(session, lake, glue, tmp_path):
    lake.publish()
    changes = publish_catalog(session, CONFIG)
    for change in changes:  # all of it is there already
        apply_change(glue, "sparkify", change)
    songplays = next(change for change in changes if change.name == "songplays")
    kept = dataclasses.replace(songplays, action="keep", create=[])
    apply_change(glue, "sparkify", dataclasses.replace(kept, delete=[("1066", "10")]))
    assert_shows_what_is_published(session, lake, tmp_path)
    lost = dataclasses.replace(kept, update=[partition_input("1066", "10")])
    with pytest.raises(AwsError, match=r"could not update in songplays: partition 1066/10"):
        apply_change(glue, "sparkify", lost)


def partition_input(*values):
    return {"Values": list(values), "StorageDescriptor": {"Location": f"{OUTPUT}/songplays/"}}


def test_refused_partitions_are_one_line():
    refused = {"ErrorCode": "InternalServiceException", "ErrorMessage": "try later"}
    answers = [
        {"PartitionValues": ["2018", "11"], "ErrorDetail": {"ErrorCode": "AlreadyExistsException"}},
        {"PartitionValues": ["2018", "12"], "ErrorDetail": refused},
        {"PartitionValues": ["2019", "1"], "ErrorDetail": refused},
    ]
    with pytest.raises(AwsError) as error:
        check_errors(answers, "add to songplays", "AlreadyExistsException")
    assert str(error.value) == (
        "Glue could not add to songplays: partition 2018/12: try later (InternalServiceException),"
        " 2 in all; what was changed stays changed: run this again"
    )
    check_errors(answers[:1], "add to songplays", "AlreadyExistsException")


def test_an_error_in_an_answer_stops_the_script(session, lake, config, capsys, monkeypatch):
    lake.publish()
    detail = {"ErrorCode": "InternalServiceException", "ErrorMessage": "try later"}
    errors = [{"PartitionValues": ["1984"], "ErrorDetail": detail}]
    answer = ActionResult({"Errors": errors})
    monkeypatch.setattr(GlueResponse, "batch_create_partition", lambda _: answer)
    assert run(config) == 1
    assert capsys.readouterr().err.startswith(
        "catalog.py: error: Glue could not add to songs: partition 1984: try later"
    )


def test_a_table_of_someone_else_is_left_alone(session, lake, glue):
    lake.publish()
    glue.create_database(DatabaseInput={"Name": "sparkify"})
    glue.create_table(DatabaseName="sparkify", TableInput={"Name": "users", "Parameters": {}})
    with pytest.raises(AwsError, match=r"sparkify.users .* was not made by this project"):
        publish_catalog(session, CONFIG)
    tables = glue.get_tables(DatabaseName="sparkify")["TableList"]
    assert [table["Name"] for table in tables] == ["users"]


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([], "holds no files: run the job"),
        (["_SUCCESS", ".part.crc", "year=1/_temporary/part.parquet", "year=1/"], "no files"),
        (["year=1/part", "year=1/artist_id=A/part"], r"mixes layouts \(year and year/artist_id\)"),
        (["part", "year=1/part"], r"mixes layouts \(no partitions and year\)"),
        (["colour=red/part"], "by 'colour', which is no partition column"),
        (["year=__HIVE_DEFAULT_PARTITION__/part"], "year has to be a number"),
    ],
)
def test_files_that_are_no_table_are_refused(files, complaint):
    with pytest.raises(AwsError, match=complaint):
        build_published(SONGS, "s3://b/lake/songs/", dict.fromkeys(files, "etag"))


def test_a_folder_that_spark_has_escaped_keeps_its_name_and_shows_its_value():
    published = build_published(
        SONGS, "s3://b/songs/", {"year=0/artist_id=A%2F1%3A 50%25/part-0": "etag"}
    )
    assert published.partitions == {
        ("0", "A/1: 50%"): "s3://b/songs/year=0/artist_id=A%2F1%3A 50%25/"
    }


def test_the_table_input_is_whole():
    published = build_published(
        SONGPLAYS, "s3://b/songplays/", {"year=2018/month=11/part-0": "etag"}
    )
    assert build_table_input(published) == {
        "Name": "songplays",
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {
            "EXTERNAL": "TRUE",
            "classification": "parquet",
            "project": "sparkify-data-lake",
        },
        "PartitionKeys": [{"Name": "year", "Type": "int"}, {"Name": "month", "Type": "int"}],
        "StorageDescriptor": {
            "Columns": [
                {"Name": "songplay_id", "Type": "bigint"},
                {"Name": "start_time", "Type": "timestamp"},
                {"Name": "user_id", "Type": "string"},
                {"Name": "level", "Type": "string"},
                {"Name": "song_id", "Type": "string"},
                {"Name": "artist_id", "Type": "string"},
                {"Name": "session_id", "Type": "bigint"},
                {"Name": "location", "Type": "string"},
                {"Name": "user_agent", "Type": "string"},
            ],
            "Location": "s3://b/songplays/",
            "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
            "SerdeInfo": {
                "SerializationLibrary": (
                    "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
                ),
                "Parameters": {"serialization.format": "1"},
            },
        },
    }


# ---- The script ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    keys = tmp_path / "keys.cfg"
    keys.write_text("[aws]\naccess_key_id =\nsecret_access_key =\nsession_token =\n")
    return ["--keys", str(keys), "--region", REGION, "--output", OUTPUT]


def run(config, *arguments):
    return catalog.main([*config, *arguments])


def test_the_script_tells_each_tables_change(session, lake, config, capsys):
    lake.publish()
    assert run(config) == 0
    assert capsys.readouterr().out.splitlines() == [
        "songs: new table; partitions: 3 added",
        "artists: new table",
        "users: new table",
        "time: new table; partitions: 2 added",
        "songplays: new table; partitions: 2 added",
    ]
    lake.publish(starts=STARTS[:1], layout={**BY_MONTH, "songs": ()})
    assert run(config) == 0
    assert capsys.readouterr().out.splitlines() == [
        "songs: new layout, table created again; partitions: 3 removed",
        "artists: unchanged",
        "users: unchanged",
        "time: partitions: 1 removed",
        "songplays: partitions: 1 removed",
    ]


def test_a_dry_run_changes_nothing_and_tells_all(session, lake, config, capsys):
    lake.publish()
    assert run(config, "--dry-run", "--json", "--database", "other") == 0
    out, err = capsys.readouterr()
    changes = {change["name"]: TableChange(**change) for change in json.loads(out)}
    assert changes["artists"].table["StorageDescriptor"]["Location"] == f"{OUTPUT}/artists/"
    assert changes["songs"].create[0]["Values"] == ["0"]
    assert err == "dry run: nothing was changed in other in us-west-2\n"
    assert session.client("glue").get_databases()["DatabaseList"] == []


def test_a_lake_on_local_disk_cannot_be_registered(capsys):
    assert catalog.main(["--output", "tables"]) == 2
    assert "expected the lake's folder in S3" in capsys.readouterr().err


def test_a_missing_bucket_is_one_line(session, config, capsys):
    assert run(config, "--output", "s3://no-such-bucket/lake") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["Sparkify", "spark-ify", "1st", ""])
def test_a_database_name_that_athena_would_not_take_is_refused(name):
    flags = {("catalog", "database"): name, ("etl", "output"): OUTPUT}
    with pytest.raises(ConfigError, match="expected a name of a-z, 0-9 and _"):
        load_catalog_config(flags=flags, environ={})


# ---- The job's own files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_lake(spark, tmp_path_factory):
    return build_sample_lake(spark, tmp_path_factory)


def test_the_jobs_own_lake_is_registered_whole(session, lake, sample_lake, tmp_path):
    lake.put(lake.files(sample_lake))
    publish_catalog(session, CONFIG)
    assert_shows_what_is_published(session, lake, tmp_path)
    assert not any(change.is_needed for change in publish_catalog(session, CONFIG))


def test_timestamps_are_microseconds_in_utc_and_read_alike(spark, sample_lake):
    files = str(sample_lake / "songplays" / "**" / "*.parquet")
    with duckdb.connect() as database:
        database.execute("set TimeZone = 'America/New_York'")
        types = database.sql(
            f"select distinct type, converted_type, logical_type from parquet_schema('{files}')"
            " where name = 'start_time'"
        ).fetchall()
        by_duckdb = database.sql(
            f"select songplay_id, epoch_us(start_time) from read_parquet('{files}') order by 1"
        ).fetchall()
    assert [kind[:2] for kind in types] == [("INT64", "TIMESTAMP_MICROS")]
    assert "isAdjustedToUTC=1" in types[0][2]
    songplays = spark.read.parquet(str(sample_lake / "songplays"))
    by_spark = songplays.selectExpr("songplay_id", "unix_micros(start_time)").collect()
    assert sorted(map(tuple, by_spark)) == by_duckdb
    assert all(moment % 1000 == 0 for _, moment in by_duckdb)  # Athena's finest resolution
