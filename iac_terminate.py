"""End the project's EMR cluster: show it, ask, end it, and wait until it is gone.

Exit codes: those of lake/exit_codes.py; to have nothing to end is success.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aws.cluster import (
    ACTIVE,
    EndOptions,
    describe_cluster,
    end_clusters,
    fetch_cluster,
    find_cluster,
    find_clusters,
    refuse_protected,
)
from aws.console import make_console, say
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
from lake.exit_codes import ExitCode

if TYPE_CHECKING:
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
    yes: bool
    dry_run: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(terminate, argv)


def terminate(argv: Sequence[str] | None) -> ExitCode:
    """Show, ask, end and wait, as the command line says."""
    options = parse_args(argv)
    config = load_cluster_config(options.common)
    emr = connect(options.common, config).client("emr")
    clusters = choose_clusters(emr, config, options)
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
    flag = parser.add_argument
    flag("--yes", action="store_true", help="do not ask")
    flag("--dry-run", action="store_true", help="only show what would be ended")
    flag("--unprotect", action="store_true", help="end protected clusters as well")
    flag("--no-wait", action="store_true", help="do not wait until they are gone")
    flag("--timeout-minutes", type=float, default=30, help="to wait until they are gone")
    add_common_flags(parser)
    args = parser.parse_args(argv)
    common = read_common_options(vars(args))
    waiting = Waiting(common.poll_seconds, args.timeout_minutes)
    return TerminateOptions(
        common=common,
        end=EndOptions(waiting, unprotect=args.unprotect, wait=not args.no_wait),
        cluster_id=args.cluster_id,
        every_cluster=args.all,
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
    try:
        make_console().print(question, end="")
        return input().strip() == wanted
    except EOFError:
        raise AwsError("cannot ask for confirmation: there is no input; add --yes") from None


if __name__ == "__main__":
    sys.exit(main())
