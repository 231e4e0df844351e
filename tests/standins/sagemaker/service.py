"""The service: AWS on 127.0.0.1, for real clients, with training jobs that really run."""

import json
import tarfile
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server

from standins.sagemaker.automl_jobs import AutoMLJobs
from standins.sagemaker.aws_state import AwsState
from standins.sagemaker.bedrock import Bedrock
from standins.sagemaker.buckets import Buckets
from standins.sagemaker.calls import Calls
from standins.sagemaker.clients import Clients
from standins.sagemaker.endpoints import Endpoints
from standins.sagemaker.faults import Faults
from standins.sagemaker.gateway import Gateway
from standins.sagemaker.hub import Hub
from standins.sagemaker.images import LAYERS, Images
from standins.sagemaker.limits import RateLimits
from standins.sagemaker.log_reading import LogReading
from standins.sagemaker.logs import LogDelivery
from standins.sagemaker.models import Models
from standins.sagemaker.packages import Packages
from standins.sagemaker.quotas import Quotas
from standins.sagemaker.requests import EXECUTION_ROLE_KEY
from standins.sagemaker.runner import Surroundings
from standins.sagemaker.settings import Settings
from standins.sagemaker.tagging import Tagging
from standins.sagemaker.training_jobs import TrainingJobs
from standins.sagemaker.transform_jobs import TransformJobs
from standins.sagemaker.watchdog import Watchdog

ACCESS_KEY = "AKIACALLEROFSTANDINS"

_KEEPS_SECRETS = ("CreateSecret", "PutSecretValue", "UpdateSecret")


class SageMakerService:
    """A context manager; its jobs live as long as it does, and end with it.

    One at a time in a process: moto's state is the process's, and starts empty.
    """

    _only_one: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self, region: str = "us-east-1", settings: Settings | None = None, port: int = 0
    ) -> None:
        self.region = region
        self.settings = settings or Settings()
        self.calls = Calls()
        self.faults = Faults()
        self.limits = RateLimits()
        self.quotas = Quotas()
        self.state = AwsState()
        self.account = self.state.account
        self.role_arn = ""
        self._port = port

    def __enter__(self) -> "SageMakerService":
        if not self._only_one.acquire(blocking=False):
            raise RuntimeError("this process has such a service already: moto knows one state only")
        BackendDict.reset()
        reset_model_data()
        self._closing = threading.Event()
        self._folder = Path(tempfile.mkdtemp(prefix="sagemaker-service-"))
        gateway = Gateway(self.calls, self.faults, self.limits, Buckets(self.state))
        self._server = make_server(
            "127.0.0.1", self._port, gateway, threaded=True, request_handler=_QuietHandler
        )
        assert isinstance(self._server, BaseWSGIServer)
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_port}"
        self._clients = Clients(self.endpoint_url, ACCESS_KEY)
        self._role_clients = Clients(self.endpoint_url, EXECUTION_ROLE_KEY)
        self._logs = LogDelivery(self._role_clients, self.settings)
        self._watchdog = Watchdog(self._folder)
        slots = _Slots(self.settings)
        around = Surroundings(
            folder=self._folder,
            endpoint_url=self.endpoint_url,
            settings=self.settings,
            faults=self.faults,
            clients=self._role_clients,
            logs=self._logs,
            watchdog=self._watchdog,
            closing=self._closing,
            take_slot=slots.take,
            give_slot=slots.give,
        )
        self.jobs = TrainingJobs(around, self.state, self.faults, self.quotas)
        self.models = Models(self.state, self.faults)
        self.packages = Packages(self.state)
        self.endpoints = Endpoints(around, self.state, self.faults, self.quotas, self.models)
        self.automl = AutoMLJobs(around, self.state, self.faults, self.jobs)
        self.transforms = TransformJobs(around, self.state, self.faults, self.quotas, self.models)
        others = [self.packages.tags, self.endpoints.tags]
        tagging = Tagging(self.jobs, self.settings, others, self.automl.all, self.transforms.all)
        self.hub = Hub()
        gateway.handle(self.jobs.operations())
        gateway.handle(self.hub.operations())
        gateway.handle(self.models.operations())
        gateway.handle(self.packages.operations())
        gateway.handle(self.endpoints.operations())
        gateway.handle(self.transforms.operations())
        gateway.handle(self.automl.operations())
        gateway.handle(self.quotas.operations())
        self.images = Images(self.endpoint_url, self.account)
        gateway.handle(self.images.operations(), self.images.is_ours)
        gateway.serve(LAYERS, self.images.layer)
        gateway.handle(LogReading(self.account).operations())
        self.bedrock = Bedrock(self.state, self.faults, self._role_clients, self._closing)
        gateway.handle(self.bedrock.operations())
        gateway.handle(tagging.operations(), tagging.is_ours)
        self._serving = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._serving.start()
        self.role_arn = self.create_role("sagemaker-execution")
        self.calls.clear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills all jobs and ends the service. May be called again."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.automl.close()
        self.jobs.close()
        self.endpoints.close()
        self.transforms.close()
        self.bedrock.close()
        self._logs.close()
        self._watchdog.close()
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()
        self._clients.close()
        self._role_clients.close()
        self._only_one.release()

    def reset_settings(self) -> None:
        """Sets every setting back to what it is in a new service."""
        for field in fields(Settings):
            setattr(self.settings, field.name, field.default)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process's AWS clients come here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": "secret of a stand-in",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, region: str | None = None) -> Any:
        """A boto3 client of this service, for a test's own calls."""
        return self._clients.get(service, region or self.region)

    def create_bucket(self, name: str, region: str | None = None) -> str:
        region = region or self.region
        where: dict[str, Any] = {}
        if region != "us-east-1":
            where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self.client("s3", region).create_bucket(Bucket=name, **where)
        return name

    def create_role(self, name: str, principal: str = "sagemaker.amazonaws.com") -> str:
        """A role that `principal` may assume; gives its ARN."""
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": principal},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        role = self.client("iam").create_role(
            RoleName=name, AssumeRolePolicyDocument=json.dumps(policy)
        )
        return role["Role"]["Arn"]

    def flush_logs(self) -> None:
        """Waits until all lines that jobs wrote so far are in CloudWatch Logs."""
        self._logs.flush()

    def log(self, job: str) -> list[str]:
        """The log lines of a job that have arrived, host by host."""
        from moto.backends import get_backend

        lines = []
        region = self.jobs[job].region
        for group in get_backend("logs")[self.account][region].groups.values():
            for name, stream in sorted(group.streams.items()):
                if name.startswith(f"{job}/"):
                    lines += [event.message for event in stream.events]
        return lines

    def everything_stored(
        self, without: Collection[str] = _KEEPS_SECRETS
    ) -> Iterator[tuple[str, bytes]]:
        """All that this service was told, as (where, content), to look for what it must not know.

        The line, headers and body of every request but those of the operations in `without`
        (Authorization, which names a key, left out), and every object in S3, with the members of
        those that are a gzipped tar.
        """
        for number, call in enumerate(self.calls.everyone(), 1):
            if call.operation in without:
                continue
            request = call.request
            head = "\n".join([request.uri, *(f"{k}: {v}" for k, v in request.headers.items())])
            where = f"request {number}, {request.service} {request.operation}"
            yield where, head.encode() + b"\n\n" + request.body
        for address, content in self.state.objects():
            yield address, content
            yield from _members(address, content)

    def find(self, secret: str) -> list[str]:
        """Where in `everything_stored` a text is."""
        return [where for where, content in self.everything_stored() if secret.encode() in content]


class _Slots:
    """Instances for jobs: how many may have some at a time is the settings' to say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._taken = 0

    def take(self, go_on: Callable[[], bool]) -> bool:
        """Waits for a slot, while `go_on` says so; False where there was none."""
        with self._changed:
            while go_on():
                most = self._settings.parallel_jobs
                if most is None or self._taken < most:
                    self._taken += 1
                    return True
                self._changed.wait(0.2)
        return False

    def give(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify()


class _QuietHandler(MotoRequestHandler):
    def log_request(self, *args: Any, **kwargs: Any) -> None:
        pass


def _members(address: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    if not content.startswith(b"\x1f\x8b"):
        return
    try:
        with tarfile.open(fileobj=BytesIO(content), mode="r:gz") as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    yield f"{address}: {member.name}", file.read()
    except tarfile.TarError:
        return
