"""Whether the tables' folders can be replaced: looked at before a run reads anything."""

from __future__ import annotations

from collections.abc import Iterable

from lake.paths import ETL, PROBE, readable
from lake.storage import Storage, StorageError


def refuse_obstacles(storage: Storage, tables: Iterable[str]) -> None:
    """Raise StorageError if a folder could not be replaced by a rename: a link, a mount point."""
    for folder in (ETL, *tables):
        obstacle = storage.obstacle(folder)
        # A link to the job's own folder does no harm, if it leads anywhere.
        if obstacle and not (folder == ETL and obstacle.startswith("is a link")):
            raise StorageError(
                f"{readable(storage.path(folder))} {obstacle}: this job replaces tables by "
                "renaming folders, which needs plain ones; make it one, or choose another output"
            )


def probe_rename(storage: Storage, run: str) -> None:
    """Raise StorageError if a file of the staging area cannot be moved to where the tables are."""
    if not storage.atomic_rename:
        return  # S3 has no folders, and so none that could refuse
    staged = f"{ETL}/{run}/probe"
    storage.write(staged, "")
    storage.delete(PROBE)  # of a run that was killed here
    storage.rename(staged, PROBE)
    storage.delete(PROBE)
    storage.delete(f"{ETL}/{run}")  # a run that finds nothing new stages nothing else
