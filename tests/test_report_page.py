"""The HTML page of a run: what it shows, and that nothing in a rejected line is more than text."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest

from exploration import report_page
from lake.report import Report
from tests.lake import build_sample_lake

ROOT = Path(report_page.__file__).parents[1]
TAGS_WITHOUT_END = {"meta"}


def report(**changes):
    return {
        **json.loads(Report("20181130T235959Z-abc123").as_json()),
        "status": "published",
        "started": "2018-11-30T23:59:59.000+00:00",
        "finished": "2018-12-01T00:00:19.500+00:00",
        "seconds": {"session": 4.0, "songs": 16.5},
        "sources": {"log_data": account(rejected={"not_json": 2, "wrong_type": 1})},
        "tables": {"songplays": {"rows": 8, "partitions": 1, "files": 2, "bytes": 4096}},
        "matched_plays": 2,
        "repaired_names": 1234,
        "plays_per_day": {"2018-11-01": 5, "2018-11-04": 3},
        **changes,
    }


def account(**changes):
    return {
        "files": 30,
        "read": 8052,
        "loaded": 8,
        "filtered": 11,
        "duplicate": 1,
        "rejected": {},
        **changes,
    }


def reject(**changes):
    return {
        "reason": "not_json",
        "file": "s3://bucket/a.json",
        "length": 9,
        "line": "{oh",
        **changes,
    }


class Page(HTMLParser):
    """What a browser would make of a page: its elements and its text."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Keep an element with its attributes."""
        self.elements.append((tag, dict(attrs)))
        if tag not in TAGS_WITHOUT_END:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Elements end in the order in which they nest."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep text, but not the style sheet."""
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        """All text, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    @property
    def tags(self):
        """The kinds of elements."""
        return {tag for tag, _ in self.elements}


def page(examples=(), **changes):
    by_reason = {}
    for example in examples:
        by_reason.setdefault(example["reason"], []).append(example)
    examples = {"log_data": by_reason}
    return Page(report_page.render_page(report(**changes), examples, "/home/me/my lake"))


@pytest.fixture
def lake(tmp_path):
    """A lake with two reports, and rejects of the later run."""
    reports = tmp_path / "_etl" / "reports"
    rejects = tmp_path / "_etl" / "rejects" / "20181130T235959Z-abc123" / "log_data"
    reports.mkdir(parents=True)
    rejects.mkdir(parents=True)
    for run in ("20181101T000000Z-fff999", "20181130T235959Z-abc123"):
        (reports / f"{run}.json").write_text(json.dumps(report(run=run)))
    lines = [reject(line=f"line {n}") for n in range(9)] + [
        reject(reason="wrong_type", line="rare")
    ]
    (rejects / "part-0.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


# ---- What it shows -------------------------------------------------------------------------------


def test_every_element_is_closed():
    assert page([reject()]).open == []


def test_headline_figures_are_those_of_the_run():
    text = page().text
    assert "Sparkify data lake: published /home/me/my lake" in text
    assert "run 20181130T235959Z-abc123, started 2018-11-30 23:59:59 UTC, took 20 s" in text
    for figure in ("8 plays", "25.0 % have a song", "3 records rejected", "1,234 names repaired"):
        assert figure in text
    assert "4 KiB in all tables" in text


def test_the_number_of_checks_is_a_figure_of_a_published_run():
    assert "42 checks, no rule broken" in page(checks=42).text
    assert "no rule broken" not in page(checks=42, status="failed").text
    assert "no rule broken" not in page(checks=0).text


def test_a_low_share_of_plays_with_a_song_is_explained():
    assert report_page.MATCHED in page().text


def test_each_source_is_a_column_of_outcomes():
    assert "read 8,052 loaded 8 filtered 11 duplicate 1 rejected 3" in page().text


def test_reasons_come_with_counts_the_most_frequent_first():
    rejected = {"wrong_type": 1, "not_json": 2}
    text = page(sources={"log_data": account(rejected=rejected)}).text
    assert text.index("2 not_json") < text.index("1 wrong_type")


def test_an_example_stands_under_its_reason_with_its_file():
    text = page([reject(reason="wrong_type", line='{"ts": "noon"}')]).text
    assert text.index("1 wrong_type") < text.index('s3://bucket/a.json {"ts": "noon"}')


def test_a_reason_comes_with_its_meaning():
    assert f"2 not_json log_data: {report_page.REASONS['not_json']}" in page().text
    unknown = page(sources={"log_data": account(rejected={"new_reason": 1})})
    assert "1 new_reason log_data: not known to this page" in unknown.text


def find_reasons(*modules: Path) -> set[str]:
    """The reasons for a rejection that the code knows."""
    text = "".join(module.read_text(encoding="utf-8") for module in modules)
    named = re.findall(r"""\b_?fault\(["'](\w+)|(?:THEN|ELSE) '([a-z]+_\w+)'""", text)
    return {one or other for one, other in named}


def test_the_meaning_of_every_reason_of_the_job_is_known():
    assert set(report_page.REASONS) == find_reasons(
        ROOT / "lake" / "lines.py", ROOT / "lake" / "parsing.py"
    )


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/home/me/my%20lake/a.json", "/home/me/my lake/a.json"),
        ("file:///home/me/a.json", "/home/me/a.json"),
        ("s3://bucket/my%20lake/a.json", "s3://bucket/my lake/a.json"),
        ("/home/me/100%25/a.json", "/home/me/100%25/a.json"),
    ],
)
def test_a_file_is_named_as_ls_takes_it(uri, path):
    assert f"{path} {{oh" in page([reject(file=uri)]).text


def test_a_long_line_is_cut_and_says_so():
    text = page([reject(line="x" * 5000, length=70_000)]).text
    assert "x" * 1000 in text
    assert "x" * 1001 not in text
    assert "the first 1,000 of 70,000 characters" in text


def test_plays_per_day_show_a_day_without_a_play():
    shown = page()
    bars = [attrs for tag, attrs in shown.elements if tag == "rect" and "x" in attrs]
    assert [bar["height"] for bar in bars] == ["100.00%", "0.00%", "0.00%", "60.00%"]
    assert "8 plays in 4 days; the busiest day was 2018-11-01 with 5." in shown.text
    assert "2018-11-02 0 2018-11-03 0 2018-11-04 3" in shown.text


def test_the_chart_says_to_a_screen_reader_what_it_shows():
    (chart,) = (attrs for tag, attrs in page().elements if attrs.get("role") == "img")
    assert chart["aria-label"] == "8 plays in 4 days; the busiest day was 2018-11-01 with 5."


@pytest.mark.parametrize(
    ("last", "unit", "bars"), [("2018-02-28", "day", 59), ("2019-12-31", "month", 24)]
)
def test_many_days_are_shown_by_month(last, unit, bars):
    found, counts = report_page.condense({"2018-01-01": 2, "2018-01-03": 1, last: 4})
    assert (found, len(counts), sum(counts.values())) == (unit, bars, 7)


def test_a_century_is_shown_by_year():
    unit, counts = report_page.condense({"2000-01-01": 1, "2100-01-01": 1})
    assert (unit, len(counts), counts["2050"]) == ("year", 101, 0)


def test_stages_are_bars_beside_the_longest():
    bars = [a["width"] for tag, a in page().elements if tag == "rect" and "x" not in a]
    assert bars == ["24.2%", "100.0%"]


def test_warnings_are_on_the_page():
    assert "What to look at songs shrank & fell" in page(warnings=["songs shrank & fell"]).text


def test_a_run_that_failed_at_once_has_a_page_with_its_error():
    empty = {"sources": {}, "tables": {}, "seconds": {}, "plays_per_day": {}, "matched_plays": 0}
    text = page(status="failed", error="log_data: no such path", **empty).text
    assert "Sparkify data lake: failed" in text
    assert "log_data: no such path" in text
    assert "No table was published by this run." in text


def test_a_report_without_plays_per_day_has_a_page_without_the_chart():
    old = report()
    del old["plays_per_day"]
    assert "Plays per day" not in report_page.render_page(old, {}, "lake")


# ---- Hostile input -------------------------------------------------------------------------------

HOSTILE = (
    "</pre></details><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "<!--",
    "&lt;script&gt;",
    "$run ${run} $$ %s {0}",
)


@pytest.mark.parametrize("line", HOSTILE)
def test_a_rejected_line_is_only_text(line):
    harmless = page([reject(line="harmless")])
    hostile = page([reject(line=line)])
    assert hostile.elements == harmless.elements
    assert " ".join(line.split()) in hostile.text


@pytest.mark.parametrize("field", ["run", "status", "error", "warnings"])
def test_every_text_of_a_report_is_only_text(field):
    evil = "<script>alert(1)</script>"
    assert "script" not in page(**{field: [evil] if field == "warnings" else evil}).tags


@pytest.mark.parametrize("place", ["sources", "reason", "file", "tables", "seconds"])
def test_every_name_in_a_report_is_only_text(place):
    evil = "<script>alert(1)</script>"
    changes = {
        "sources": {"sources": {evil: account(rejected={"not_json": 1})}},
        "reason": {"sources": {"log_data": account(rejected={evil: 1})}},
        "file": {"examples": [reject(file=evil)]},
        "tables": {"tables": {evil: {"rows": 1, "partitions": 1, "files": 1, "bytes": 1}}},
        "seconds": {"seconds": {evil: 1.0}},
    }
    shown = page(**changes[place])
    assert "script" not in shown.tags
    assert evil in shown.text


def test_the_path_of_the_lake_is_only_text():
    shown = Page(report_page.render_page(report(), {}, "<script>alert(1)</script>"))
    assert "script" not in shown.tags


def test_characters_that_hide_or_turn_text_round_become_visible():
    text = page([reject(line="a\x00b\u202ec\x1b[2Jd\ud800e")]).text
    assert "a\\u0000b\\u202ec\\u001b[2Jd\\ud800e" in text


def test_the_page_forbids_itself_scripts_and_the_network():
    shown = page([reject()])
    policy = {attrs.get("http-equiv"): attrs.get("content") for _, attrs in shown.elements}
    assert policy["Content-Security-Policy"].startswith("default-src 'none';")
    assert not [attrs for _, attrs in shown.elements if {"src", "href"} & set(attrs)]


# ---- The command ---------------------------------------------------------------------------------


def run_script(*arguments):
    script = [sys.executable, "-m", "exploration.report_page", *map(str, arguments)]
    return subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_prints_the_path_of_the_latest_runs_page(lake):
    done = run_script("--output", lake)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "open this page in a browser" in done.stderr
    written = Path(done.stdout.strip())
    assert written == lake / "_etl" / "report.html"
    assert "run 20181130T235959Z-abc123" in written.read_text()


def test_a_few_examples_of_each_reason_are_read(lake):
    shown = Page(report_page.write_page(str(lake)).read_text())
    assert "line 0" in shown.text
    assert "line 2" in shown.text
    assert "line 3" not in shown.text
    assert "rare" in shown.text


def test_a_lone_surrogate_in_a_reject_can_be_written(lake):
    (rejects,) = lake.glob("_etl/rejects/*/log_data/*.json")
    rejects.write_text('{"reason":"not_json","file":"f","length":1,"line":"\\ud800"}\n')
    assert "\\ud800" in report_page.write_page(str(lake)).read_text(encoding="utf-8")


def test_any_run_can_be_shown_and_written_anywhere(lake, tmp_path, capsys):
    page_path = tmp_path / "other.html"
    wanted = ["--output", str(lake), "--run", "20181101T000000Z-fff999", "--page", str(page_path)]
    assert report_page.main(wanted) == 0
    assert capsys.readouterr().out == f"{page_path}\n"
    assert "run 20181101T000000Z-fff999" in page_path.read_text()


def test_an_output_without_a_report_is_one_line(tmp_path, capsys):
    assert report_page.main(["--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"report_page.py: error: {tmp_path}/_etl/reports holds no report:"
        " has etl.py run with this output?\n"
    )


def test_an_unknown_run_is_one_line_that_names_the_latest(lake, capsys):
    assert report_page.main(["--output", str(lake), "--run", "x"]) == 1
    assert capsys.readouterr().err.endswith(
        "no report of run x; the latest is 20181130T235959Z-abc123\n"
    )


def test_a_lake_in_s3_is_one_line_that_tells_how_to_fetch_it(capsys):
    assert report_page.main(["--output", "s3://bucket/lake"]) == 1
    assert "aws s3 cp --recursive s3://bucket/lake/_etl" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"sources": {"log_data": 1}}'])
def test_a_report_that_is_none_is_one_line(lake, capsys, content):
    latest = lake / "_etl" / "reports" / "20181130T235959Z-abc123.json"
    latest.write_text(content)
    assert report_page.main(["--output", str(lake)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"report_page.py: error: {latest} or its rejects in")
    assert error.count("\n") == 1


def test_the_page_is_made_from_what_the_job_reports():
    """A field that the page reads and the job no longer writes would be a KeyError here."""
    fresh = json.loads(Report("run").as_json()) | {"finished": "2018-12-01T00:00:00+00:00"}
    assert "failed" in report_page.render_page(fresh, {}, "lake")


def test_the_sample_runs_report_counts_the_plays_of_each_day(spark, tmp_path_factory):
    lake = build_sample_lake(spark, tmp_path_factory)
    (path,) = (lake / "_etl" / "reports").glob("*.json")
    days = "select strftime(start_time at time zone 'UTC', '%Y-%m-%d') as day, count(*)"
    plays = f"from read_parquet('{lake}/songplays/**/*.parquet') group by day order by day"
    with duckdb.connect() as database:
        counted = database.execute(f"{days} {plays}").fetchall()
    assert list(json.loads(path.read_text())["plays_per_day"].items()) == counted


def test_the_sample_runs_page_has_an_example_of_every_reason(spark, tmp_path_factory, tmp_path):
    lake = build_sample_lake(spark, tmp_path_factory)
    shown = Page(report_page.write_page(str(lake), page=tmp_path / "page.html").read_text())
    (path,) = (lake / "_etl" / "reports").glob("*.json")
    reasons = json.loads(path.read_text())["sources"]["log_data"]["rejected"]
    assert len(reasons) > 3
    for reason in reasons:
        meaning = re.escape(report_page.REASONS[reason])
        assert re.search(rf"\d {reason} log_data: {meaning} /\S+-events\.json,? \S", shown.text)
