"""Batch scoring on Amazon SageMaker: large periods by batch transform jobs, others in this process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sf_sagemaker.aws import Aws
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.batch import (
    JobHold,
    LocalBatchScoring,
    PeriodRows,
    Scores,
    TransformOptions,
)
from sf_sagemaker.serving.batch_files import (
    FOLDER,
    OUTPUT,
    Export,
    export_rows,
    output_key,
    output_keys,
    read_output,
)
from sf_sagemaker.serving.endpoint import FetchArtifact, ServedModel
from sf_sagemaker.serving.errors import ServingError
from sf_sagemaker.serving.sagemaker_model import SERVER_TIMEOUT_SECONDS, SageMakerModels
from sf_sagemaker.training.cost import check_cost
from sf_sagemaker.training.errors import JobFailed
from sf_sagemaker.training.job import Limits, attempt_name, short_digest
from sf_sagemaker.training.platform import (
    JobDescription,
    JobStatus,
    LogLine,
    Pacing,
    TaggedJob,
)
from sf_sagemaker.training.run import JobKind, run_job
from sf_sagemaker.training.sagemaker_errors import failure_kind, on_creation, with_remedy
from sf_sagemaker.training.sagemaker_jobs import SageMakerJobs, moment, unavailable
from sf_sagemaker.training.sagemaker_logs import log_page, read_log
from sf_sagemaker.training.sagemaker_request import TAG_PREFIX, has_own_disks, project_tag
from sf_sagemaker.training.sagemaker_tags import MAX_RUNTIME_TAG, jobs_of_runs

NOUN = "transform job"
LOG_GROUP = "/aws/sagemaker/TransformJobs"

_NAME_LIMIT = 63  # CreateTransformJob, SageMaker API reference: TransformJobName
_JSON, _JSON_LINES = "application/json", "application/jsonlines"
_USE = "transform job usage"  # as Service Quotas calls it
# A description doesn't say for which of the two a job was created.
_SETTING = "instance_type of predictions.transform, or of autopilot.inference,"
_RETRIES = 3
_PACING = Pacing(poll=15.0, longest_poll=60.0, settle=10.0, retry=60.0)


class TransformJobFailed(JobFailed):
    """A transform job that ended as Failed."""

    noun = NOUN


class TransformJobStopped(ServingError):
    """A job that a person stopped, or a run that was cancelled: it is a person's to go on."""

    permanent = True

    def __init__(self, description: JobDescription) -> None:
        super().__init__(
            f"transform job {description.name} was stopped before it completed: nothing was written. "
            "Materialize again for another attempt"
        )
        self.description = description


class TransformJobOverdue(ServingError):
    """A job that was stopped because it ran for longer than it may."""

    permanent = True

    def __init__(self, description: JobDescription, limits: Limits) -> None:
        setting = f"{limits.settings}.max_runtime"
        super().__init__(
            f"transform job {description.name} ran for longer than {setting}, {limits.max_runtime}, and "
            f"was stopped: nothing was written. Raise {setting}, or choose more or faster instances, and "
            "materialize again for another attempt, which starts from the beginning"
        )
        self.description = description


def _vanished(name: str) -> ServingError:
    return ServingError(
        f"transform job {name} no longer exists, although a run waits for it. Materialize again"
    )


def _exhausted(first: str, last: str) -> ServingError:
    return ServingError(
        f"all attempts from {first} to {last} have ended without predictions that are still there. "
        "Look at the log of the last one"
    )


TRANSFORM = JobKind(
    NOUN, TransformJobFailed, TransformJobStopped, _vanished, _exhausted, TransformJobOverdue
)


@dataclass(frozen=True)
class TransformJob:
    """The scoring of an export by a SageMaker Model, `sagemaker_model`. What is in neither of them
    doesn't change the result.

    With `bodies`, each line of the export is the body of a request, and lines of output are answers in
    their order; otherwise each is a row, whose features are asked about and whose number comes back.
    `tags` are for finding the job.
    """

    model: str
    partition: str
    sagemaker_model: str
    export: Export
    options: TransformOptions
    bodies: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def limits(self) -> Limits:
        return self.options.limits

    @property
    def instance_count(self) -> int:
        return self.options.instance_count

    @property
    def digest(self) -> str:
        """Ten hex digits over everything that decides the result.

        Of the rows it is the folder, for it decides their order: the numbers in a job's output mean
        the rows of the export that it read, and of no other one.
        """
        return short_digest({"model": self.sagemaker_model, "rows": self.export.folder})

    def anew(self, asked_at: datetime) -> "TransformJob":
        """Itself: it leaves nothing that another one would go on from."""
        return self

    def name(self, attempt: int) -> str:
        """The name of the job's attempt, from 1."""
        return attempt_name(self.model, self.partition, self.digest, attempt, _NAME_LIMIT)

    def output_key(self, name: str) -> str:
        """The folder of what the attempt of that name writes."""
        return output_key(self.model, self.partition, self.export, name)


def transform_request(
    job: TransformJob,
    name: str,
    environment: Mapping[str, str],
    *,
    input_uri: str,
    output_uri: str,
    project: str,
    kms_key: str | None,
) -> dict[str, Any]:
    """The CreateTransformJob request.

    Of a row, the model gets the features, and the service joins its number and the prediction.
    """
    options = job.options
    media_type = _JSON if job.bodies else _JSON_LINES
    output = {"S3OutputPath": output_uri, "Accept": media_type, "AssembleWith": "Line"}
    resources: dict[str, Any] = {
        "InstanceType": options.limits.instance_type,
        "InstanceCount": options.instance_count,
    }
    if kms_key is not None:
        output["KmsKeyId"] = kms_key
        if not has_own_disks(options.limits.instance_type):
            resources["VolumeKmsKeyId"] = kms_key
    tags = {
        **job.tags,
        **project_tag(project),
        f"{TAG_PREFIX}model": job.model,
        MAX_RUNTIME_TAG: f"{options.limits.max_runtime.total_seconds():.0f}",
    }
    if not job.bodies:
        tags[f"{TAG_PREFIX}partition"] = job.partition
    joined = {
        "DataProcessing": {
            "InputFilter": "$.features",
            "JoinSource": "Input",
            "OutputFilter": f"$['row','{OUTPUT}']",
        }
    }
    return {
        "TransformJobName": name,
        "ModelName": job.sagemaker_model,
        "MaxConcurrentTransforms": options.max_concurrent,
        "MaxPayloadInMB": options.max_payload_mb,
        "ModelClientConfig": {
            "InvocationsTimeoutInSeconds": SERVER_TIMEOUT_SECONDS,
            "InvocationsMaxRetries": _RETRIES,
        },
        "BatchStrategy": "SingleRecord" if job.bodies else "MultiRecord",
        "Environment": dict(environment),
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": input_uri}},
            "ContentType": media_type,
            "SplitType": "Line",
        },
        "TransformOutput": output,
        "TransformResources": resources,
        **({} if job.bodies else joined),
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


class SageMakerTransforms:
    """Runs batch transform jobs, by name; rows and predictions lie in `storage`."""

    def __init__(
        self,
        aws: Aws,
        storage: S3Storage,
        role_arn: str,
        *,
        kms_key: str | None = None,
        pacing: Pacing = _PACING,
    ) -> None:
        self.pacing = pacing
        self.storage = storage
        self._aws = aws
        self._role_arn = role_arn
        self._kms_key = kms_key
        self._jobs = SageMakerJobs(aws, NOUN, "transform_job", "TransformJobName")

    def create(self, job: TransformJob, name: str, environment: Mapping[str, str]) -> None:
        """Starts a job. Raises JobNameTaken; JobRefused, or CostAboveMaximum, before anything is created;
        and PlatformUnavailable."""
        check_cost(job.limits, job.instance_count)
        request = transform_request(
            job,
            name,
            environment,
            # With the closing slash, or else what only begins with the same name would belong to it.
            input_uri=self.storage.uri(job.export.input_key) + "/",
            output_uri=self.storage.uri(job.output_key(name)),
            project=self.storage.project,
            kms_key=job.limits.kms_key or self._kms_key,
        )
        setting = f"{job.limits.settings}.instance_type"
        self._jobs.create(
            request,
            lambda there: there.get("Environment") == request["Environment"],
            lambda error: on_creation(error, self._role_arn, _USE, setting),
        )

    def describe(self, name: str) -> JobDescription:
        answer = self._jobs.describe(name)
        region = self._aws.region
        status = JobStatus(answer["TransformJobStatus"])
        reason = answer.get("FailureReason")
        kind = failure_kind(reason) if reason and status is JobStatus.FAILED else None
        resources = answer["TransformResources"]
        started = moment(answer, "TransformStartTime")
        ended = moment(answer, "TransformEndTime")
        seconds = (ended - started).total_seconds() if started and ended else None
        uri = answer["TransformOutput"]["S3OutputPath"]
        return JobDescription(
            name=name,
            status=status,
            secondary_status=status,
            created_at=answer["CreationTime"].astimezone(UTC),
            started_at=started,
            ended_at=ended,
            failure_reason=with_remedy(reason, kind, _SETTING),
            failure_kind=kind,
            instance_type=resources["InstanceType"],
            instance_count=resources["InstanceCount"],
            training_seconds=seconds,
            billable_seconds=seconds,
            page=(
                f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}"
                f"#/transform-jobs/{name}"
            ),
            artifact_uri=uri if status is JobStatus.COMPLETED else None,
            log=log_page(region, name, LOG_GROUP),
            ours=uri.startswith(self.storage.uri(FOLDER) + "/"),
        )

    def stop(self, name: str) -> None:
        self._jobs.stop(name)

    def read_log(self, name: str, cursor: str | None) -> tuple[Sequence[LogLine], str | None]:
        with unavailable():
            return read_log(self._aws.client("logs"), name, cursor, LOG_GROUP)

    def jobs_of_runs(self, run_ids: Sequence[str]) -> Sequence[TaggedJob]:
        with unavailable():
            client = self._aws.client("resourcegroupstaggingapi")
            return jobs_of_runs(client, self.storage.project, run_ids, "transform-job")

    def has_artifact(self, name: str) -> bool:
        """Whether there is output for every part of the input."""
        answer = self._jobs.describe(name)
        source = answer["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
        root = self.storage.uri(FOLDER)
        folders = [
            FOLDER + uri.removeprefix(root).rstrip("/")
            for uri in (source, answer["TransformOutput"]["S3OutputPath"])
        ]
        with unavailable():
            parts = {key.rsplit("/", 1)[-1] for key in self.storage.list(folders[0])}
            outputs = output_keys(self.storage, folders[1])
        return bool(parts) and {part.removesuffix(".jsonl") for part in parts} <= set(outputs)


class SageMakerBatchScoring:
    """Periods of `min_rows` rows and more go to a batch transform job, others are scored here.

    A job's name follows from the rows and from the model, so that the same rows are scored once by a
    model: a run adopts the job of another run, or takes the predictions that are there.
    """

    def __init__(
        self,
        transforms: SageMakerTransforms,
        models: SageMakerModels,
        fetch_artifact: FetchArtifact,
    ) -> None:
        self._transforms = transforms
        self._models = models
        self._here = LocalBatchScoring(fetch_artifact)

    @contextmanager
    def score(
        self,
        rows: PeriodRows,
        model: ServedModel,
        *,
        batch_rows: int,
        transform: TransformOptions | None,
        hold: JobHold,
    ) -> Iterator[Scores]:
        if transform is None or rows.count() < transform.min_rows:
            with self._here.score(
                rows, model, batch_rows=batch_rows, transform=transform, hold=hold
            ) as scores:
                yield scores
            return
        hold.check()
        storage = self._transforms.storage
        with rows.staged() as staged:
            export = export_rows(storage, rows, staged, batch_rows)
        sagemaker_model = self._models.ensure_model(
            model, image=transform.image, instance_type=transform.limits.instance_type
        )
        job = TransformJob(
            model.model, rows.period.key, sagemaker_model, export, transform, tags=hold.tags
        )
        result = run_job(
            job,
            self._transforms,
            TRANSFORM,
            on_log=hold.log,
            on_attempt=hold.take,
            on_status=hold.report,
            should_stop=hold.nobody_wants,
            pause=hold.pause,
        )
        yield Scores(read_output(storage, export, job.output_key(result.name)), result)
