"""The operations on AutoML jobs V2 for text generation, and jobs that really train something.

A job reads its data, trains by a training job that it creates under its role, as Autopilot does, and
gives that job's model as its candidate. Sources: the API reference, and in the developer guide "Create an
AutoML job to fine-tune text generation models" with the pages it leads to. What the service says where a
job fails isn't documented: the reasons here are made up after those of training jobs.
"""

import io
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from standins.sagemaker import automl_container
from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.faults import Faults
from standins.sagemaker.jobs import Jobs
from standins.sagemaker.models import check_role
from standins.sagemaker.requests import ApiError, Operations, Request, ValidationError
from standins.sagemaker.runner import Surroundings
from standins.sagemaker.training_jobs import TrainingJobs

_POLL_SECONDS = 0.04
_MOST_TRUNCATED = 0.6
_TOKEN = 4  # characters, about
_CSV, _PARQUET = "text/csv;header=present", "x-application/vnd.amazon+parquet"
_DEFAULT = "Falcon7BInstruct"
# Rows, tokens; others have none that are known here.
_LIMITS = {
    **dict.fromkeys(("Falcon7B", "Falcon7BInstruct"), (1_000, 1024)),
    **dict.fromkeys(("Dolly3B", "MPT7B", "MPT7BInstruct", "FlanT5L"), (10_000, 1024)),
    **dict.fromkeys(("Mistral7B", "Mistral7BInstruct", "Llama2-7B"), (10_000, 2048)),
    **dict.fromkeys(("Llama2-13B", "Llama2-13BChat"), (7_000, 2048)),
}
_BOUNDS = {
    "epochCount": (1, 10),
    "batchSize": (1, 64),
    "learningRate": (0, 1),
    "learningRateWarmupSteps": (0, 250),
}
_METRICS = {
    "TrainingLoss": ("train_loss", "Train"),
    "ValidationLoss": ("eval_loss", "Validation"),
    "Perplexity": ("perplexity", "Validation"),
    "Rouge1": ("rouge1", "Validation"),
}
_IMAGE = "763104351884.dkr.ecr.{region}.amazonaws.com/huggingface-pytorch-tgi-inference:2.0.1"
_TRAINING_IMAGE = "763104351884.dkr.ecr.{region}.amazonaws.com/huggingface-pytorch-training:2.0.0"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class AutoMLJob:
    """A job as the service knows it. `training_job` is the one that it trains by."""

    request: dict[str, Any]
    region: str
    account: str
    containers_in: str
    status: str = "InProgress"
    secondary: str = "Starting"
    seen: list[str] = field(default_factory=lambda: ["Starting"])
    created: datetime = field(default_factory=_now)
    created_clock: float = field(default_factory=time.monotonic)
    ended: datetime | None = None
    failure_reason: str | None = None
    training_job: str | None = None
    candidate: dict[str, Any] | None = None
    stop_requested: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.tags = {tag["Key"]: tag["Value"] for tag in self.request.get("Tags", [])}

    @property
    def name(self) -> str:
        return self.request["AutoMLJobName"]

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{self.region}:{self.account}:automl-job/{self.name}"

    @property
    def generation(self) -> Mapping[str, Any]:
        return self.request["AutoMLProblemTypeConfig"]["TextGenerationJobConfig"]

    @property
    def base_model(self) -> str:
        return self.generation.get("BaseModelName", _DEFAULT)

    def enter(self, secondary: str, status: str | None = None) -> None:
        with self.lock:
            if self.status == "Stopping" and status is None:
                return
            self.secondary, self.status = secondary, status or self.status
            self.seen.append(secondary)

    def end(self, secondary: str, status: str, reason: str | None = None) -> None:
        self.failure_reason = reason[:1024] if reason else None
        self.ended = _now()
        self.enter(secondary, status)
        self.finished.set()

    def describe(self) -> dict[str, Any]:
        resolved = {"TextGenerationResolvedAttributes": {"BaseModelName": self.base_model}}
        answer = {
            "AutoMLJobName": self.name,
            "AutoMLJobArn": self.arn,
            **{
                name: self.request.get(name)
                for name in (
                    "AutoMLJobInputDataConfig", "OutputDataConfig", "RoleArn",
                    "AutoMLProblemTypeConfig", "SecurityConfig",
                )
            },
            "AutoMLProblemTypeConfigName": "TextGeneration",
            "CreationTime": self.created,
            "LastModifiedTime": self.ended or _now(),
            "EndTime": self.ended,
            "FailureReason": self.failure_reason,
            "AutoMLJobStatus": self.status,
            "AutoMLJobSecondaryStatus": self.secondary,
            "ResolvedAttributes": {"AutoMLProblemTypeResolvedAttributes": resolved},
            "BestCandidate": self.candidate if self.status == "Completed" else None,
        }  # fmt: skip
        return {name: value for name, value in answer.items() if value is not None}

    def candidates(self) -> list[dict[str, Any]]:
        """The only candidate, from when it trains."""
        if self.candidate is not None:
            return [self.candidate]
        return [] if self.training_job is None else [self.as_candidate("InProgress")]

    def as_candidate(self, status: str, **more: Any) -> dict[str, Any]:
        assert self.training_job is not None
        arn = f"arn:aws:sagemaker:{self.region}:{self.account}:training-job/{self.training_job}"
        step = {
            "CandidateStepType": "AWS::SageMaker::TrainingJob",
            "CandidateStepArn": arn,
            "CandidateStepName": self.training_job,
        }
        return {
            "CandidateName": self.training_job,
            "ObjectiveStatus": "Succeeded" if status == "Completed" else "Pending",
            "CandidateSteps": [step],
            "CandidateStatus": status,
            "CreationTime": self.created,
            "LastModifiedTime": _now(),
            **more,
        }


class AutoMLJobs(Jobs[AutoMLJob]):
    """All AutoML jobs of an account. Names are used once, whatever their case.

    `containers_in` is where a candidate has its containers: the API has two places for them.
    """

    def __init__(
        self, around: Surroundings, state: AwsState, faults: Faults, training: TrainingJobs
    ) -> None:
        super().__init__("AutoML job", cased=False)
        self.containers_in = "InferenceContainers"
        self._around = around
        self._state = state
        self._faults = faults
        self._training = training

    def operations(self) -> Operations:
        return {
            ("sagemaker", "CreateAutoMLJobV2"): self._create,
            ("sagemaker", "DescribeAutoMLJobV2"): lambda request: self._find(request).describe(),
            ("sagemaker", "StopAutoMLJob"): self._stop,
            ("sagemaker", "ListCandidatesForAutoMLJob"): lambda request: {
                "Candidates": self._find(request).candidates()
            },
        }

    def hold(self, name: str) -> None:
        """Lets the training of a job, also of one to come, wait until it is released."""
        hold_file(self._around, name).touch()

    def release(self, name: str) -> None:
        hold_file(self._around, name).unlink()

    def _create(self, request: Request) -> Mapping[str, Any]:
        job = AutoMLJob(
            dict(request.parameters), request.region, self._state.account, self.containers_in
        )
        self._check(job)
        self._start(job, _Runner(job, self._around, self._training).run)
        return {"AutoMLJobArn": job.arn}

    def _stop(self, request: Request) -> Mapping[str, Any]:
        job = self._find(request)
        with job.lock:
            if job.status != "InProgress":
                raise ValidationError(
                    f"The request was rejected because the AutoML job is in status {job.status}."
                )
            job.status = job.secondary = "Stopping"
            job.stop_requested.set()
        return {}

    def _find(self, request: Request) -> AutoMLJob:
        name = request.parameters["AutoMLJobName"]
        job = self._known(request.region, name)
        hidden = self._around.settings.hidden_seconds
        if job is None or time.monotonic() - job.created_clock < hidden:
            raise ApiError("ResourceNotFound", f"Could not find AutoML job with name {name}")
        return job

    def _check(self, job: AutoMLJob) -> None:
        """Raises ApiError for a request that the service refuses."""
        if "TextGenerationJobConfig" not in job.request["AutoMLProblemTypeConfig"]:
            raise ValidationError("This stand-in knows text generation only")
        check_role(job.request["RoleArn"], self._state, self._faults)
        accepted = job.generation.get("ModelAccessConfig", {}).get("AcceptEula")
        if job.base_model.startswith("Llama2") and not accepted:
            raise ValidationError(
                f"You must accept the end-user license agreement (EULA) to use {job.base_model}"
            )
        if job.generation.get("CompletionCriteria", {}).get("MaxCandidates", 1) != 1:
            raise ValidationError("MaxCandidates must be 1 for text generation")
        for name, value in job.generation.get("TextGenerationHyperParameters", {}).items():
            low, high = _BOUNDS.get(name, (1, 0))
            if not low <= float(value) <= high:
                raise ValidationError(f"Invalid value {value} of hyperparameter {name}")
        channels = job.request["AutoMLJobInputDataConfig"]
        if [channel.get("ChannelType", "training") for channel in channels] not in (
            ["training"],
            ["training", "validation"],
        ):
            raise ValidationError("A training channel, and at most one for validation, is needed")
        if len({channel.get("ContentType", _CSV) for channel in channels}) > 1:
            raise ValidationError("Channels must share the same ContentType")
        for channel in channels:
            self._check_channel(channel, job.region)

    def _check_channel(self, channel: Mapping[str, Any], region: str) -> None:
        source = channel["DataSource"]["S3DataSource"]
        if source["S3DataType"] != "S3Prefix":
            raise ValidationError("Text generation takes S3Prefix only")
        if channel.get("ContentType", _CSV) not in (_CSV, _PARQUET):
            raise ValidationError(f"Unsupported ContentType {channel['ContentType']}")
        location = S3Location.parse(source["S3Uri"])
        if self._state.bucket_region(location.bucket) != region or not self._state.has_objects(
            location
        ):
            raise ValidationError(f"No S3 objects found under {source['S3Uri']}")


class _Ended(Exception):
    """The job's end, wherever it was met."""

    def __init__(self, secondary: str, status: str, reason: str | None = None) -> None:
        super().__init__(reason)
        self.state = (secondary, status, reason)


class _Runner:
    """One job; `run` returns when it has ended, or when the service closes."""

    def __init__(self, job: AutoMLJob, around: Surroundings, training: TrainingJobs) -> None:
        self._job = job
        self._around = around
        self._training = training
        self._s3 = around.clients.get("s3", job.region)
        self._sagemaker = around.clients.get("sagemaker", job.region)
        criteria = job.generation.get("CompletionCriteria", {})
        self._deadline = job.created_clock + criteria.get("MaxAutoMLJobRuntimeInSeconds", 10**9)

    def run(self) -> None:
        job = self._job
        try:
            self._pass(self._around.settings.starting_seconds)
            job.enter("AnalyzingData")
            self._check_data()
            job.enter("TrainingModels")
            self._train()
            state: tuple[str, str, str | None] = ("Completed", "Completed", None)
        except _Ended as ended:
            state = ended.state
        except (ClientError, BotoCoreError, OSError) as error:
            state = ("Failed", "Failed", f"InternalServerError: {error}")
        if not self._around.closing.is_set():
            job.end(*state)

    def _check_data(self) -> None:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        rows, truncated = 0, 0
        most, context = _LIMITS.get(self._job.base_model, (10**9, 10**9))
        for channel in self._job.request["AutoMLJobInputDataConfig"]:
            is_csv = channel.get("ContentType", _CSV) == _CSV
            location = S3Location.parse(channel["DataSource"]["S3DataSource"]["S3Uri"])
            for key in self._keys(location):
                content = self._s3.get_object(Bucket=location.bucket, Key=key)["Body"].read()
                try:
                    parse = pyarrow.csv.read_csv if is_csv else pyarrow.parquet.read_table
                    table = parse(io.BytesIO(content))
                except (pa.ArrowInvalid, OSError) as error:
                    raise _failed(f"s3://{location.bucket}/{key} can't be read: {error}") from error
                if table.column_names != ["input", "output"]:
                    raise _failed(
                        "The dataset must contain exactly two columns named input and output, and "
                        f"s3://{location.bucket}/{key} has {', '.join(table.column_names)}"
                    )
                rows += table.num_rows
                for row in table.to_pylist():
                    longest = max(len(row["input"]), len(row["output"]))
                    truncated += longest > context * _TOKEN
        if rows > most:
            raise _failed(f"The dataset has {rows} rows, the limit is {most}")
        if rows and truncated / rows > _MOST_TRUNCATED:
            raise _failed(f"{truncated} of {rows} rows exceed the context of {context} tokens")

    def _train(self) -> None:
        job = self._job
        name = f"{job.name}-{uuid.uuid4().hex[:12]}"
        output = S3Location.parse(job.request["OutputDataConfig"]["S3OutputPath"]).under(job.name)
        code = output.under("code", "train.py")
        script = Path(automl_container.__file__).read_bytes()
        self._s3.put_object(Bucket=code.bucket, Key=code.key, Body=script)
        channels = {"code": code.uri} | {
            channel.get("ChannelType", "training"): channel["DataSource"]["S3DataSource"]["S3Uri"]
            for channel in job.request["AutoMLJobInputDataConfig"]
        }
        command = "exec python3 /opt/ml/input/data/code/train.py train"
        metrics = [
            {"Name": name, "Regex": f"^{printed}=([0-9.]+)"}
            for name, (printed, _) in _METRICS.items()
        ]
        self._sagemaker.create_training_job(
            TrainingJobName=name,
            RoleArn=job.request["RoleArn"],
            AlgorithmSpecification={
                "TrainingImage": _TRAINING_IMAGE.format(region=job.region),
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["/bin/sh", "-c", command],
                "MetricDefinitions": metrics,
            },
            Environment={"AUTOML_HOLD": str(hold_file(self._around, job.name))},
            InputDataConfig=[_channel(name, uri) for name, uri in channels.items()],
            OutputDataConfig={"S3OutputPath": output.uri},
            ResourceConfig={
                "InstanceType": "ml.g5.12xlarge", "InstanceCount": 1, "VolumeSizeInGB": 100,
            },
            StoppingCondition={"MaxRuntimeInSeconds": 259_200},
            Tags=[{"Key": key, "Value": value} for key, value in job.tags.items()],
        )  # fmt: skip
        job.training_job = name
        trained = self._training[name]
        try:
            while not trained.finished.wait(_POLL_SECONDS):
                self._check_over()
        except _Ended:
            if not self._around.closing.is_set():
                self._sagemaker.stop_training_job(TrainingJobName=name)
                trained.finished.wait(30)
            raise
        if trained.status != "Completed" or trained.artifact is None:
            raise _Ended("Failed", "Failed", trained.failure_reason or "ClientError: no model")
        container = {
            "Image": _IMAGE.format(region=job.region),
            "ModelDataUrl": trained.artifact,
            "Environment": {"SM_NUM_GPUS": "4"},
        }
        in_gpu = job.containers_in == "InferenceContainerDefinitions"
        job.candidate = job.as_candidate(
            "Completed",
            **{job.containers_in: {"GPU": [container]} if in_gpu else [container]},
            EndTime=_now(),
            CandidateProperties={
                "CandidateMetrics": [
                    {"StandardMetricName": name, "Value": trained.metrics[name][0], "Set": split}
                    for name, (_, split) in _METRICS.items()
                ]
            },
        )

    def _keys(self, location: S3Location) -> list[str]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=location.bucket, Prefix=location.key
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def _pass(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._check_over()
        while time.monotonic() < deadline:
            self._around.closing.wait(_POLL_SECONDS)
            self._check_over()

    def _check_over(self) -> None:
        if self._around.closing.is_set() or self._job.stop_requested.is_set():
            raise _Ended("Stopped", "Stopped")
        if time.monotonic() > self._deadline:
            raise _Ended("MaxAutoMLJobRuntimeReached", "Completed")


def hold_file(around: Surroundings, name: str) -> Path:
    return around.folder / f"hold-{name}"


def _failed(reason: str) -> _Ended:
    return _Ended("Failed", "Failed", f"ClientError: {reason}")


def _channel(name: str, uri: str) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "InputMode": "File",
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": uri,
                "S3DataDistributionType": "FullyReplicated",
            }
        },
    }
