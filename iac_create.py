"""Find the project's EMR cluster, or create it, and wait until it accepts steps.

Prints the cluster's id. Exit codes: those of lake/exit_codes.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from aws.create import CreateOptions, find_or_create
from aws.locations import locate, locate_without_aws
from aws.requests import MANAGED_TAG, build_cluster_request
from aws.session import (
    CommonOptions,
    Waiting,
    add_common_flags,
    connect,
    load_cluster_config,
    read_common_options,
    run_script,
)
from configs import EmrConfig, load_etl_config
from lake.exit_codes import ExitCode

SETTINGS = [field.name for field in dataclasses.fields(EmrConfig) if "parse" in field.metadata]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(create, argv)


def create(argv: Sequence[str] | None) -> ExitCode:
    """Find or create the cluster as the command line says."""
    common, options, dry_run = parse_args(argv)
    config, etl = load_cluster_config(common), load_etl_config(common.config)
    if dry_run:
        config, _ = locate_without_aws(config, etl)
        print(json.dumps(build_cluster_request(config), indent=2))
        return ExitCode.DONE
    session = connect(common, config)
    config, etl = locate(session, config, etl)
    print(find_or_create(session, config, etl, options))
    return ExitCode.DONE


def parse_args(argv: Sequence[str] | None) -> tuple[CommonOptions, CreateOptions, bool]:
    """The command line, with a flag for every key of [emr]; the last is --dry-run."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    flag = parser.add_argument
    for name, meaning in (
        ("--set-up", "all three of the following: what an account needs once"),
        ("--create-bucket", "create the missing buckets: private, encrypted"),
        ("--create-roles", "create the roles of EMR and of the nodes, or bring them up to date"),
        ("--tag-network", f"tag the subnets, their VPC and EMR's groups {MANAGED_TAG}"),
        ("--dry-run", "print the request; ask AWS nothing"),
        ("--no-wait", "do not wait until the cluster accepts steps"),
    ):
        flag(name, action="store_true", help=meaning)
    flag("--timeout-minutes", type=float, default=60, help="for the cluster to start")
    add_common_flags(parser, SETTINGS)
    args = parser.parse_args(argv)
    common = read_common_options(vars(args))
    options = CreateOptions(
        waiting=Waiting(common.poll_seconds, args.timeout_minutes),
        create_bucket=args.set_up or args.create_bucket,
        create_roles=args.set_up or args.create_roles,
        tag_network=args.set_up or args.tag_network,
        wait=not args.no_wait,
    )
    return common, options, args.dry_run


if __name__ == "__main__":
    sys.exit(main())
