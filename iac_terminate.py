"""End the project's EMR cluster: show it, ask, end it, and wait until it is gone.

With --everything, also remove all else that the project made in the account.

Exit codes: those of lake/exit_codes.py; to have nothing to end is success.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aws.catalog import CatalogConfig
from aws.cluster import (
    ACTIVE,
    EndOptions,
    describe_cluster,
    end_clusters,
    fetch_cluster,
    find_cluster,
    find_clusters,
    is_ours,
    refuse_protected,
)
from aws.console import make_console, say
from aws.locations import locate
from aws.removal import ALWAYS_LEFT, Find, choose, find_everything, remove_all
from aws.session import (
    AwsError,
    CommonOptions,
    Waiting,
    add_common_flags,
    connect,
    load_cluster_config,
    read_common_options,
    run_script,
)
from configs import load_etl_config, load_section, open_dl_cfg
from lake.exit_codes import ExitCode

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import ClusterTypeDef

    from configs import EmrConfig


@dataclasses.dataclass(frozen=True)
class TerminateOptions:
    """What the command line says: which clusters, and whether to ask."""

    common: CommonOptions
    end: EndOptions
    cluster_id: str | None
    every_cluster: bool
    everything: bool
    with_data: bool
    yes: bool
    dry_run: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(terminate, argv)


def terminate(argv: Sequence[str] | None) -> ExitCode:
    """Show, ask, end and wait, as the command line says."""
    options = parse_args(argv)
    config = load_cluster_config(options.common)
    session = connect(options.common, config)
    config = dataclasses.replace(config, region=session.region_name)
    emr = session.client("emr")
    clusters = choose_clusters(emr, config, options)
    if options.everything:
        return terminate_everything(session, clusters, options)
    if not clusters:
        say(f"nothing to end: {describe_choice(config, options)}")
        return ExitCode.DONE
    for cluster in clusters:
        print(describe_cluster(emr, cluster))
    refuse_protected(clusters, options.end)
    if options.dry_run:
        say("dry run: nothing was ended")
    elif options.yes or is_confirmed(clusters, config, options):
        end_clusters(emr, [cluster["Id"] for cluster in clusters], options.end)
    else:
        say("nothing was ended")
    return ExitCode.DONE


def parse_args(argv: Sequence[str] | None) -> TerminateOptions:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cluster-id", metavar="ID", help="this cluster")
    which.add_argument("--all", action="store_true", help="every active cluster in the region")
    which.add_argument(
        "--everything", action="store_true", help="and all else that the project made, but data"
    )
    flag = parser.add_argument
    flag("--with-data", action="store_true", help="of --everything: sources and lake as well")
    flag("--yes", action="store_true", help="do not ask")
    flag("--dry-run", action="store_true", help="only show what would be ended")
    flag("--unprotect", action="store_true", help="end protected clusters as well")
    flag("--no-wait", action="store_true", help="do not wait until they are gone")
    flag("--timeout-minutes", type=float, default=30, help="to wait until they are gone")
    add_common_flags(parser, ("bucket",))
    args = parser.parse_args(argv)
    if args.everything and args.no_wait:
        parser.error(
            "--everything removes what a cluster uses until it is gone: leave out --no-wait"
        )
    if args.with_data and not args.everything:
        parser.error("--with-data says what --everything removes: add --everything")
    common = read_common_options(vars(args))
    waiting = Waiting(common.poll_seconds, args.timeout_minutes)
    return TerminateOptions(
        common=common,
        end=EndOptions(waiting, unprotect=args.unprotect, wait=not args.no_wait),
        cluster_id=args.cluster_id,
        every_cluster=args.all,
        everything=args.everything,
        with_data=args.with_data,
        yes=args.yes,
        dry_run=args.dry_run,
    )


def choose_clusters(
    emr: EMRClient, config: EmrConfig, options: TerminateOptions
) -> list[ClusterTypeDef]:
    """The active clusters to end: the one of the id, all of the region, or the project's one."""
    if options.cluster_id:
        cluster = fetch_cluster(emr, options.cluster_id)
        return [cluster] if cluster["Status"]["State"] in ACTIVE else []
    if options.everything:  # under whatever name: the others use the roles as well
        return [cluster for cluster in find_clusters(emr, None) if is_ours(cluster)]
    if options.every_cluster:
        return find_clusters(emr, None)
    found = find_cluster(emr, config.cluster_name)
    return [found] if found else []


def describe_choice(config: EmrConfig, options: TerminateOptions) -> str:
    """Why there is no cluster to end."""
    if options.cluster_id:
        return f"{options.cluster_id} has ended or is ending"
    named = "" if options.every_cluster else f" named {config.cluster_name}"
    return f"no active cluster{named} in {config.region}"


def is_confirmed(
    clusters: Sequence[ClusterTypeDef], config: EmrConfig, options: TerminateOptions
) -> bool:
    """Whether the user says yes; --all asks for the name of the region instead."""
    if options.every_cluster:
        wanted = config.region
        question = f"End ALL {len(clusters)} clusters above? Type {wanted} to go on: "
    else:
        wanted = "yes"
        question = "End the cluster above? Type yes to go on: "
    return ask(question) == wanted


def ask(question: str) -> str:
    """What the user types; without any input an AwsError."""
    try:
        make_console().print(question, end="")
        return input().strip()
    except EOFError:
        raise AwsError("cannot ask for confirmation: there is no input; add --yes") from None


# Everything.


def terminate_everything(
    session: boto3.Session, clusters: Sequence[ClusterTypeDef], options: TerminateOptions
) -> ExitCode:
    """Show all that the project made, ask, end the clusters, remove the rest, say what is left."""
    emr, finds = session.client("emr"), find_rest(session, options)
    for line in [*(describe_cluster(emr, one) for one in clusters), *map(describe_find, finds)]:
        print(line)
    refuse_protected(clusters, options.end)
    if not (clusters or any(find.remove for find in finds)):
        say(f"nothing to remove in {session.region_name}")
        return ExitCode.DONE
    if options.dry_run or not (options.yes or wants_removal(options)):
        say("dry run: nothing was removed" if options.dry_run else "nothing was removed")
        return ExitCode.DONE
    chosen, left = choose(finds, with_data=options.with_data or wants_data(finds, options))
    if clusters:
        end_clusters(emr, [cluster["Id"] for cluster in clusters], options.end)
    try:
        remove_all(chosen)
    finally:
        say("\n".join(f"left: {what}" for what in [*(find.what for find in left), ALWAYS_LEFT]))
    return ExitCode.DONE


def find_rest(session: boto3.Session, options: TerminateOptions) -> list[Find]:
    """What the project made beside its clusters, where dl.cfg says that it is."""
    path = options.common.config
    config, etl = locate(session, load_cluster_config(options.common), load_etl_config(path))
    database = load_section(open_dl_cfg(path, {}, os.environ), "catalog", CatalogConfig).database
    return find_everything(session, config, etl, database)


def describe_find(find: Find) -> str:
    """One thing in one line, with what becomes of it."""
    if not find.remove:
        return f"stays: {find.what}"
    return f"data: {find.what}" if find.is_data else find.what


def wants_removal(options: TerminateOptions) -> bool:
    """Whether the user says yes."""
    but = "" if options.with_data else " but what is marked as data"
    return ask(f"Remove all of the above{but}? Type yes to go on: ") == "yes"


def wants_data(finds: Sequence[Find], options: TerminateOptions) -> bool:
    """Whether the user gives the second word, without which sources and lake stay."""
    if options.yes or not any(find.is_data for find in finds):
        return False
    return ask("Remove the data as well, for good? Type data to go on: ") == "data"


if __name__ == "__main__":
    sys.exit(main())
