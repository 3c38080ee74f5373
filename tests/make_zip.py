"""Packs the project for a workspace that has no git: without keys, environment and output.

Usage: python tests/make_zip.py dist/sparkify-data-lake.zip. Standard library only.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "sparkify-data-lake"  # what the archive unpacks to
HIDDEN = (".ci", ".gitignore")  # every other hidden file or folder belongs to some tool
EARLIEST = (1980, 1, 1, 0, 0, 0)  # equal content gives an equal archive
KEY_ID = re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
KEYS_CFG = "keys.cfg"


def find_files(root: Path) -> Iterator[str]:
    """The project's own files, relative to its root: what .gitignore does not name."""
    ignored = read_ignored(root / ".gitignore")
    folders = [root]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            name = path.relative_to(root).as_posix()
            if is_ignored(name, ignored, is_folder=path.is_dir()) or path.is_symlink():
                continue
            if path.is_dir():
                folders.append(path)
            else:
                yield name


def read_ignored(gitignore: Path) -> list[str]:
    """The patterns of a .gitignore that names no exceptions."""
    lines = (line.strip() for line in gitignore.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_ignored(name: str, patterns: list[str], *, is_folder: bool) -> bool:
    """Whether a file or folder belongs to a tool, or a pattern is about it."""
    last = name.rpartition("/")[2]
    if last.startswith(".") and last not in HIDDEN:
        return True
    for pattern in patterns:
        whole = name if "/" in pattern.rstrip("/") else last
        if fnmatchcase(whole, pattern.strip("/")) and (is_folder or not pattern.endswith("/")):
            return True
    return False


def read_content(root: Path, name: str) -> bytes:
    """A file as it is packed: keys.cfg is blank again, and no other may hold the id of a key."""
    content = (root / name).read_bytes()
    if name == KEYS_CFG:
        return blank_keys(content)
    if KEY_ID.search(content) and not name.startswith("tests/"):
        raise ValueError(f"{name} holds the id of an AWS key: take it out, and pack again")
    return content


def blank_keys(content: bytes) -> bytes:
    """keys.cfg with the names of its settings, and no value, nor any comment that could be one."""
    kept = []
    for line in content.splitlines():
        setting = re.match(rb"\w+[ \t]*[=:]", line)
        is_harmless = re.match(rb"[#;\[]|\s*$", line) and not re.search(rb"[\w/+]{16}", line)
        if is_harmless or setting:
            kept.append(setting.group() if setting else line)
    return b"\n".join([*kept, b""])


def write_zip(root: Path, target: Path) -> int:
    """Write the archive and return how many files it holds."""
    files = {name: read_content(root, name) for name in sorted(find_files(root))}
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}", EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            is_script = content.startswith(b"#!")
            entry.external_attr = (0o100755 if is_script else 0o100644) << 16
            archive.writestr(entry, content)
    return len(files)


def main() -> int:
    """Pack the project into the file that the command line names."""
    if len(sys.argv) != 2:
        print("usage: python tests/make_zip.py FILE.zip", file=sys.stderr)
        return 2
    target = Path(sys.argv[1])
    try:
        count = write_zip(ROOT, target)
    except (ValueError, OSError) as error:
        print(f"make_zip.py: error: {error}", file=sys.stderr)
        return 1
    print(f"{target}: {count} files, {target.stat().st_size / 1024:,.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
