"""Which file a row goes to, and how the files of a table are written.

A table has one file per partition, up to a limit of rows; an unpartitioned table has one file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, DataFrameWriter
from pyspark.sql import functions as F

from lake.tables import DATE_PARTS, Table

FILE = "_file"  # the number of a row's file within its partition
LAYOUT = (*DATE_PARTS, FILE)  # the columns that lay_out derives from start_time alone
Sizes = Mapping[tuple[int, ...], int]  # the values of a table's partition columns -> its rows

# Almost every row has its own value: Parquet would fill a dictionary with them and then discard it.
NO_DICTIONARY = {
    f"parquet.enable.dictionary#{name}": "false" for name in ("start_time", "songplay_id")
}
# Hadoop's usual class for a local disk writes a checksum file beside each file. Without Hadoop's
# native library it also starts a chmod process for each of both, which takes most of the time of a
# small file. Parquet has its own checksums. Set for these writers only: S3A needs the usual class.
PLAIN_LOCAL_FILES = {
    "fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    "fs.file.impl.disable.cache": "true",  # else a cached instance of the usual class is used
}


def lay_out(rows: DataFrame, table: Table, sizes: Sizes, limit: int) -> DataFrame:
    """Rows with the columns of the table's layout, those of one file brought together."""
    parts = {name: date_part(name) for name in table.partition_by if name not in rows.columns}
    rows = rows.withColumns({**parts, FILE: build_file_number(table, sizes, limit)})
    if table.partition_by or sizes:
        return rows.repartition(*table.partition_by, FILE)
    return rows.repartition(1)


def layout_of(rows: DataFrame) -> list[str]:
    """The columns that lay_out has added; rows with the same start_time have the same values."""
    return [name for name in LAYOUT if name in rows.columns]


def date_part(name: str) -> Column:
    """A partition column that is derived from start_time."""
    parts = {"year": F.year, "month": F.month, "day": F.dayofmonth}
    return parts[name]("start_time").alias(name)


def build_file_number(table: Table, sizes: Sizes, limit: int) -> Column:
    """The number of a row's file within its partition: 0 unless the partition is above the limit.

    A large partition has 2, 4, 8 ... files, so that any usual number of cores shares them evenly.
    """
    number = F.lit(0).cast("long")
    for partition, size in sizes.items():
        # A hash fills the files unevenly, by well under 2 %.
        files = 1 << (int(size * 1.02) // limit).bit_length()
        is_here = [F.col(name) == value for name, value in zip(table.partition_by, partition)]
        spread = F.pmod(F.xxhash64("start_time"), F.lit(files))
        number = F.when(functools.reduce(Column.__and__, is_here, F.lit(True)), spread).otherwise(
            number
        )
    return number


def stage_table(rows: DataFrame, table: Table, path: str, limit: int) -> None:
    """Write rows that are laid out to a fresh folder."""
    rows = rows.sortWithinPartitions(*table.partition_by, FILE, *table.sort_by).drop(FILE)
    writer = new_writer(rows, path).option("maxRecordsPerFile", limit)
    writer.partitionBy(*table.partition_by).parquet(path, mode="errorifexists")


def new_writer(rows: DataFrame, path: str) -> DataFrameWriter:
    """A writer of Parquet files to a path."""
    writer = rows.write.options(**NO_DICTIONARY)
    return writer.options(**PLAIN_LOCAL_FILES) if path.startswith("file:") else writer
