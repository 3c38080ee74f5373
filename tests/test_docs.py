"""README.md and docs/: what they name exists, and what they show is what happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

import lake
from lake.report import Report, render
from tests.docs import ROOT, SETTING
from tests.lake import build_sample_lake

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [README, *PAGES, ROOT / "CHANGELOG.md"]
SUFFIXES = "py|cfg|md|sh|toml|json|sql|ipynb|txt|yml"
NOT_SHIPPED = ("output/", "my-policy.json", ".venv/")
PLACEHOLDER = r"\.\.\.|<\w+>|\b[NM]\b|[(),:%']|\d+|warning"  # in the runbook's messages
each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)


def read(path):
    return path.read_text(encoding="utf-8")


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(README), re.MULTILINE | re.DOTALL)


# ---- What they name ------------------------------------------------------------------------------


def test_the_generated_parts_are_those_of_the_code():
    names = [str(path.relative_to(ROOT)) for path in (README, *PAGES)]
    command = [sys.executable, "-m", "cogapp", "--check", "--diff", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run make docs: {done.stdout}{done.stderr}"


def test_the_readme_is_short():
    assert len(read(README).splitlines()) <= 150


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_begins_with_the_question_that_it_answers(path):
    title, blank, question = read(path).splitlines()[:3]
    assert title.startswith("# ")
    assert blank == ""
    assert question.endswith("?")


def test_the_make_targets_that_are_named_exist_and_all_are_named():
    targets = set(re.findall(r"^([a-z-]+):.*## ", read(ROOT / "Makefile"), re.MULTILINE))
    texts = "\n".join(map(read, (README, *PAGES)))
    assert set(re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", texts)) == targets


@each_text
def test_its_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(path)):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (path.parent / name) if name else path
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target), link


def anchors(path):
    """The anchors that a Markdown page has for its headings."""
    titles = re.findall(r"^#+ (.*)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.name)
def test_the_files_that_it_names_exist(path):
    named = re.findall(rf"[\w./-]*[\w-]+\.(?:{SUFFIXES})\b|`[\w./-]+/`", code_of(read(path)))
    files = {name.strip("`") for name in named} - {"/", "./"}
    listed = [name for name in files if not name.startswith(NOT_SHIPPED)]
    assert [name for name in listed if not (ROOT / name).exists()] == []


def code_of(text):
    """The code in a text, without the blocks that show data or output, URIs and placeholders."""
    text = re.sub(
        r"^```(?:json|text|mermaid|ini)\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL
    )
    spans = re.findall(r"`[^`\n]+`|^\$ .*$", text, re.MULTILINE)
    kept = (re.sub(r"\S*(?:://|<\w+>)\S*|'[^']*'", "", span) for span in spans)
    return "\n".join(kept)


def test_the_modules_that_are_run_exist():
    texts = "\n".join(map(read, TEXTS))
    modules = set(re.findall(r"python -m ((?:aws|exploration|lake|tests)\.\w+)", texts))
    assert modules
    missing = [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()]
    assert missing == []


# ---- What they show ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "answer"),
    [
        ("duckdb", r"Feathered Wagons of Morvane +│ +The Ormere Sparrows +│ +64"),
        ("pandas", r"free +2829\npaid +2078"),
        ("pyspark", r"\| +0\| +145\|"),
    ],
)
def test_the_readmes_queries_run(spark, tmp_path_factory, capfd, library, answer):
    (query,) = (code for code in code_blocks("python") if re.search(rf"\b{library}\b", code))
    exec(query.replace("output/", f"{build_sample_lake(spark, tmp_path_factory)}/"), {})
    assert re.search(answer, capfd.readouterr().out)


def test_the_readmes_summary_is_that_of_the_sample(spark, tmp_path_factory):
    (path,) = (build_sample_lake(spark, tmp_path_factory) / "_etl" / "reports").glob("*.json")
    (shown,) = (block for block in code_blocks("text") if block.startswith("source "))
    printed = without_sizes(render(Report(**json.loads(read(path)))))
    assert "songplays" in shown
    assert [line for line in without_sizes(shown) if line not in printed] == []


def without_sizes(summary):
    """The lines of a summary without sizes, which differ between versions of Parquet."""
    return re.sub(r" +\d+ [KM]iB$", "", summary, flags=re.MULTILINE).splitlines()


def test_the_messages_that_the_runbook_explains_are_those_of_the_job():
    sources = "\n".join(
        map(read, [ROOT / "etl.py", ROOT / "configs.py", *sorted((ROOT / "lake").glob("*.py"))])
    )
    messages = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message may be written on several lines
    section = read(ROOT / "docs" / "runbook.md").partition("## The job")[2].partition("## ")[0]
    quoted = [
        span
        for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for span in re.findall(r"`(.+?)`", cell)
    ]
    pieces = [piece.strip() for span in quoted for piece in re.split(PLACEHOLDER, span)]
    assert len(quoted) > 7
    assert [piece for piece in pieces if len(piece) > 3 and piece not in messages] == []


# ---- What they agree with ------------------------------------------------------------------------


def test_every_setting_says_why_it_is_what_it_is():
    matches = [m for line in read(ROOT / "dl.cfg").splitlines() if (m := SETTING.fullmatch(line))]
    assert matches
    assert [match["key"] for match in matches if not match["why"]] == []


def test_the_changelog_begins_with_the_version():
    assert re.findall(r"^## \[(.*?)\]", read(ROOT / "CHANGELOG.md"), re.MULTILINE)[0] == (
        lake.__version__
    )


def test_the_checks_at_a_commit_use_the_pinned_versions():
    files = "\n".join(read(ROOT / f"requirements{kind}.txt") for kind in ("", "-dev"))
    requirements = set(re.findall(r"^[\w-]+(?:\[[\w,-]+\])?==[\w.]+", files, re.MULTILINE))
    config = yaml.safe_load(read(ROOT / ".pre-commit-config.yaml"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    used = {pin for hook in hooks for pin in hook["additional_dependencies"]}
    assert {pin.partition("==")[0] for pin in used} >= {"ruff", "mypy"}
    assert used - requirements == set()
