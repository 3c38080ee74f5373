"""End the project's EMR cluster: show it, ask, end it, and wait until it is gone.

Exit codes: 0 gone (be it already) or nothing done, 1 AWS refused, 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aws.cluster import ACTIVE, ENDED, fetch_cluster, find_cluster, find_clusters
from aws.console import Progress, make_console, say
from aws.session import AwsError, add_flags, connect, load_config, poll, run_script
from lake.formats import duration, utc_now

if TYPE_CHECKING:
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import ClusterTypeDef

    from configs import EmrConfig

BATCH = 10  # the most that one TerminateJobFlows takes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and give its exit code."""
    return run_script(terminate, argv)


def terminate(argv: Sequence[str] | None) -> int:
    """Show, ask, end and wait, as the command line says."""
    args = parse_args(argv)
    config = load_config(args)
    emr = connect(args, config).client("emr")
    clusters = choose_clusters(emr, config, args)
    if not clusters:
        say(f"nothing to end: {describe_choice(config, args)}")
        return 0
    for cluster in clusters:
        print(describe_cluster(emr, cluster))
    check_protection(clusters, unprotect=args.unprotect)
    if args.dry_run:
        say("dry run: nothing was ended")
        return 0
    if not (args.yes or confirmed(clusters, config, everything=args.all)):
        say("nothing was ended")
        return 0
    end_clusters(emr, [cluster["Id"] for cluster in clusters], args)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cluster-id", metavar="ID", help="this cluster")
    which.add_argument("--all", action="store_true", help="every active cluster in the region")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be ended")
    parser.add_argument("--unprotect", action="store_true", help="end protected clusters as well")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until they are gone")
    parser.add_argument("--timeout-minutes", type=float, default=30, help="to wait until gone")
    add_flags(parser)
    return parser.parse_args(argv)


def choose_clusters(
    emr: EMRClient, config: EmrConfig, args: argparse.Namespace
) -> list[ClusterTypeDef]:
    """The active clusters to end: the one of the id, all of the region, or the project's one."""
    if args.cluster_id:
        cluster = fetch_cluster(emr, args.cluster_id)
        return [cluster] if cluster["Status"]["State"] in ACTIVE else []
    if args.all:
        return find_clusters(emr, None)
    found = find_cluster(emr, config.cluster_name)
    return [found] if found else []


def describe_choice(config: EmrConfig, args: argparse.Namespace) -> str:
    """Which clusters were looked for in vain."""
    if args.cluster_id:
        return f"{args.cluster_id} has ended or is ending"
    named = "" if args.all else f" named {config.cluster_name}"
    return f"no active cluster{named} in {config.region}"


def describe_cluster(emr: EMRClient, cluster: ClusterTypeDef) -> str:
    """One line on what would be lost: name, id, state, age, and the unfinished steps."""
    status = cluster["Status"]
    age = utc_now() - status["Timeline"]["CreationDateTime"]
    steps = emr.list_steps(
        ClusterId=cluster["Id"], StepStates=["PENDING", "RUNNING", "CANCEL_PENDING"]
    )["Steps"]
    unfinished = [f"{step['Status']['State']} {step['Name']}" for step in steps]
    protected = ", protected" if cluster["TerminationProtected"] else ""
    return (
        f"{cluster['Name']} {cluster['Id']}: {status['State']}{protected},"
        f" {duration(age.total_seconds())} old,"
        f" unfinished steps: {', '.join(unfinished) or 'none'}"
    )


def check_protection(clusters: Sequence[ClusterTypeDef], *, unprotect: bool) -> None:
    """Stop before anything is ended where one is protected and --unprotect is not given."""
    protected = [cluster["Id"] for cluster in clusters if cluster["TerminationProtected"]]
    if protected and not unprotect:
        raise AwsError(f"protected from termination: {', '.join(protected)}; add --unprotect")


def confirmed(clusters: Sequence[ClusterTypeDef], config: EmrConfig, *, everything: bool) -> bool:
    """Whether the user says yes; to --all only by the name of the region."""
    if everything:
        wanted = config.region
        question = f"End ALL {len(clusters)} clusters above? Type {wanted} to go on: "
    else:
        wanted = "yes"
        question = "End the cluster above? Type yes to go on: "
    try:
        make_console().print(question, end="")
        return input().strip() == wanted
    except EOFError:
        raise AwsError("nobody is there to confirm; add --yes") from None


def end_clusters(emr: EMRClient, ids: Sequence[str], args: argparse.Namespace) -> None:
    """End the clusters, and wait until each is gone unless args.no_wait."""
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        if args.unprotect:
            emr.set_termination_protection(JobFlowIds=batch, TerminationProtected=False)
        emr.terminate_job_flows(JobFlowIds=batch)
    say(f"ending {', '.join(ids)}")
    if args.no_wait:
        return
    for cluster_id in ids:
        wait_until_gone(emr, cluster_id, args)


def wait_until_gone(emr: EMRClient, cluster_id: str, args: argparse.Namespace) -> None:
    """Follow a cluster to its end; however it ends, it is gone."""
    looks = poll(
        lambda: fetch_cluster(emr, cluster_id), args.poll_seconds, args.timeout_minutes * 60
    )
    with Progress() as progress:
        for cluster in looks:
            state = cluster["Status"]["State"]
            progress.show(f"{cluster_id}: {state}")
            if state in ENDED:
                return


if __name__ == "__main__":
    sys.exit(main())
