"""The parts of the README that are made from the files they describe: python -m tests.readme."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SETTING = re.compile(r"(?P<key>[\w.]+) *=(?P<default>[^#]*)(?:# (?P<why>.*))?")
# keys.cfg has no comment beside a value, which could hold a part of one.
WHY_KEYS = {
    "access_key_id": "of an IAM user, where there is no better way in",
    "secret_access_key": "of the same user",
    "session_token": "only with temporary keys",
}
# What the first line of a file cannot tell.
OTHERS = {
    "LICENSE": "MIT",
    "Makefile": "the commands: `make help` lists them",
    "data": "the sample data, zipped; the generator that made it; the script that unpacks it",
    "exploration": "two notebooks and the analysts' questions in SQL",
    "aws": "what the laptop scripts share",
    "lake": "what ships to the cluster with etl.py",
    "tests": "the tests, the emulators they run on, and the benchmark",
}


def build_configuration() -> str:
    """A table of all keys of dl.cfg and keys.cfg, with the files' own words."""
    rows = ["| key | what and why | default |", "|---|---|---|"]
    for name in ("dl.cfg", "keys.cfg"):
        section = ""
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                section = line.strip()
            elif match := SETTING.fullmatch(line):
                default = match["default"].strip()
                default = f"`{default}`" if default else "blank"
                why = match["why"] or WHY_KEYS[match["key"]]
                rows.append(f"| `{section} {match['key']}` | {why} | {default} |")
    return "\n".join(rows)


def build_file_map() -> str:
    """A line for each file and folder of the root, with its own first sentence."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = sorted({name.partition("/")[0] for name in listed} - {"README.md"})
    visible = [name for name in names if not name.startswith(".")]
    return "\n".join(
        ["| file | what it is |", "|---|---|", *(f"| `{n}` | {describe(n)} |" for n in visible)]
    )


def describe(name: str) -> str:
    """The first sentence of a file, from its docstring or its first comment."""
    if name in OTHERS:
        return OTHERS[name]
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".py"):
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        comments = re.findall(r"^#(?!!) ?(.*)", text, re.MULTILINE)
        text = "\n".join(comments)
    sentence = re.split(r"(?<=[.?!]) ", " ".join(text.split("\n\n")[0].split()))[0]
    return sentence.rstrip(".")


def render(readme: str) -> str:
    """The README with the generated parts as they should be."""
    parts = {"configuration": build_configuration(), "files": build_file_map()}
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = readme.partition(begin)
        readme = f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"
    return readme


if __name__ == "__main__":
    README.write_text(render(README.read_text(encoding="utf-8")), encoding="utf-8")
