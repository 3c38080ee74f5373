"""An AWS account on this machine: a small EMR of our own, and moto for S3, IAM, EC2 and the rest.

One server answers them all, so that the scripts reach it as they reach AWS, with AWS_ENDPOINT_URL
the only difference. What EMR would do in minutes is done in ticks: every request that reads a
cluster moves every cluster and step on by one. So tests are fast and always go the same way.

Requests are checked against botocore's own model of EMR, enums included, and so are the answers.
"""

from __future__ import annotations

import dataclasses
import gzip
import http
import io
import json
import os
import re
import threading
import time
import urllib.parse
import xml.sax.saxutils
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import botocore.session
from botocore.validate import ParamValidator
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_api._internal import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.emr_account import (
    FRESH_PROFILE,
    LINKED_ROLES,
    VCPUS,
    find_validation_error,
    get_service_quota,
)

Json = dict[str, Any]
MODEL = botocore.session.get_session().get_service_model("emr")
OPEN = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")
UNFINISHED = ("PENDING", "CANCEL_PENDING", "RUNNING")
PAGE = 50
RELEASES = {"emr-7.13.0": "3.5.6", "emr-7.12.0": "3.5.6", "emr-6.15.0": "3.4.1"}
EC2_PRICES = {"m5.xlarge": 0.192, "m5a.xlarge": 0.172, "m5.2xlarge": 0.384, "r5.xlarge": 0.252}
EMR_PRICES = {"m5.xlarge": 0.048, "m5a.xlarge": 0.043, "m5.2xlarge": 0.096, "r5.xlarge": 0.063}


@dataclasses.dataclass(frozen=True)
class ClusterPlan:
    """What becomes of the next cluster: ticks in each state, and the failure if it is to fail.

    A failure is EMR's reason code; INSTANCE_FAILURE and the like come when it would be ready.
    Logs are paths under LogUri/<cluster id>/ with their text; a path ending in .gz is compressed.
    """

    starting: int = 1
    bootstrapping: int = 1
    terminating: int = 1
    failure: str = ""
    message: str = ""
    logs: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What becomes of the next step, unless run_step really runs it.

    In the logs' paths {step} stands for the step's id. They appear log_delay ticks after its end.
    """

    pending: int = 1
    running: int = 1
    outcome: str = "COMPLETED"
    details: Mapping[str, str] = dataclasses.field(default_factory=dict)
    logs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_delay: int = 0


@dataclasses.dataclass(frozen=True)
class StepRun:
    """What run_step gets: what EMR would run, and the event that tells it to stop."""

    cluster_id: str
    step_id: str
    jar: str
    args: Sequence[str]
    cancelled: threading.Event


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What run_step gives back: the exit code, and logs as in StepPlan."""

    exit_code: int
    logs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_delay: int = 0


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as it came over the wire."""

    service: str
    operation: str  # empty where the protocol does not name it: S3
    region: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclasses.dataclass
class Refusal:
    """An error to answer instead, so many times."""

    service: str
    operation: str
    code: str
    message: str
    status: int
    times: int


class Fault(Exception):  # noqa: N818 (as AWS calls it)
    """An error answered to the client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Step:
    """One step and what is to become of it."""

    def __init__(self, step_id: str, config: Json, plan: StepPlan) -> None:
        self.id, self.plan, self.state = step_id, plan, "PENDING"
        self.name, self.action = config["Name"], config.get("ActionOnFailure", "TERMINATE_CLUSTER")
        self.jar = config["HadoopJarStep"]
        self.timeline = {"CreationDateTime": time.time()}
        self.details: Json = {}
        self.ticks = 0
        self.cancelled = threading.Event()
        self.thread: threading.Thread | None = None
        self.result: StepResult | None = None

    def enter(self, state: str) -> None:
        """Go to a state."""
        self.state, self.ticks = state, 0
        if state == "RUNNING":
            self.timeline["StartDateTime"] = time.time()
        if state not in UNFINISHED:
            self.timeline["EndDateTime"] = time.time()

    def describe(self) -> Json:
        """Step, as EMR answers it."""
        status = {"State": self.state, "StateChangeReason": {}, "Timeline": self.timeline}
        if self.details:
            status["FailureDetails"] = self.details
        config = {key: self.jar[key] for key in ("Jar", "Args", "MainClass") if key in self.jar}
        config["Properties"] = {
            pair["Key"]: pair["Value"] for pair in self.jar.get("Properties", [])
        }
        return {
            "Id": self.id,
            "Name": self.name,
            "ActionOnFailure": self.action,
            "Config": config,
            "Status": status,
        }


class Cluster:
    """One cluster: the request that made it, its state and its steps."""

    def __init__(self, cluster_id: str, region: str, request: Json, plan: ClusterPlan) -> None:
        self.id, self.region, self.request, self.plan = cluster_id, region, request, plan
        self.state, self.reason, self.ticks = "STARTING", Json(), 0
        self.ending = "TERMINATED"
        self.timeline = {"CreationDateTime": time.time()}
        self.protected = request["Instances"].get("TerminationProtected", False)
        self.policy = request.get("AutoTerminationPolicy")
        self.scaling = request.get("ManagedScalingPolicy")
        self.steps: list[Step] = []

    @property
    def concurrency(self) -> int:
        """How many steps may run at a time."""
        return self.request.get("StepConcurrencyLevel", 1)

    def enter(self, state: str, code: str = "", message: str = "") -> None:
        """Go to a state, for a reason."""
        self.state, self.ticks = state, 0
        reason = {"Code": code, "Message": message}
        self.reason = {key: value for key, value in reason.items() if value}
        if state == "WAITING":
            self.timeline.setdefault("ReadyDateTime", time.time())
        if state.startswith("TERMINATED"):
            self.timeline["EndDateTime"] = time.time()

    def status(self) -> Json:
        """Status, as EMR answers it."""
        return {"State": self.state, "StateChangeReason": self.reason, "Timeline": self.timeline}

    def summary(self) -> Json:
        """ClusterSummary, as EMR answers it."""
        return {
            "Id": self.id,
            "Name": self.request["Name"],
            "Status": self.status(),
            "NormalizedInstanceHours": 0,
            "ClusterArn": self.arn,
        }

    @property
    def arn(self) -> str:
        """The cluster's Amazon Resource Name."""
        place = f"{self.region}:{DEFAULT_ACCOUNT_ID}"
        return f"arn:aws:elasticmapreduce:{place}:cluster/{self.id}"

    def describe(self) -> Json:
        """Cluster, as EMR answers it."""
        instances, request = self.request["Instances"], self.request
        fleets = "InstanceFleets" in instances
        attributes = {"IamInstanceProfile": request.get("JobFlowRole", "")}
        if "Ec2KeyName" in instances:
            attributes["Ec2KeyName"] = instances["Ec2KeyName"]
        passed_on = (
            "ReleaseLabel",
            "Applications",
            "Tags",
            "ServiceRole",
            "Configurations",
            "SecurityConfiguration",
            "EbsRootVolumeSize",
        )
        return {
            **self.summary(),
            **{key: request[key] for key in passed_on if key in request},
            # EMR gives the URI back like this, with a slash at its end.
            "LogUri": request.get("LogUri", "").rstrip("/").replace("s3://", "s3n://") + "/",
            "Ec2InstanceAttributes": attributes,
            "InstanceCollectionType": "INSTANCE_FLEET" if fleets else "INSTANCE_GROUP",
            "AutoTerminate": not instances.get("KeepJobFlowAliveWhenNoSteps", False),
            "TerminationProtected": self.protected,
            "StepConcurrencyLevel": self.concurrency,
            "MasterPublicDnsName": "ec2-192-0-2-1.compute.amazonaws.com",
        }


class EmrEmulator:
    """The account, as a context manager: it serves at .url from entry to exit.

    Tests set next_cluster, next_step or run_step, refuse requests, and look at .requests.
    """

    def __init__(self, run_step: Callable[[StepRun], StepResult] | None = None) -> None:
        self.run_step = run_step
        self.next_cluster, self.next_step = ClusterPlan(), StepPlan()
        self.ticking = True  # False: only advance() moves anything
        # What follows the making of an instance profile, while IAM does not show it everywhere:
        # so many refusals of RunJobFlow, then so many clusters that do not start.
        self.fresh_refusals, self.fresh_failures = 0, 0
        self.refusals_left, self.failures_left = 0, 0
        self.vcpu_quota = 64.0  # of on-demand standard instances
        self.clusters: dict[str, Cluster] = {}
        self.security_configurations: dict[str, str] = {}
        self.requests: list[Request] = []
        self.refusals: list[Refusal] = []
        self.late_logs: list[tuple[int, str, Mapping[str, str]]] = []
        self.ticks, self.ids, self.region = 0, 0, ""
        self.lock = threading.RLock()
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.url = ""

    # The server.

    def __enter__(self) -> EmrEmulator:
        os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = (
            "false"  # loading them takes a second, and no test needs them
        )
        moto_api_backend.reset()
        prepare_iam()
        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=QuietHandler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        for step in [step for cluster in self.clusters.values() for step in cluster.steps]:
            step.cancelled.set()
            if step.thread:
                step.thread.join(timeout=30)
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def __call__(self, environ: Json, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one HTTP request (WSGI)."""
        request = read_request(environ)
        with self.lock:
            self.requests.append(request)
            refusal = self._refusal(request)
            if refusal:
                return answer(start_response, *error_body(request, refusal))
            if request.service == "elasticmapreduce":
                return self._answer_emr(request, start_response)
            if request.service in ("pricing", "servicequotas"):
                return self._answer_list(request, start_response)
            self._note_profile(request)
            if request.method == "GET" and "/j-" in urllib.parse.unquote(request.path):
                self._tick()  # a script waits for a cluster's logs
        environ["wsgi.input"] = io.BytesIO(request.body)
        environ["CONTENT_LENGTH"] = str(len(request.body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return self.moto(environ, start_response)

    def _answer_emr(self, request: Request, start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            result = self.handle(request.operation, request.region, json.loads(request.body))
        except Fault as fault:
            body = {"__type": fault.code, "message": fault.message}
            return answer(start_response, 400, body)
        return answer(start_response, 200, result)

    def _answer_list(self, request: Request, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The price list, or a quota."""
        params = json.loads(request.body)
        if request.service == "pricing":
            return answer(start_response, 200, get_products(params))
        quota = get_service_quota(params, self.vcpu_quota)
        if quota is None:
            return answer(start_response, 400, {"__type": "NoSuchResourceException"})
        return answer(start_response, 200, quota)

    def _note_profile(self, request: Request) -> None:
        """Let what follows the making of an instance profile follow."""
        if request.operation == "CreateInstanceProfile":
            self.refusals_left = self.fresh_refusals
            self.failures_left = self.fresh_failures

    # What tests call.

    def refuse(
        self,
        service: str,
        code: str,
        message: str = "",
        *,
        operation: str = "",
        status: int = 400,
        times: int = 1,
    ) -> None:
        """Answer this error to the next requests of the service (of the operation, if given).

        The service is its name in signatures: elasticmapreduce, s3, iam, ec2, sts, pricing. S3 has
        no operation on the wire; there a method and a path such as "HEAD /my-bucket" stands for it.
        """
        self.refusals.append(Refusal(service, operation, code, message, status, times))

    def throttle(self, operation: str, times: int) -> None:
        """Answer ThrottlingException to the next calls of an EMR operation."""
        self.refuse(
            "elasticmapreduce",
            "ThrottlingException",
            "Rate exceeded",
            operation=operation,
            times=times,
        )

    def advance(self, ticks: int = 1) -> None:
        """Let time pass."""
        with self.lock:
            for _ in range(ticks):
                self._move()

    def end_cluster(self, cluster_id: str, code: str, message: str) -> None:
        """The cluster dies at once, with its steps."""
        with self.lock:
            cluster = self.clusters[cluster_id]
            self._stop_steps(cluster)
            cluster.enter("TERMINATED_WITH_ERRORS", code, message)

    def operations(self, service: str = "elasticmapreduce") -> list[str]:
        """The operations of a service that were asked for, in order."""
        return [request.operation for request in self.requests if request.service == service]

    def put_logs(self, cluster_id: str, logs: Mapping[str, str], step_id: str = "") -> None:
        """Put a cluster's logs where EMR would; without a bucket they are lost, as with EMR."""
        from moto.s3.models import s3_backends  # moto loads its parts on demand

        store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        uri = self.clusters[cluster_id].request.get("LogUri", "").rstrip("/")
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if bucket not in store.buckets:
            return
        for path, content in logs.items():
            key = "/".join(filter(None, [prefix, cluster_id, path.replace("{step}", step_id)]))
            data = content.encode()
            store.put_object(bucket, key, gzip.compress(data) if key.endswith(".gz") else data)

    # Time.

    def _tick(self) -> None:
        if self.ticking:
            self._move()

    def _move(self) -> None:
        self.ticks += 1
        for cluster in self.clusters.values():
            cluster.ticks += 1
            self._move_cluster(cluster)
            if cluster.state in OPEN[2:]:
                self._move_steps(cluster)
        due = [entry for entry in self.late_logs if entry[0] <= self.ticks]
        self.late_logs = [entry for entry in self.late_logs if entry[0] > self.ticks]
        for _, cluster_id, logs in due:
            self.put_logs(cluster_id, logs)

    def _move_cluster(self, cluster: Cluster) -> None:
        plan = cluster.plan
        if cluster.state == "STARTING" and cluster.ticks > plan.starting:
            if plan.failure == "VALIDATION_ERROR":
                self._shut_down(cluster, plan.failure, plan.message)
            else:
                cluster.enter("BOOTSTRAPPING")
        elif cluster.state == "BOOTSTRAPPING" and cluster.ticks > plan.bootstrapping:
            if plan.failure:
                self.put_logs(cluster.id, plan.logs)
                self._shut_down(cluster, plan.failure, plan.message)
            else:
                cluster.enter("WAITING", "", "Cluster ready to run steps.")
        elif cluster.state == "TERMINATING" and cluster.ticks > plan.terminating:
            cluster.enter(cluster.ending, *cluster.reason.values())

    def _shut_down(self, cluster: Cluster, code: str, message: str) -> None:
        self._stop_steps(cluster)
        cluster.enter("TERMINATING", code, message)
        clean = code in ("USER_REQUEST", "ALL_STEPS_COMPLETED")
        cluster.ending = "TERMINATED" if clean else "TERMINATED_WITH_ERRORS"

    def _stop_steps(self, cluster: Cluster) -> None:
        for step in cluster.steps:
            step.cancelled.set()
            if step.state == "RUNNING":
                step.enter("INTERRUPTED")
            elif step.state in UNFINISHED:
                step.enter("CANCELLED")

    def _move_steps(self, cluster: Cluster) -> None:
        for step in cluster.steps:
            step.ticks += 1
            if step.state == "CANCEL_PENDING":
                step.cancelled.set()
                step.enter("CANCELLED")
            elif step.state == "RUNNING":
                self._move_running(cluster, step)
        self._start_steps(cluster)
        if cluster.state in OPEN[2:]:
            busy = any(step.state in UNFINISHED for step in cluster.steps)
            if not (busy or cluster.request["Instances"].get("KeepJobFlowAliveWhenNoSteps")):
                failed = any(step.state == "FAILED" for step in cluster.steps)
                message = "Steps completed with errors" if failed else "Steps completed"
                self._shut_down(cluster, "ALL_STEPS_COMPLETED", message)
                return
            message = "Running step" if busy else "Cluster ready to run steps."
            cluster.enter("RUNNING" if busy else "WAITING", "", message)

    def _start_steps(self, cluster: Cluster) -> None:
        waiting = [step for step in cluster.steps if step.state == "PENDING"]
        running = [step for step in cluster.steps if step.state in ("RUNNING", "CANCEL_PENDING")]
        for step in waiting[: max(0, cluster.concurrency - len(running))]:
            if step.ticks > step.plan.pending:
                self._start(cluster, step)

    def _start(self, cluster: Cluster, step: Step) -> None:
        step.enter("RUNNING")
        run_step = self.run_step
        if not run_step:
            return
        run = StepRun(
            cluster.id, step.id, step.jar["Jar"], step.jar.get("Args", []), step.cancelled
        )

        def work() -> None:
            try:
                step.result = run_step(run)
            except Exception as error:  # noqa: BLE001 (a broken runner has to show as a failed step)
                step.result = StepResult(
                    1, {"steps/{step}/stderr.gz": f"run_step broke: {error!r}"}
                )

        step.thread = threading.Thread(target=work, daemon=True)
        step.thread.start()

    def _move_running(self, cluster: Cluster, step: Step) -> None:
        if step.thread:
            if step.result:
                outcome = "FAILED" if step.result.exit_code else "COMPLETED"
                self._finish(cluster, step, outcome, step.result)
        elif step.ticks > step.plan.running:
            result = StepResult(0, step.plan.logs, step.plan.log_delay)
            self._finish(cluster, step, step.plan.outcome, result)

    def _finish(self, cluster: Cluster, step: Step, outcome: str, result: StepResult) -> None:
        step.enter(outcome)
        step.details = dict(step.plan.details)
        logs = {path.replace("{step}", step.id): text for path, text in result.logs.items()}
        self.late_logs.append((self.ticks + result.log_delay, cluster.id, logs))
        if outcome != "FAILED":
            return
        if step.action in ("TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"):
            self._shut_down(cluster, "STEP_FAILURE", "Shut down as step failed")
        elif step.action == "CANCEL_AND_WAIT":
            for other in cluster.steps:
                if other.state == "PENDING":
                    other.enter("CANCELLED")

    # EMR's operations.

    def handle(self, operation: str, region: str, params: Json) -> Json:
        """One EMR call: checked, carried out, its answer checked as well."""
        handler = getattr(self, "_on_" + re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower(), None)
        if handler is None:
            raise Fault("UnknownOperationException", f"the emulator has no {operation}")
        model = MODEL.operation_model(operation)
        check_request(params, model.input_shape)
        self.region = region
        result = handler(params) or {}
        check_answer(result, model.output_shape, operation)
        return result

    def _on_run_job_flow(self, params: Json) -> Json:
        self._check_cluster(params)
        if self.refusals_left:
            self.refusals_left -= 1
            code, message = FRESH_PROFILE[self.refusals_left % len(FRESH_PROFILE)]
            raise Fault(code, message.format(profile=params["JobFlowRole"]))
        plan = self._plan_start(params)
        cluster = Cluster(self._new_id("j"), self.region, params, plan)
        self.clusters[cluster.id] = cluster
        self._add_steps(cluster, params.get("Steps", []))
        return {"JobFlowId": cluster.id, "ClusterArn": cluster.arn}

    def _plan_start(self, params: Json) -> ClusterPlan:
        """What becomes of a cluster, which the account may keep from starting."""
        message = find_validation_error(params, self.region, self.vcpu_quota)
        if self.failures_left:
            self.failures_left -= 1
            message = "Service role has insufficient EC2 permissions"
        if not message or self.next_cluster.failure:
            return self.next_cluster
        return dataclasses.replace(self.next_cluster, failure="VALIDATION_ERROR", message=message)

    def _check_cluster(self, params: Json) -> None:
        from moto.iam.models import iam_backends  # moto loads its parts on demand

        iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
        release, profile = params.get("ReleaseLabel"), params.get("JobFlowRole", "")
        if release not in RELEASES:
            raise invalid(f"The supplied release label is invalid: {release}.")
        if profile not in [known.name for known in iam.instance_profiles.values()]:
            raise invalid(f"Invalid InstanceProfile: {profile}.")
        if params.get("ServiceRole") not in [role.name for role in iam.roles.values()]:
            raise invalid(f"ServiceRole is invalid: {params.get('ServiceRole')}.")
        security = params.get("SecurityConfiguration")
        if security and security not in self.security_configurations:
            raise invalid(f"Security configuration with name {security} does not exist.")
        idle = params.get("AutoTerminationPolicy", {}).get("IdleTimeout", 60)
        if not 60 <= idle <= 604_800:
            raise invalid("Idle timeout must be between 60 and 604800 seconds.")
        check_fleets(params["Instances"])

    def _on_describe_cluster(self, params: Json) -> Json:
        self._tick()
        return {"Cluster": self._cluster(params["ClusterId"]).describe()}

    def _on_list_clusters(self, params: Json) -> Json:
        self._tick()
        states, after = params.get("ClusterStates"), params.get("CreatedAfter", 0)
        found = [
            cluster.summary()
            for cluster in self.clusters.values()
            if cluster.region == self.region
            and (not states or cluster.state in states)
            and cluster.timeline["CreationDateTime"] >= after
        ]
        return page_of(found, params, "Clusters")

    def _on_terminate_job_flows(self, params: Json) -> None:
        ids = params["JobFlowIds"]
        if len(ids) > 10:
            raise invalid("You may not specify more than 10 job flow ids.")
        clusters = [self.clusters.get(cluster_id) for cluster_id in ids]
        if None in clusters:
            raise invalid("Specified job flow ID does not exist.")
        if any(cluster.protected for cluster in clusters if cluster):
            raise invalid(
                "Could not shut down one or more job flows since they are termination protected."
            )
        for cluster in clusters:
            if cluster and cluster.state in OPEN:
                self._shut_down(cluster, "USER_REQUEST", "Terminated by user request")

    def _on_set_termination_protection(self, params: Json) -> None:
        for cluster_id in params["JobFlowIds"]:
            self._cluster(cluster_id).protected = params["TerminationProtected"]

    def _on_add_job_flow_steps(self, params: Json) -> Json:
        cluster = self._cluster(params["JobFlowId"])
        if cluster.state not in OPEN:
            raise invalid(
                "A job flow that is shutting down, terminating, or finished may not be modified."
            )
        return {"StepIds": self._add_steps(cluster, params["Steps"])}

    def _add_steps(self, cluster: Cluster, configs: Sequence[Json]) -> list[str]:
        active = [step for step in cluster.steps if step.state in UNFINISHED]
        if len(active) + len(configs) > 256:
            raise invalid(
                "Maximum number of active steps(State = 'Running', 'Pending' or 'Cancel_Pending')"
                " for cluster exceeded."
            )
        for config in configs:
            check_step(config, cluster.concurrency)
        steps = [Step(self._new_id("s"), config, self.next_step) for config in configs]
        cluster.steps += steps
        return [step.id for step in steps]

    def _on_list_steps(self, params: Json) -> Json:
        self._tick()
        cluster = self._cluster(params["ClusterId"])
        ids, states = params.get("StepIds", []), params.get("StepStates", [])
        if len(ids) > 10:
            raise Fault("InvalidRequestException", "Only 10 step ids can be given.")
        found = [
            step.describe()
            for step in reversed(cluster.steps)
            if (not ids or step.id in ids) and (not states or step.state in states)
        ]
        return page_of(found, params, "Steps")

    def _on_describe_step(self, params: Json) -> Json:
        self._tick()
        return {"Step": self._step(params["ClusterId"], params["StepId"]).describe()}

    def _on_cancel_steps(self, params: Json) -> Json:
        told = []
        for step_id in params["StepIds"]:
            step = self._step(params["ClusterId"], step_id)
            entry = {"StepId": step_id, "Status": "SUBMITTED"}
            if step.state in ("PENDING", "RUNNING"):
                step.enter("CANCEL_PENDING")
            else:
                entry.update(Status="FAILED", Reason=f"Step is in {step.state} state.")
            told.append(entry)
        return {"CancelStepsInfoList": told}

    def _on_list_instance_fleets(self, params: Json) -> Json:
        cluster = self._cluster(params["ClusterId"])
        gone = cluster.state not in OPEN
        fleets = []
        for config in cluster.request["Instances"].get("InstanceFleets", []):
            on_demand = config.get("TargetOnDemandCapacity", 0)
            spot = config.get("TargetSpotCapacity", 0)
            types = [
                {"InstanceType": kind["InstanceType"], "WeightedCapacity": 1}
                for kind in config["InstanceTypeConfigs"]
            ]
            fleets.append(
                {
                    "Id": f"if-{cluster.id[2:]}{config['InstanceFleetType']}",
                    "Name": config.get("Name", ""),
                    "InstanceFleetType": config["InstanceFleetType"],
                    "Status": {"State": "TERMINATED" if gone else "RUNNING"},
                    "TargetOnDemandCapacity": on_demand,
                    "TargetSpotCapacity": spot,
                    "ProvisionedOnDemandCapacity": 0 if gone else on_demand,
                    "ProvisionedSpotCapacity": 0 if gone else spot,
                    "InstanceTypeSpecifications": types,
                }
            )
        return page_of(fleets, params, "InstanceFleets")

    def _on_list_instances(self, params: Json) -> Json:
        cluster = self._cluster(params["ClusterId"])
        state = "RUNNING" if cluster.state in OPEN else "TERMINATED"
        kind, states = params.get("InstanceFleetType"), params.get("InstanceStates")
        found = [
            {
                "Id": f"ci-{cluster.id[2:]}{number}",
                "Ec2InstanceId": f"i-{number:017x}",
                "InstanceFleetId": f"if-{cluster.id[2:]}{config['InstanceFleetType']}",
                "Market": market,
                "InstanceType": config["InstanceTypeConfigs"][0]["InstanceType"],
                "Status": {"State": state, "Timeline": cluster.timeline},
            }
            for number, (config, market) in enumerate(nodes(cluster.request["Instances"]), start=1)
            if kind in (None, config["InstanceFleetType"])
        ]
        chosen = found if not states or state in states else []
        return page_of(chosen, params, "Instances")

    def _on_get_auto_termination_policy(self, params: Json) -> Json:
        policy = self._cluster(params["ClusterId"]).policy
        return {"AutoTerminationPolicy": policy} if policy else {}

    def _on_put_auto_termination_policy(self, params: Json) -> None:
        self._cluster(params["ClusterId"]).policy = params["AutoTerminationPolicy"]

    def _on_get_managed_scaling_policy(self, params: Json) -> Json:
        policy = self._cluster(params["ClusterId"]).scaling
        return {"ManagedScalingPolicy": policy} if policy else {}

    def _on_put_managed_scaling_policy(self, params: Json) -> None:
        self._cluster(params["ClusterId"]).scaling = params["ManagedScalingPolicy"]

    def _on_list_release_labels(self, params: Json) -> Json:
        filters = params.get("Filters", {})
        prefix, application = filters.get("Prefix", ""), filters.get("Application", "")
        spark = application.partition("@")[2]
        labels = [
            label
            for label, version in RELEASES.items()
            if label.startswith(prefix) and spark in ("", version)
        ]
        return {"ReleaseLabels": labels}

    def _on_describe_release_label(self, params: Json) -> Json:
        label = params["ReleaseLabel"]
        if label not in RELEASES:
            raise Fault("InvalidRequestException", f"Release label {label} does not exist.")
        applications = [
            {"Name": "Hadoop", "Version": "3.4.2"},
            {"Name": "Spark", "Version": RELEASES[label]},
        ]
        return {"ReleaseLabel": label, "Applications": applications}

    def _on_list_supported_instance_types(self, params: Json) -> Json:
        if params["ReleaseLabel"] not in RELEASES:
            raise Fault("InvalidRequestException", "Release label is not valid.")
        types = [{"Type": name, "VCPU": VCPUS[name]} for name in sorted(EC2_PRICES)]
        return page_of(types, params, "SupportedInstanceTypes")

    def _on_create_security_configuration(self, params: Json) -> Json:
        if params["Name"] in self.security_configurations:
            raise Fault("InvalidRequestException", f"{params['Name']} already exists.")
        json.loads(params["SecurityConfiguration"])
        self.security_configurations[params["Name"]] = params["SecurityConfiguration"]
        return {"Name": params["Name"], "CreationDateTime": time.time()}

    def _on_describe_security_configuration(self, params: Json) -> Json:
        name = params["Name"]
        if name not in self.security_configurations:
            message = f"Security configuration with name '{name}' does not exist."
            raise Fault("InvalidRequestException", message)
        return {"Name": name, "SecurityConfiguration": self.security_configurations[name]}

    def _on_delete_security_configuration(self, params: Json) -> Json:
        active = [cluster for cluster in self.clusters.values() if cluster.state in OPEN]
        if params["Name"] in [cluster.request.get("SecurityConfiguration") for cluster in active]:
            raise Fault("InvalidRequestException", f"{params['Name']} is in use.")
        self.security_configurations.pop(params["Name"])
        return {}

    # Small helpers.

    def _new_id(self, letter: str) -> str:
        self.ids += 1
        return f"{letter}-{self.ids:013d}"

    def _cluster(self, cluster_id: str) -> Cluster:
        cluster = self.clusters.get(cluster_id)
        if cluster is None or cluster.region != self.region:
            raise Fault("InvalidRequestException", f"Cluster id '{cluster_id}' is not valid.")
        return cluster

    def _step(self, cluster_id: str, step_id: str) -> Step:
        for step in self._cluster(cluster_id).steps:
            if step.id == step_id:
                return step
        raise Fault("InvalidRequestException", f"Step id '{step_id}' is not valid.")

    def _refusal(self, request: Request) -> Refusal | None:
        wanted = (request.operation, f"{request.method} {request.path.partition('?')[0]}")
        for refusal in self.refusals:
            named = not refusal.operation or refusal.operation in wanted
            if refusal.service == request.service and named and refusal.times > 0:
                refusal.times -= 1
                return refusal
        return None


class QuietHandler(WSGIRequestHandler):
    """No line on stderr for each request."""

    def log_request(self, *_: object) -> None:
        """Say nothing."""


def prepare_iam() -> None:
    """Give moto AWS's policy and names that the scripts know; to load all takes a second."""
    from moto.iam import models  # moto loads its parts on demand

    models.SERVICE_NAME_CONVERSION.update(LINKED_ROLES)
    known = models.iam_backends[DEFAULT_ACCOUNT_ID]["aws"].managed_policies
    policy = models.AWSManagedPolicy(
        "AmazonEMRServicePolicy_v2",
        account_id=DEFAULT_ACCOUNT_ID,
        region="us-east-1",
        path="/service-role/",
        document=json.dumps({"Version": "2012-10-17", "Statement": []}),
    )
    known[policy.arn] = policy


def invalid(message: str) -> Fault:
    return Fault("ValidationException", message)


def check_request(params: Json, shape: Any) -> None:
    """Refuse what botocore's model of EMR does not know, enums as well."""
    report = ParamValidator().validate(params, shape)
    if report.has_errors():
        raise invalid(report.generate_report())
    for value, string in strings(params, shape):
        if string.enum and value not in string.enum:
            raise invalid(f"Value {value!r} is not one of {string.enum}")


def check_answer(result: Json, shape: Any, operation: str) -> None:
    """An answer that EMR could not give is a mistake of the emulator."""
    if shape is None:
        assert not result, f"{operation} answers nothing"
        return
    report = ParamValidator().validate(result, shape)
    assert not report.has_errors(), f"{operation}: {report.generate_report()}"
    for value, string in strings(result, shape):
        assert not string.enum or value in string.enum, f"{operation}: {value!r}"


def strings(value: Any, shape: Any) -> Iterable[tuple[str, Any]]:
    """Every string of a structure with its shape."""
    if shape.type_name == "structure":
        for key, member in value.items():
            yield from strings(member, shape.members[key])
    elif shape.type_name == "list":
        for member in value:
            yield from strings(member, shape.member)
    elif shape.type_name == "string":
        yield value, shape


def check_fleets(instances: Json) -> None:
    """The rules for instance fleets that EMR applies at once."""
    fleets = instances.get("InstanceFleets", [])
    kinds = [fleet["InstanceFleetType"] for fleet in fleets]
    if kinds.count("MASTER") != 1 or len(set(kinds)) < len(kinds):
        raise invalid("A cluster has one master fleet and at most one core and one task fleet.")
    for fleet in fleets:
        capacity = fleet.get("TargetOnDemandCapacity", 0) + fleet.get("TargetSpotCapacity", 0)
        if capacity < 1:
            raise invalid(f"The {fleet['InstanceFleetType']} fleet has no target capacity.")
        if fleet.get("TargetSpotCapacity") and "LaunchSpecifications" not in fleet:
            raise invalid("A fleet with spot capacity needs a SpotSpecification.")
        unknown = {kind["InstanceType"] for kind in fleet["InstanceTypeConfigs"]} - set(EC2_PRICES)
        if unknown:
            raise invalid(f"Instance type '{min(unknown)}' is not supported.")


def check_step(config: Json, concurrency: int) -> None:
    """The rules for a step that EMR applies at once."""
    jar = config["HadoopJarStep"]
    if any(len(text) > 10_240 for text in [jar["Jar"], *jar.get("Args", [])]):
        raise invalid("Step arguments may not exceed 10240 characters.")
    if concurrency > 1 and config.get("ActionOnFailure", "TERMINATE_CLUSTER") != "CONTINUE":
        raise invalid("With StepConcurrencyLevel greater than 1, ActionOnFailure must be CONTINUE.")


def nodes(instances: Json) -> Iterable[tuple[Json, str]]:
    """Each node of a request: its fleet and its market."""
    for config in instances.get("InstanceFleets", []):
        yield from [(config, "ON_DEMAND")] * config.get("TargetOnDemandCapacity", 0)
        yield from [(config, "SPOT")] * config.get("TargetSpotCapacity", 0)


def page_of(entries: Sequence[Json], params: Json, key: str) -> Json:
    """One page of a listing; the marker is where the next one begins."""
    start = int(params.get("Marker", 0))
    page: Json = {key: list(entries[start : start + PAGE])}
    if len(entries) > start + PAGE:
        page["Marker"] = str(start + PAGE)
    return page


def get_products(params: Json) -> Json:
    """AWS's price list, in its shape: each product a JSON text."""
    wanted = {entry["Field"]: entry["Value"] for entry in params["Filters"]}
    of_emr = params["ServiceCode"] == "ElasticMapReduce"
    price = (EMR_PRICES if of_emr else EC2_PRICES).get(wanted["instanceType"])
    if price is None:
        return {"FormatVersion": "aws_v1", "PriceList": []}
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{price:.10f}"}}
    product = {
        "product": {"attributes": wanted},
        "terms": {"OnDemand": {"SKU.TERM": {"priceDimensions": {"SKU.TERM.RATE": dimension}}}},
    }
    return {"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)]}


def read_request(environ: Json) -> Request:
    """The request, with the service and region that its signature names."""
    length = environ.get("CONTENT_LENGTH") or ""
    stream = environ["wsgi.input"]
    chunked = environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked"
    body = stream.read() if chunked else stream.read(int(length or 0))
    headers = {
        key[5:].replace("_", "-").title(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", headers.get("Authorization", ""))
    region, service = scope.groups() if scope else ("", "")
    operation = headers.get("X-Amz-Target", "").partition(".")[2]
    if not operation and service not in ("s3", ""):
        operation = urllib.parse.parse_qs(body.decode("latin-1")).get("Action", [""])[0]
    path = urllib.parse.quote(environ["PATH_INFO"]) + "?" + environ.get("QUERY_STRING", "")
    return Request(
        service, operation, region, environ["REQUEST_METHOD"], path.rstrip("?"), headers, body
    )


def error_body(request: Request, refusal: Refusal) -> tuple[int, Json | str]:
    """An error in the dialect of the service."""
    code, message = refusal.code, xml.sax.saxutils.escape(refusal.message)
    told = f"<Code>{code}</Code><Message>{message}</Message>"
    if request.service in ("elasticmapreduce", "pricing", "servicequotas", "athena", "glue"):
        return refusal.status, {"__type": code, "message": refusal.message}
    if request.service == "ec2":
        return refusal.status, f"<Response><Errors><Error>{told}</Error></Errors></Response>"
    if request.service == "s3":
        return refusal.status, f"<Error>{told}</Error>"
    return refusal.status, f"<ErrorResponse><Error>{told}</Error></ErrorResponse>"


def answer(start_response: Callable[..., Any], status: int, body: Json | str) -> Iterable[bytes]:
    """An HTTP answer with a JSON or an XML body."""
    kind = "text/xml" if isinstance(body, str) else "application/x-amz-json-1.1"
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(data)))]
    start_response(f"{status} {http.HTTPStatus(status).phrase}", headers)
    return [data]
