"""What clusters are doing and what they cost: asked for, computed and rendered."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from aws.cluster import (
    ACTIVE,
    ENDED,
    failure_reason,
    fetch_cluster,
    find_clusters,
    find_last_ended,
)
from aws.prices import PriceList, dollars
from aws.refusals import explain_start
from aws.session import Waiting, poll
from lake.formats import duration, utc_now

if TYPE_CHECKING:
    from mypy_boto3_emr import EMRClient
    from mypy_boto3_emr.type_defs import ClusterTypeDef, InstanceTypeDef, StepSummaryTypeDef

LONG_SECONDS = 12 * 3600  # longer than any run of this job takes
IDLE_SECONDS = 30 * 60
RECENT = dt.timedelta(days=7)  # how old the last cluster may be to be shown
COLOURS = {"FAILED": "red", "INTERRUPTED": "red", "TERMINATED_WITH_ERRORS": "red"}


@dataclasses.dataclass(frozen=True)
class StepStatus:
    """One step as shown; None: it has not begun."""

    id: str
    name: str
    state: str
    reason: str
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class ClusterStatus:
    """One cluster as shown: times in seconds, costs in dollars, None for what is unknown."""

    id: str
    name: str
    state: str
    reason: str
    protected: bool
    age: float
    idle: float | None
    idle_timeout: float | None
    nodes: Mapping[str, int]
    dollars_an_hour: float | None
    dollars_so_far: float | None
    steps: Sequence[StepStatus]
    ends_after_steps: bool = False

    @property
    def ends_in(self) -> float | None:
        """The seconds until it ends itself, if it stays idle."""
        if self.idle is None or self.idle_timeout is None:
            return None
        return max(0.0, self.idle_timeout - self.idle)

    @property
    def warning(self) -> str:
        """Why this cluster looks forgotten, or nothing."""
        if self.state not in ACTIVE:
            return ""
        if self.idle_timeout is None and not self.ends_after_steps:
            return "it has no idle timeout and runs until somebody ends it"
        if self.idle is not None and self.idle > IDLE_SECONDS:
            return f"it has been idle for {duration(self.idle)}"
        if self.age > LONG_SECONDS:
            return f"it has run for {duration(self.age)}"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """The cluster for other programs."""
        return {**dataclasses.asdict(self), "ends_in": self.ends_in, "warning": self.warning}


@dataclasses.dataclass(frozen=True)
class Answers:
    """What EMR's several calls say about one cluster."""

    cluster: ClusterTypeDef
    nodes: Sequence[InstanceTypeDef]
    steps: Sequence[StepSummaryTypeDef]
    idle_timeout: float | None


@dataclasses.dataclass(frozen=True)
class Scope:
    """Which clusters are shown, with how many steps."""

    name: str  # of the project's cluster
    region: str
    cluster_id: str | None = None  # this one only, also after its end
    every_cluster: bool = False  # of the region
    steps: int = 5  # the last ones


def watch_clusters(
    emr: EMRClient, price_list: PriceList, scope: Scope, console: Console, waiting: Waiting
) -> None:
    """Show the clusters again and again, in place on a terminal, until none is active."""
    with Live(console=console, auto_refresh=False) as live:
        for clusters in poll(
            lambda: fetch_statuses(emr, price_list, scope), waiting.poll_seconds, waiting.timeout
        ):
            picture = render_clusters(clusters, scope, console)
            if console.is_terminal:
                live.update(picture, refresh=True)
            else:
                console.print(picture)
            if not any(cluster.state in ACTIVE for cluster in clusters):
                return


# Asking AWS.


def fetch_statuses(emr: EMRClient, price_list: PriceList, scope: Scope) -> list[ClusterStatus]:
    """The cluster of the id, all of the region, or the project's, with those that are ending."""
    if scope.cluster_id:
        clusters = [fetch_cluster(emr, scope.cluster_id)]
    else:
        name = None if scope.every_cluster else scope.name
        clusters = find_clusters(emr, name, (*ACTIVE, "TERMINATING"))
    return [fetch_status(emr, price_list, cluster, scope.steps) for cluster in clusters]


def describe_last_cluster(emr: EMRClient, scope: Scope) -> str:
    """When and why the last cluster ended, in one line; empty if there was none in a week."""
    now = utc_now()
    cluster = find_last_ended(emr, scope.name, now - RECENT)
    if cluster is None:
        return ""
    status = cluster["Status"]
    ago = duration((now - status["Timeline"].get("EndDateTime", now)).total_seconds())
    reason = explain_start(status)
    return f"the last one, {cluster['Id']}, ended {ago} ago, {status['State']}: {reason}"


def fetch_status(
    emr: EMRClient, price_list: PriceList, cluster: ClusterTypeDef, last: int
) -> ClusterStatus:
    """What is shown of a cluster, with its last steps."""
    cluster_id = cluster["Id"]
    pages = emr.get_paginator("list_instances").paginate(ClusterId=cluster_id)
    answers = Answers(
        cluster=cluster,
        nodes=[node for page in pages for node in page["Instances"]],
        steps=emr.list_steps(ClusterId=cluster_id)["Steps"],
        idle_timeout=fetch_idle_timeout(emr, cluster),
    )
    prices = {node["InstanceType"]: price_list.of(node["InstanceType"]) for node in answers.nodes}
    status = build_status(answers, prices, utc_now())
    return dataclasses.replace(status, steps=status.steps[:last])


def fetch_idle_timeout(emr: EMRClient, cluster: ClusterTypeDef) -> int | None:
    """The idle seconds after which the cluster ends itself; None if never, or if it has ended."""
    if cluster["Status"]["State"] in ENDED:
        return None
    answer = emr.get_auto_termination_policy(ClusterId=cluster["Id"])
    return answer.get("AutoTerminationPolicy", {}).get("IdleTimeout")


# Computing.


def build_status(
    answers: Answers, prices: Mapping[str, float | None], now: dt.datetime
) -> ClusterStatus:
    """The status of a cluster at this moment, from EMR's answers."""
    cluster, status = answers.cluster, answers.cluster["Status"]
    timeline = status["Timeline"]
    hours: dict[str, float] = {}
    for node in answers.nodes:
        spent = seconds_between(node["Status"]["Timeline"], "CreationDateTime", now) or 0
        hours[node["InstanceType"]] = hours.get(node["InstanceType"], 0) + spent / 3600
    nodes = Counter(
        node["InstanceType"] for node in answers.nodes if node["Status"]["State"] != "TERMINATED"
    )
    return ClusterStatus(
        id=cluster["Id"],
        name=cluster["Name"],
        state=status["State"],
        reason=status.get("StateChangeReason", {}).get("Message", ""),
        protected=cluster["TerminationProtected"],
        age=seconds_between(timeline, "CreationDateTime", now) or 0,
        idle=idle_seconds(answers, now),
        idle_timeout=answers.idle_timeout,
        nodes=dict(nodes),
        dollars_an_hour=total_cost(nodes, prices),
        dollars_so_far=total_cost(hours, prices),
        steps=[build_step_status(step, now) for step in answers.steps],
        ends_after_steps=cluster.get("AutoTerminate", False),
    )


def build_step_status(step: StepSummaryTypeDef, now: dt.datetime) -> StepStatus:
    """The status of a step, with EMR's reason if it failed."""
    status = step["Status"]
    failed = status["State"] in ("FAILED", "INTERRUPTED")
    return StepStatus(
        id=step["Id"],
        name=step["Name"],
        state=status["State"],
        reason=failure_reason(status) if failed else "",
        seconds=seconds_between(status["Timeline"], "StartDateTime", now),
    )


def seconds_between(timeline: Mapping[str, Any], start: str, now: dt.datetime) -> float | None:
    """The seconds from a moment to the timeline's end, or to now; None before that moment."""
    if start not in timeline:
        return None
    begin: dt.datetime = timeline[start]
    end: dt.datetime = timeline.get("EndDateTime", now)
    return (end - begin).total_seconds()


def idle_seconds(answers: Answers, now: dt.datetime) -> float | None:
    """The seconds since the cluster was ready or its last step ended; None while it works."""
    status = answers.cluster["Status"]
    if status["State"] != "WAITING":
        return None
    moments = [status["Timeline"].get("ReadyDateTime", now)]
    moments += [
        step["Status"]["Timeline"]["EndDateTime"]
        for step in answers.steps
        if "EndDateTime" in step["Status"]["Timeline"]
    ]
    return float((now - max(moments)).total_seconds())


def total_cost(amounts: Mapping[str, float], prices: Mapping[str, float | None]) -> float | None:
    """The cost of so many nodes, or hours, of each type; None if a price is unknown."""
    costs = [(amount, prices[kind]) for kind, amount in amounts.items()]
    if any(price is None for _, price in costs):
        return None
    return sum(amount * (price or 0) for amount, price in costs)


# Rendering.


def render_clusters(
    clusters: Sequence[ClusterStatus], scope: Scope, console: Console
) -> RenderableType:
    """The clusters as panels on a terminal, elsewhere as plain lines."""
    if not clusters:
        named = "" if scope.every_cluster else f" named {scope.name}"
        return f"no active cluster{named} in {scope.region}"
    if console.is_terminal:
        return Group(*[build_panel(cluster) for cluster in clusters])
    lines = [f"{label:<22}{value}" for cluster in clusters for label, value in build_rows(cluster)]
    return "\n".join(lines)


def build_panel(cluster: ClusterStatus) -> Panel:
    """A cluster on a terminal, with failures in red."""
    grid = Table.grid(padding=(0, 2))
    for label, value in build_rows(cluster):
        style = COLOURS.get(value.partition(" ")[0], "")
        grid.add_row(Text(label, style="dim"), Text(value, style=style))
    return Panel(grid, title=f"{cluster.name} {cluster.id}", expand=False)


def build_rows(cluster: ClusterStatus) -> list[tuple[str, str]]:
    """What is shown of a cluster, line by line: a label and a value."""
    nodes = " + ".join(f"{count} {kind}" for kind, count in sorted(cluster.nodes.items()))
    lines = [
        ("cluster", f"{cluster.name} {cluster.id}"),
        ("state", f"{cluster.state} {cluster.reason}".strip()),
        ("age", duration(cluster.age)),
        ("idle", "no" if cluster.idle is None else duration(cluster.idle)),
        ("ends itself", describe_end(cluster)),
        ("nodes", nodes or "none"),
        ("cost", describe_cost(cluster)),
    ]
    return lines + [(f"step {step.id}", describe_step(step)) for step in cluster.steps]


def describe_cost(cluster: ClusterStatus) -> str:
    """What the cluster costs, or how to have it shown."""
    if cluster.dollars_an_hour is None:
        return f"unknown: add {', '.join(sorted(cluster.nodes))} to [prices] in dl.cfg"
    hourly, so_far = dollars(cluster.dollars_an_hour), dollars(cluster.dollars_so_far)
    return f"at most {hourly} an hour, {so_far} so far, without disks and traffic"


def describe_end(cluster: ClusterStatus) -> str:
    """When the cluster ends itself."""
    if cluster.state not in ACTIVE:
        return "now" if cluster.state == "TERMINATING" else "it has ended"
    if cluster.idle_timeout is None:
        return "after its last step" if cluster.ends_after_steps else "never"
    if cluster.ends_in is None:
        return f"{duration(cluster.idle_timeout)} after its last step"
    return f"in {duration(cluster.ends_in)} unless a step is added"


def describe_step(step: StepStatus) -> str:
    """A step in one line."""
    spent = "" if step.seconds is None else f"{duration(step.seconds)}, "
    return f"{step.state} {spent}{step.name}" + (f": {step.reason}" if step.reason else "")
