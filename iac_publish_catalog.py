"""Register the published tables in the AWS Glue Data Catalog, for Athena and Redshift Spectrum.

Prints what changed in each table. Run it after every run of the job and every recovery; a second
time changes nothing. Exit codes: 0 the catalogue holds what is published, 1 AWS refused something
or a swap is unfinished, 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aws.catalog import TableChange, publish_catalog
from aws.console import say
from aws.session import connect, load_config, run_script
from configs import DL_CFG, KEYS_CFG, load_catalog_config

if TYPE_CHECKING:
    from configs import Flags

LAKE_FLAGS = (
    ("emr.region", "--region", "an AWS region such as us-west-2"),
    ("etl.output", "--output", "the lake's folder in S3, such as s3://my-bucket/lake"),
    ("catalog.database", "--database", "of the Glue Data Catalog"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(publish, argv)


def publish(argv: Sequence[str] | None) -> int:
    """Register the tables as the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="only look what would change")
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")
    add_flags(parser)
    args = parser.parse_args(argv)
    config = load_catalog_config(args.config, given_flags(args))
    session = connect(args, load_config(args))
    changes = publish_catalog(session, config, dry_run=args.dry_run)
    if args.json:
        print(json.dumps([dataclasses.asdict(change) for change in changes], indent=2))
    else:
        print("\n".join(describe(change) for change in changes))
    where = f"{config.database} in {session.region_name}"
    say(f"{'nothing is changed yet in' if args.dry_run else 'all tables are in'} {where}")
    return 0


def add_flags(parser: argparse.ArgumentParser, *more: tuple[str, str, str]) -> None:
    """The flags of the scripts that use the lake; each beats the setting it is named for."""
    parser.add_argument("--config", type=Path, default=DL_CFG, help="instead of dl.cfg")
    parser.add_argument("--keys", type=Path, default=KEYS_CFG, help="instead of keys.cfg")
    for name, flag, meaning in (*LAKE_FLAGS, *more):
        parser.add_argument(flag, dest=name, metavar="VALUE", help=meaning)


def given_flags(args: argparse.Namespace) -> Flags:
    """The settings that were given as flags."""
    given = {name.partition("."): value for name, value in vars(args).items() if value is not None}
    return {(section, key): value for (section, dot, key), value in given.items() if dot}


def describe(change: TableChange) -> str:
    """What happens to one table, in one line."""
    if not change.is_needed:
        return f"{change.name}: unchanged"
    counts = ((change.create, "added"), (change.update, "changed"), (change.delete, "removed"))
    done = [f"{len(partitions):,} {verb}" for partitions, verb in counts if partitions]
    table = {"keep": "", "create": "new table", "update": "changed table"}
    words = table.get(change.action, "new layout, made anew")
    partitions = f"partitions: {', '.join(done)}" if done else ""
    return f"{change.name}: {'; '.join(part for part in (words, partitions) if part)}"


if __name__ == "__main__":
    sys.exit(main())
