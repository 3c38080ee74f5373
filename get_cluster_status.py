"""Show the project's clusters: state, age, idle time, nodes, steps, cost, and which look forgotten.

Exit codes: those of lake/exit_codes.py; to have no cluster is success.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aws.console import make_result_console, warn
from aws.prices import PriceList
from aws.session import (
    CommonOptions,
    Waiting,
    add_common_flags,
    connect,
    load_cluster_config,
    read_common_options,
    run_script,
)
from aws.status import (
    ClusterStatus,
    Scope,
    describe_last_cluster,
    fetch_statuses,
    render_clusters,
    watch_clusters,
)
from lake.exit_codes import ExitCode

if TYPE_CHECKING:
    from mypy_boto3_emr import EMRClient


@dataclasses.dataclass(frozen=True)
class StatusOptions:
    """What the command line says."""

    common: CommonOptions
    cluster_id: str | None
    every_cluster: bool
    steps: int
    watch: bool
    json: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(show_status, argv)


def show_status(argv: Sequence[str] | None) -> ExitCode:
    """Show the clusters once, or with --watch until none is active."""
    options = parse_args(argv)
    config = load_cluster_config(options.common)
    session = connect(options.common, config)
    emr, price_list = session.client("emr"), PriceList(session, config.prices)
    scope = Scope(
        name=config.cluster_name,
        region=session.region_name,
        cluster_id=options.cluster_id,
        every_cluster=options.every_cluster,
        steps=options.steps,
    )
    console = make_result_console()
    if options.watch:
        try:
            watch_clusters(emr, price_list, scope, console, Waiting(options.common.poll_seconds))
        except KeyboardInterrupt:
            return ExitCode.CTRL_C  # without the message of run_script: this is how to leave it
        return ExitCode.DONE
    clusters = fetch_statuses(emr, price_list, scope)
    if options.json:
        print(json.dumps([cluster.as_dict() for cluster in clusters], indent=2))
    else:
        console.print(render_clusters(clusters, scope, console))
        show_last_cluster(emr, scope, clusters)
    warn_of_forgotten(clusters)
    return ExitCode.DONE


def show_last_cluster(emr: EMRClient, scope: Scope, clusters: Sequence[ClusterStatus]) -> None:
    """Print why the last cluster ended, where the project has no active one."""
    last = "" if clusters or scope.every_cluster else describe_last_cluster(emr, scope)
    if last:
        print(last)


def warn_of_forgotten(clusters: Sequence[ClusterStatus]) -> None:
    """Warn of each cluster that looks forgotten, with the command that ends it."""
    for cluster in clusters:
        if cluster.warning:
            end = f"iac_terminate.py --cluster-id {cluster.id}"
            warn(f"{cluster.id} looks forgotten: {cluster.warning}; end it with {end}")


def parse_args(argv: Sequence[str] | None) -> StatusOptions:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="every active cluster in the region")
    which.add_argument("--cluster-id", metavar="ID", help="this cluster, also after its end")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="last steps to show")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    output.add_argument("--json", action="store_true", help="for other programs")
    add_common_flags(parser)
    args = parser.parse_args(argv)
    return StatusOptions(
        common=read_common_options(vars(args)),
        cluster_id=args.cluster_id,
        every_cluster=args.all,
        steps=args.steps,
        watch=args.watch,
        json=args.json,
    )


if __name__ == "__main__":
    sys.exit(main())
