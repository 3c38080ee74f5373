"""The repository holds no keys, and what ships needs only what a cluster has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs import KEYS_CFG

ROOT = Path(__file__).parent.parent
SHIPPED = ["etl.py", "configs.py", *sorted(f"lake/{path.name}" for path in ROOT.glob("lake/*.py"))]


def test_the_committed_keys_are_blank():
    committed = subprocess.run(
        ["git", "show", "HEAD:keys.cfg"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    text = committed.stdout if committed.returncode == 0 else KEYS_CFG.read_text(encoding="utf-8")
    values = re.findall(r"^\w+ *=([^#\n]*)", text, re.MULTILINE)
    assert values
    assert not any(value.strip() for value in values)


def test_no_tracked_file_holds_an_access_key():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        found = re.findall(rb"\bA(?:KIA|SIA)[A-Z0-9]{16}\b", content)
        assert not [key for key in found if not re.search(rb"EXAMPLE|0123456789", key)], name


@pytest.mark.parametrize("module", SHIPPED)
def test_what_ships_needs_only_pyspark_and_the_standard_library(module):
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    imported = {
        (name or "").partition(".")[0]
        for node in set(ast.walk(tree)) - optional_imports(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    foreign = {name for name in imported if name not in sys.stdlib_module_names}
    assert foreign <= {"pyspark", "py4j", "configs", "lake"}


def optional_imports(tree):
    """The statements of a module that it does without where a package is missing."""
    return {
        statement
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and any(getattr(handler.type, "id", "") == "ImportError" for handler in node.handlers)
        for statement in node.body
    }
