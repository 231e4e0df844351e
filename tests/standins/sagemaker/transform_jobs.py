"""The operations on batch transform jobs, and jobs that really run: objects in, containers, objects out.

Sources: CreateTransformJob and DataProcessing in the API reference, "Batch transform for inference" and
"Associate Prediction Results with Input Records" in the developer guide, and messages that users of the
service quote.
"""

import csv
import gzip
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.faults import Faults, JobFault
from standins.sagemaker.jobs import Jobs
from standins.sagemaker.json_path import select
from standins.sagemaker.models import Models
from standins.sagemaker.quotas import TRANSFORM, Quotas
from standins.sagemaker.requests import Operations, Request, ValidationError
from standins.sagemaker.runner import Surroundings
from standins.sagemaker.serving_container import (
    ContainerFailed,
    ContainerSurroundings,
    ServingContainer,
    definitions_of,
)

LOG_GROUP = "/aws/sagemaker/TransformJobs"

_POLL_SECONDS = 0.04
_HEALTHY_SECONDS = 60.0
_MEGABYTE = 2**20
_MOST_MEGABYTES = 100  # MaxPayloadInMB, alone and times MaxConcurrentTransforms: API reference
_REASON_LIMIT = 1024
_JSON, _JSON_LINES, _CSV = "application/json", "application/jsonlines", "text/csv"
_STRATEGIES = {"MultiRecord": "MULTI_RECORD", "SingleRecord": "SINGLE_RECORD"}
_ECHOED = (
    "ModelName",
    "MaxConcurrentTransforms",
    "ModelClientConfig",
    "MaxPayloadInMB",
    "BatchStrategy",
    "Environment",
    "TransformInput",
    "TransformOutput",
    "TransformResources",
    "DataProcessing",
)


@dataclass
class TransformJob:
    """A job as the service knows it. `invocations` counts what its containers were sent."""

    request: dict[str, Any]
    region: str
    account: str
    status: str = "InProgress"
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    created_clock: float = field(default_factory=time.monotonic)
    started: datetime | None = None
    ended: datetime | None = None
    failure_reason: str | None = None
    invocations: int = 0
    stop_requested: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return self.request["TransformJobName"]

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{self.region}:{self.account}:transform-job/{self.name}"

    @property
    def tags(self) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self.request.get("Tags", [])}

    @property
    def instance_type(self) -> str:
        return self.request["TransformResources"]["InstanceType"]

    @property
    def instance_count(self) -> int:
        return self.request["TransformResources"]["InstanceCount"]

    @property
    def running(self) -> bool:
        return self.status in ("InProgress", "Stopping")

    def end(self, status: str, reason: str | None = None) -> None:
        if self.started is not None:
            self.ended = datetime.now(UTC)
        self.failure_reason = reason[:_REASON_LIMIT] if reason else None
        self.status = status
        self.finished.set()

    def describe(self) -> dict[str, Any]:
        """The answer to DescribeTransformJob."""
        answer = {
            "TransformJobName": self.name,
            "TransformJobArn": self.arn,
            "TransformJobStatus": self.status,
            "FailureReason": self.failure_reason,
            "CreationTime": self.created,
            "TransformStartTime": self.started,
            "TransformEndTime": self.ended,
            **{name: self.request.get(name) for name in _ECHOED},
        }
        return {name: value for name, value in answer.items() if value is not None}


class TransformJobs(Jobs[TransformJob]):
    """All transform jobs of an account. Names are used once."""

    def __init__(
        self,
        around: Surroundings,
        state: AwsState,
        faults: Faults,
        quotas: Quotas,
        models: Models,
    ) -> None:
        super().__init__("transform job")
        self._around = around
        self._state = state
        self._faults = faults
        self._quotas = quotas
        self._models = models

    def operations(self) -> Operations:
        return {
            ("sagemaker", "CreateTransformJob"): self._create,
            ("sagemaker", "DescribeTransformJob"): self._describe,
            ("sagemaker", "StopTransformJob"): self._stop,
        }

    def _create(self, request: Request) -> Mapping[str, Any]:
        job = TransformJob(dict(request.parameters), request.region, self._state.account)
        model = self._models.find(request.region, job.request["ModelName"])
        if model is None:
            raise ValidationError(f'Could not find model "{job.request["ModelName"]}".')
        self._check(job)
        run = _Runner(job, model.request, self._around).run
        self._start(job, run, lambda others: self._check_use(job, others))
        return {"TransformJobArn": job.arn}

    def _check_use(self, job: TransformJob, others: list[TransformJob]) -> None:
        used = sum(
            one.instance_count
            for one in others
            if one.running and (one.region, one.instance_type) == (job.region, job.instance_type)
        )
        self._quotas.check_use(job.instance_type, job.instance_count, TRANSFORM, used)

    def _check(self, job: TransformJob) -> None:
        """Raises ApiError for a request that the service refuses."""
        wanted = job.request
        split = wanted["TransformInput"].get("SplitType", "None")
        if wanted.get("BatchStrategy") and split == "None":
            raise ValidationError("BatchStrategy needs a SplitType of Line, RecordIO or TFRecord")
        if split not in ("None", "Line"):
            raise ValidationError("This stand-in splits by lines only")
        payload = wanted.get("MaxPayloadInMB", 6)
        most = payload * max(1, wanted.get("MaxConcurrentTransforms", 0))
        if most > _MOST_MEGABYTES:
            raise ValidationError(
                f"MaxConcurrentTransforms * MaxPayloadInMB must not exceed {_MOST_MEGABYTES} MB"
            )
        _check_processing(wanted)
        source = wanted["TransformInput"]["DataSource"]["S3DataSource"]
        if source["S3DataType"] != "S3Prefix":
            raise ValidationError("This stand-in takes S3Prefix only")
        location = S3Location.parse(source["S3Uri"])
        if self._state.bucket_region(location.bucket) != job.region or not (
            self._state.has_objects(location)
        ):
            raise ValidationError(
                f'No S3 objects found under S3 URL "{source["S3Uri"]}" given in input data source.'
            )

    def _describe(self, request: Request) -> Mapping[str, Any]:
        return self._find(request).describe()

    def _stop(self, request: Request) -> Mapping[str, Any]:
        job = self._find(request)
        with self._lock:
            if job.status != "InProgress":
                raise ValidationError(
                    f"The request was rejected because the transform job is in status {job.status}."
                )
            job.status = "Stopping"
            job.stop_requested.set()
        return {}

    def _find(self, request: Request) -> TransformJob:
        name = request.parameters["TransformJobName"]
        job = self._known(request.region, name)
        hidden = self._around.settings.hidden_seconds
        if job is None or time.monotonic() - job.created_clock < hidden:
            raise ValidationError(f"Could not find requested job with name: {name}")
        return job


def _check_processing(wanted: Mapping[str, Any]) -> None:
    """Filters and joins need formats that can be taken apart, the same for input and output."""
    if not wanted.get("DataProcessing"):
        return
    types = wanted["TransformInput"].get("ContentType"), wanted["TransformOutput"].get("Accept")
    if types[0] != types[1] or types[0] not in (_JSON, _JSON_LINES, _CSV):
        raise ValidationError(
            "DataProcessing needs the same ContentType and Accept: text/csv, application/json or "
            f"application/jsonlines, not {types}"
        )
    if types[0] != _JSON and (
        wanted["TransformInput"].get("SplitType") != "Line"
        or wanted["TransformOutput"].get("AssembleWith") != "Line"
    ):
        raise ValidationError(f"{types[0]} needs SplitType and AssembleWith Line to be joined")


class _Ended(Exception):
    """The job's end, wherever it was met."""

    def __init__(self, status: str, reason: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _ObjectFailed(Exception):
    """An object that could not be transformed, as the job's data log has it."""


class _Runner:
    """One job; `run` returns when it has ended, or when the service closes."""

    def __init__(self, job: TransformJob, model: Mapping[str, Any], around: Surroundings) -> None:
        self._job = job
        self._around = around
        self._s3 = around.clients.get("s3", job.region)
        self._definition = next(definitions_of(model))
        self._stream = f"{job.name}/i-0123456789abcdef0-{int(time.time())}"
        self._wanted = job.request
        self._processing: Mapping[str, Any] = self._wanted.get("DataProcessing", {})
        self._type: str | None = self._wanted["TransformInput"].get("ContentType")

    @property
    def _concurrent(self) -> int:
        return self._wanted.get("MaxConcurrentTransforms") or 1

    def run(self) -> None:
        try:
            self._run()
            end = _Ended("Completed")
        except _Ended as ended:
            end = ended
        except ContainerFailed as error:
            end = _Ended("Failed", f"AlgorithmError: {error}")
        except (ClientError, BotoCoreError, OSError) as error:
            end = _Ended("Failed", f"InternalServerError: {error}")
        if not self._around.closing.is_set():
            self._job.end(end.status, end.reason)

    def _run(self) -> None:
        job, around = self._job, self._around
        self._pass(around.settings.starting_seconds)
        if not around.take_slot(lambda: not self._is_over()):
            self._check_over()
        try:
            fault = around.faults.take_for_job(spot=False)
            if fault is not None and (fault.reason or "").startswith("CapacityError"):
                raise _Ended("Failed", fault.reason)
            job.started = datetime.now(UTC)
            self._pass(around.settings.downloading_seconds)
            around.logs.open(job.region, self._stream, LOG_GROUP)
            around.logs.open(job.region, f"{self._stream}/data-log", LOG_GROUP)
            container = ServingContainer(self._container_definition(), self._surroundings())
            try:
                container.start()
                container.wait_until_healthy(_HEALTHY_SECONDS, lambda: not self._is_over())
                self._check_over()
                container.ask("GET", "/execution-parameters", b"", {})
                self._transform(container, fault)
            finally:
                container.close(0.0 if around.closing.is_set() else 5.0)
            self._pass(around.settings.uploading_seconds)
        finally:
            around.give_slot()

    def _container_definition(self) -> dict[str, Any]:
        """The Model's own, with the variables of the job and of every batch transform."""
        own: dict[str, str] = {"SAGEMAKER_BATCH": "true"}
        for variable, name in {
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": "MaxPayloadInMB",
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "MaxConcurrentTransforms",
        }.items():
            if self._wanted.get(name):
                own[variable] = str(self._wanted[name])
        if strategy := self._wanted.get("BatchStrategy"):
            own["SAGEMAKER_BATCH_STRATEGY"] = _STRATEGIES[strategy]
        environment = {
            **self._definition.get("Environment", {}),
            **self._wanted.get("Environment", {}),
            **own,
        }
        return {**self._definition, "Environment": environment}

    def _surroundings(self) -> ContainerSurroundings:
        around, region = self._around, self._job.region
        folder = around.folder / region / f"transform-{self._job.name}"
        folder.mkdir(parents=True, exist_ok=True)
        return ContainerSurroundings(
            folder=folder,
            endpoint_url=around.endpoint_url,
            region=region,
            s3=self._s3,
            watchdog=around.watchdog,
            write=lambda line: around.logs.write(region, self._stream, line, LOG_GROUP),
        )

    def _transform(self, container: ServingContainer, fault: JobFault | None) -> None:
        """All objects; those that succeeded are stored, also where another one failed."""
        began = time.monotonic()
        location = S3Location.parse(
            self._wanted["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
        )
        target = S3Location.parse(self._wanted["TransformOutput"]["S3OutputPath"])
        strategy = self._wanted.get("BatchStrategy", "MultiRecord")
        self._data_log(
            f"[sagemaker logs]: MaxConcurrentTransforms={self._concurrent}, "
            f"MaxPayloadInMB={self._wanted.get('MaxPayloadInMB', 6)}, "
            f"BatchStrategy={_STRATEGIES[strategy]}"
        )
        failed = False
        done: list[tuple[S3Location, bytes]] = []
        for key in self._keys(location):
            self._check_over()
            try:
                content = self._transformed(container, S3Location(location.bucket, key))
            except _ObjectFailed as error:
                self._data_log(f"[sagemaker logs]: {location.bucket}/{key}: {error}")
                failed = True
                continue
            path = key[location.key.rfind("/") + 1 :]
            done.append((target.under(f"{path}.out"), content))
        if fault is not None:
            self._pass(max(0.0, fault.after_seconds - (time.monotonic() - began)))
            raise _Ended("Failed", fault.reason)
        self._check_over()  # what is stopped stores nothing
        for place, content in done:
            self._s3.put_object(Bucket=place.bucket, Key=place.key, Body=content)
        if failed:
            raise _Ended("Failed", "ClientError: See job logs for more information")

    def _keys(self, location: S3Location) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=location.bucket, Prefix=location.key
        )
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def _transformed(self, container: ServingContainer, source: S3Location) -> bytes:
        content = self._s3.get_object(Bucket=source.bucket, Key=source.key)["Body"].read()
        if self._wanted["TransformInput"].get("CompressionType") == "Gzip":
            content = gzip.decompress(content)
        records = [content]
        if self._wanted["TransformInput"].get("SplitType") == "Line":
            records = content.removesuffix(b"\n").split(b"\n")
        batches = list(self._batches(records))
        with ThreadPoolExecutor(self._concurrent) as pool:
            parts = list(pool.map(lambda batch: self._answered(container, batch), batches))
        end = b"\n" if self._wanted["TransformOutput"].get("AssembleWith") == "Line" else b""
        return b"".join(part.removesuffix(b"\n") + end if end else part for part in parts)

    def _batches(self, records: Sequence[bytes]) -> Iterator[list[tuple[bytes, bytes]]]:
        """(record, what of it goes to the container), as many as fit into a payload."""
        most = self._wanted.get("MaxPayloadInMB", 6) * _MEGABYTE
        several = self._wanted.get("BatchStrategy", "MultiRecord") == "MultiRecord"
        batch: list[tuple[bytes, bytes]] = []
        size = 0
        for record in records:
            payload = self._filtered(record)
            if len(payload) + 1 > most:
                raise _ObjectFailed(
                    f"ClientError: a record of {len(payload)} bytes exceeds MaxPayloadInMB"
                )
            if batch and (not several or size + len(payload) + 1 > most):
                yield batch
                batch, size = [], 0
            batch.append((record, payload))
            size += len(payload) + 1
        if batch:
            yield batch

    def _answered(self, container: ServingContainer, batch: list[tuple[bytes, bytes]]) -> bytes:
        """What the container answers to a batch, joined and filtered as the job asks for."""
        self._check_over()
        body = b"\n".join(payload for _, payload in batch)
        retries = self._wanted.get("ModelClientConfig", {}).get("InvocationsMaxRetries", 3)
        accept = self._wanted["TransformOutput"].get("Accept")
        status, answer = 0, b""
        for _ in range(retries + 1):
            self._job.invocations += 1
            try:
                answered = container.invoke(body, self._type or "", accept)
            except (OSError, http.client.HTTPException) as error:
                status, answer = 0, str(error).encode()
                continue
            status, answer = answered.status, answered.body
            if status < 500:
                break
        if status != 200:
            said = answer.decode(errors="replace")
            raise _ObjectFailed(f"ClientError: {status}\nMessage: {said}")
        return self._joined([record for record, _ in batch], answer)

    def _joined(self, records: Sequence[bytes], answer: bytes) -> bytes:
        if not self._processing:
            return answer
        joins = self._processing.get("JoinSource", "None") == "Input"
        pattern = self._processing.get("OutputFilter", "$")
        if not joins and pattern == "$":
            return answer
        outputs = [answer] if self._type == _JSON else answer.removesuffix(b"\n").split(b"\n")
        if joins and len(outputs) != len(records):
            raise _ObjectFailed(
                f"ClientError: {len(records)} records and {len(outputs)} results can't be joined"
            )
        results = []
        for number, output in enumerate(outputs):
            result = self._parsed(output)
            if joins:
                result = self._with_input(self._parsed(records[number]), result)
            results.append(self._written(select(result, pattern)))
        return b"\n".join(results)

    def _with_input(self, record: Any, result: Any) -> Any:
        if self._type == _CSV:
            return [*record, *result]
        if isinstance(record, dict):
            return {**record, "SageMakerOutput": result}
        return {"SageMakerInput": record, "SageMakerOutput": result}

    def _filtered(self, record: bytes) -> bytes:
        pattern = self._processing.get("InputFilter", "$")
        if pattern == "$":
            return record
        return self._written(select(self._parsed(record), pattern))

    def _parsed(self, record: bytes) -> Any:
        try:
            if self._type == _CSV:
                return next(csv.reader([record.decode()]))
            return json.loads(record)
        except (ValueError, StopIteration) as error:
            raise _ObjectFailed(f"ClientError: a record can't be read: {error}") from error

    def _written(self, value: Any) -> bytes:
        if self._type == _CSV:
            text = io.StringIO()
            csv.writer(text, lineterminator="").writerow(value)
            return text.getvalue().encode()
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    def _data_log(self, text: str) -> None:
        for line in text.split("\n"):
            self._around.logs.write(self._job.region, f"{self._stream}/data-log", line, LOG_GROUP)

    def _pass(self, seconds: float) -> None:
        """Lets time go by, unless the job is over before."""
        deadline = time.monotonic() + seconds
        self._check_over()
        while (left := deadline - time.monotonic()) > 0:
            self._around.closing.wait(min(left, _POLL_SECONDS))
            self._check_over()

    def _is_over(self) -> bool:
        return self._around.closing.is_set() or self._job.stop_requested.is_set()

    def _check_over(self) -> None:
        if self._is_over():
            raise _Ended("Stopped")
