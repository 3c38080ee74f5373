"""The archive of the project: all of it, nothing that running it has made, and no key."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import make_zip

ROOT = make_zip.ROOT
NOT_SOURCE = (
    *("output/songs/part-0.parquet", ".venv/bin/python", ".venv39/pyvenv.cfg", "dist/old.zip"),
    *("data/song_data/A/TR1.json", "data/.unpacking.x/TR1.json", "__pycache__/etl.pyc"),
    *("tests/__pycache__/x.pyc", ".git/config", ".aws/credentials", ".env", "my.pem"),
    *("keys.local.cfg", "exploration/.ipynb_checkpoints/etl.ipynb", "spark-warehouse/x"),
)
SOURCE = (".ci/run", "data/log-data.zip", "etl.py", "tests/output/x.py", "tests/spark-warehouse")


@pytest.fixture
def project(tmp_path):
    """A small project with this one's .gitignore, and much that is not its source."""
    project = tmp_path / "project"
    for name in (*NOT_SOURCE, *SOURCE):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    shutil.copy(ROOT / ".gitignore", project)
    shutil.copy(ROOT / "keys.cfg", project)
    return project


def packed(project):
    """The files of a project's archive: name -> content."""
    target = project.parent / "packed" / "project.zip"
    make_zip.write_zip(project, target)
    with zipfile.ZipFile(target) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_holds_the_source_and_nothing_that_was_made(project):
    names = [name.partition("/")[2] for name in packed(project)]
    assert names == sorted([*SOURCE, ".gitignore", "keys.cfg"])


def test_it_unpacks_into_one_folder(project):
    assert {name.partition("/")[0] for name in packed(project)} == {"sparkify-data-lake"}


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git's reading of .gitignore")
def test_it_holds_what_git_would_take(project):
    for name in (".git", ".aws"):  # the second is hidden, which is more than .gitignore asks
        shutil.rmtree(project / name)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=project, check=True)
    listed = subprocess.run(["git", "ls-files"], cwd=project, check=True, capture_output=True)
    assert sorted(make_zip.find_files(project)) == listed.stdout.decode().split()


def test_filled_in_keys_are_packed_blank(project):
    keys = project / "keys.cfg"
    blank = keys.read_text()
    filled = blank.replace("access_key_id =", "access_key_id = AKIA0123456789ABCDEF")
    filled = filled.replace("secret_access_key =", "secret_access_key:  wJalrXUtnFEMIK7MDENGbPx")
    keys.write_text(f"{filled}  and+more/of/it\n# old: wJalrXUtnFEMIK7MDENGbPx\nstray\n")
    expected = blank.replace("secret_access_key =", "secret_access_key:")
    assert packed(project)["sparkify-data-lake/keys.cfg"].decode() == expected


def test_blank_keys_are_packed_as_they_are(project):
    assert packed(project)["sparkify-data-lake/keys.cfg"] == (ROOT / "keys.cfg").read_bytes()


def test_a_key_in_another_file_is_refused(project):
    (project / "dl.cfg").write_text("x = ASIA0123456789ABCDEF\n")
    with pytest.raises(ValueError, match=r"dl\.cfg holds the id of an AWS key: take it out"):
        packed(project)


def test_scripts_stay_executable_and_equal_content_gives_an_equal_archive(project):
    (project / ".ci" / "run").write_text("#!/bin/sh\n")
    targets = [project.parent / name for name in ("a.zip", "b.zip")]
    for target in targets:
        make_zip.write_zip(project, target)
        os.utime(project / "etl.py", (1_000_000_000, 1_000_000_000))
    with zipfile.ZipFile(targets[0]) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    assert oct(modes["sparkify-data-lake/.ci/run"]) == "0o100755"
    assert oct(modes["sparkify-data-lake/etl.py"]) == "0o100644"
    assert targets[0].read_bytes() == targets[1].read_bytes()


def test_the_command_packs_this_project(tmp_path):
    target = tmp_path / "new" / "project.zip"
    script = [sys.executable, str(Path(make_zip.__file__)), str(target)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{target}: ")
    with zipfile.ZipFile(target) as archive:
        names = set(archive.namelist())
    for name in ("etl.py", "Makefile", "data/song-data.zip", "exploration/etl.ipynb", "dl.cfg"):
        assert f"sparkify-data-lake/{name}" in names
