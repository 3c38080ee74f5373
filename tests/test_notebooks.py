"""The notebooks: committed without output, plain enough for EMR, and run on the sample data."""

from __future__ import annotations

import ast
import base64
import json
import re
import shutil
import struct
from pathlib import Path

import boto3
import nbformat
import pytest
from nbclient import NotebookClient

import etl
from tests.lake import build_sample_lake
from tests.s3 import moto_server, s3_settings
from tests.test_questions import QUESTIONS

ROOT = Path(etl.__file__).parent
NOTEBOOKS = sorted((ROOT / "exploration").glob("*.ipynb"))
SHOW_PLOT = "%matplot plt"


def read(name):
    return nbformat.read(ROOT / "exploration" / f"{name}.ipynb", as_version=4)


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_there_are_both_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["etl", "star_schema"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_without_output(path):
    assert [c for c in code_cells(path) if c.outputs or c.execution_count is not None] == []
    assert set(json.loads(path.read_text())["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_emrs_kernel_understands_it(path):
    """EMR's is no IPython: plain Python, and lines that begin with its own %matplot."""
    for cell in code_cells(path):
        lines = cell.source.split("\n")
        assert {line for line in lines if line.startswith(("%", "!"))} <= {SHOW_PLOT}
        ast.parse("\n".join(line for line in lines if line != SHOW_PLOT))


def asked(notebook):
    """The SQL of a notebook by the name that its answer gets."""
    queries = {}
    for cell in notebook.cells:
        pattern = r'^(\w+) = spark\.sql\("""\n(.*?)\n"""\)\.collect\(\)$'
        queries.update(re.findall(pattern, cell.source, flags=re.M | re.S))
    return queries


def test_the_notebook_asks_the_questions_of_the_file():
    in_file = {
        name: re.sub(r"^--.*\n", "", sql, flags=re.M).rstrip(";\n")
        for name, sql in QUESTIONS.items()
    }
    assert asked(read("star_schema")) == in_file


# ---- Run -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a notebook in a copy of the project, in a kernel of its own; returns what it printed."""
    project = tmp_path / "project"
    (project / "exploration").mkdir(parents=True)
    for module in ROOT.glob("*.py"):
        shutil.copy(module, project)
    shutil.copytree(ROOT / "lake", project / "lake", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))

    def run_notebook(notebook, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        # Where a kernel sees this it does not show what its child processes write, as Java is.
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
        where = {"metadata": {"path": str(project / "exploration")}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
        return [output for cell in notebook.cells for output in cell.get("outputs", ())]

    return run_notebook


def printed(outputs, stream="stdout"):
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == stream)


def published_tables(lake):
    (report,) = (lake / "_etl" / "reports").glob("*.json")
    return json.loads(report.read_text())["tables"]


def test_star_schema_runs_on_the_sample(spark, tmp_path_factory, run):
    lake = build_sample_lake(spark, tmp_path_factory)
    outputs = run(read("star_schema"), SPARKIFY_ETL_OUTPUT=lake)
    for table, facts in published_tables(lake).items():
        assert f"{table}: {facts['rows']:,} rows" in printed(outputs)
    assert printed(outputs, "stderr") == ""  # none of Spark's log
    plots = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(plots) == len(QUESTIONS)
    assert all(width(plot) > 600 for plot in plots)


def width(png):
    """The pixels from left to right of a PNG."""
    return struct.unpack(">I", base64.b64decode(png)[16:20])[0]


def test_etl_runs_on_the_sample_and_shows_what_a_change_to_the_job_changes(
    spark, tmp_path_factory, run
):
    data = build_sample_lake(spark, tmp_path_factory).parent
    notebook = read("etl")
    notebook.cells.insert(index_of(notebook, "importlib.reload"), edit_of_the_job())
    outputs = run(
        notebook,
        SPARKIFY_ETL_SONG_DATA=data / "song_data",
        SPARKIFY_ETL_LOG_DATA=data / "log_data",
    )
    tables = published_tables(data / "lake")
    assert printed(outputs, "stderr") == ""  # none of Spark's log
    assert f"events are {tables['songplays']['rows']:,} plays" in printed(outputs)
    users = tables["users"]["rows"]
    assert f"users: {users:,} rows added, {users:,} removed" in printed(outputs)
    for table in set(tables) - {"users"}:
        assert f"{table}: 0 rows added, 0 removed" in printed(outputs)


def index_of(notebook, text):
    return next(n for n, cell in enumerate(notebook.cells) if text in cell.source)


def edit_of_the_job():
    """What a developer does in an editor: every user's last name becomes another."""
    old = "select(*USERS.columns)"
    new = f'{old}.withColumn("last_name", F.lit("Nobody"))'
    return nbformat.v4.new_code_cell(
        "job = Path('../etl.py')\n"
        f"edited = job.read_text().replace({old!r}, {new!r})\n"
        "assert edited != job.read_text()\n"
        "job.write_text(edited)"
    )


def test_star_schema_opens_a_lake_in_s3(spark, tmp_path_factory, run):
    lake = build_sample_lake(spark, tmp_path_factory)
    notebook = read("star_schema")
    notebook.cells = notebook.cells[: index_of(notebook, "import matplotlib")]
    with moto_server() as endpoint:
        upload(lake, endpoint)
        # Only where S3 is, and with which keys: the rest is up to the notebook.
        told = {
            n: v for n, v in s3_settings(endpoint).items() if n.startswith("spark.hadoop.fs.s3a")
        }
        settings = " ".join(f"--conf {name}={value}" for name, value in told.items())
        outputs = run(
            notebook,
            SPARKIFY_ETL_OUTPUT="s3://a-lake/sparkify",
            PYSPARK_SUBMIT_ARGS=f"{settings} pyspark-shell",
        )
    for table, facts in published_tables(lake).items():
        assert f"{table}: {facts['rows']:,} rows" in printed(outputs)


def upload(lake, endpoint):
    s3 = boto3.client("s3", endpoint_url=endpoint)
    s3.create_bucket(Bucket="a-lake")
    for path in lake.glob("[!_]*/**/*.parquet"):
        s3.upload_file(str(path), "a-lake", f"sparkify/{path.relative_to(lake).as_posix()}")
