"""Fine-tuning by Amazon SageMaker Autopilot: AutoML jobs for text generation.

An AutoML job trains by a training job of its own, whose log and billed time are read where there is
one. What it leaves is a candidate: containers that serve the model.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from threading import Lock
from typing import Any

from sf_sagemaker.aws import Aws, AwsError, AwsUnavailable, translated
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.storage import KeyMissing
from sf_sagemaker.training.autopilot_candidate import Candidate, training_step
from sf_sagemaker.training.autopilot_errors import NOUN
from sf_sagemaker.training.autopilot_job import AutopilotJob
from sf_sagemaker.training.autopilot_request import automl_request
from sf_sagemaker.training.cost import check_cost
from sf_sagemaker.training.platform import (
    CREATOR,
    ArtifactMissing,
    FailureKind,
    JobDescription,
    JobStatus,
    LogLine,
    Pacing,
    TaggedJob,
)
from sf_sagemaker.training.sagemaker_errors import failure_kind, on_creation
from sf_sagemaker.training.sagemaker_jobs import SageMakerJobs, moment, unavailable
from sf_sagemaker.training.sagemaker_logs import log_page, read_log
from sf_sagemaker.training.sagemaker_request import Network
from sf_sagemaker.training.sagemaker_tags import jobs_of_runs

INSTANCES = "instances of Autopilot's choice"  # where messages name a type of instance


_USE = "training job usage"  # as Service Quotas calls what Autopilot trains on
_OUTPUT = "autopilot-jobs"
_PACING = Pacing(poll=30.0, longest_poll=120.0, settle=10.0, retry=60.0)


class AutopilotPlatform:
    """Runs AutoML jobs under the execution role `role_arn`; data and models lie in `storage`.

    `subnets` with `security_groups`, and `kms_key`, are for jobs that name none of their own. The key
    is for what the jobs leave in S3.
    """

    bills = True

    def __init__(
        self,
        aws: Aws,
        storage: S3Storage,
        role_arn: str,
        *,
        subnets: Sequence[str] = (),
        security_groups: Sequence[str] = (),
        kms_key: str | None = None,
        pacing: Pacing = _PACING,
    ) -> None:
        self.pacing = pacing
        self.storage = storage
        self._aws = aws
        self._role_arn = role_arn
        self._network = Network.of(subnets, security_groups)
        self._kms_key = kms_key
        self._jobs = SageMakerJobs(
            aws, NOUN, "auto_ml_job_v2", "AutoMLJobName", stop_api="auto_ml_job"
        )
        # What trains in a job, asked for once.
        self._lock = Lock()
        self._training_jobs: dict[str, str] = {}

    def create(self, job: AutopilotJob, name: str, environment: Mapping[str, str]) -> None:
        """Starts a job. Raises JobNameTaken; JobRefused, InvalidTrainingJob, InvalidBucket, or
        CostAboveMaximum, before anything is created.

        The folder of the job's output names who creates it: an AutoML job has no environment.
        """
        check_cost(job.limits, job.instance_count)
        output = self.storage.uri(f"{_OUTPUT}/{name}/{environment.get(CREATOR, 'any')}")
        limits = job.limits
        with unavailable():
            self.storage.check()
            request = automl_request(
                job,
                name,
                role_arn=self._role_arn,
                project=self.storage.project,
                training_uri=self.storage.uri(job.training) + "/",
                validation_uri=self.storage.uri(job.validation) + "/" if job.validation else None,
                output_uri=output,
                network=Network.of(limits.subnets, limits.security_groups) or self._network,
                kms_key=limits.kms_key or self._kms_key,
            )
        self._jobs.create(
            request,
            lambda there: there["OutputDataConfig"]["S3OutputPath"] == output,
            lambda error: on_creation(error, self._role_arn, _USE, "autopilot.base_model"),
        )

    def describe(self, name: str) -> JobDescription:
        with unavailable():
            answer = self._jobs.describe(name)
            region = self._aws.region
            candidate = answer.get("BestCandidate", {})
            trains = self._training_job(name, candidate)
            status = JobStatus(answer["AutoMLJobStatus"])
            model = Candidate.of(answer) if status is JobStatus.COMPLETED else None
            if status is JobStatus.COMPLETED and model is None:
                # Its time was up before anything was trained.
                status = JobStatus.STOPPED
            billed = self._billed_seconds(trains) if trains and status.ended else None
        secondary = answer["AutoMLJobSecondaryStatus"]
        created = answer["CreationTime"].astimezone(UTC)
        reasons = _reasons(answer) if status is JobStatus.FAILED else []
        return JobDescription(
            name=name,
            status=status,
            secondary_status=secondary,
            created_at=created,
            # The API has no other time; before anything trains, there is no log either.
            started_at=None if secondary == "Starting" else created,
            ended_at=moment(answer, "EndTime"),
            failure_reason="; ".join(reasons) or None,
            failure_kind=_kind(reasons),
            instance_type=INSTANCES if billed is not None else None,
            training_seconds=billed,
            billable_seconds=billed,
            page=(
                f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}"
                f"#/autopilot/{name}"
            ),
            artifact_uri=model.artifact_uri if model else None,
            log=log_page(region, trains) if trains else None,
            ours=answer["OutputDataConfig"]["S3OutputPath"].startswith(
                self.storage.uri(_OUTPUT) + "/"
            ),
        )

    def stop(self, name: str) -> None:
        self._jobs.stop(name)

    def read_log(self, name: str, cursor: str | None) -> tuple[Sequence[LogLine], str | None]:
        """The log of the training job within the AutoML job, once there is one."""
        with unavailable():
            trains = self._training_job(name, {}) or self._candidates_job(name)
            if trains is None:
                return [], cursor
            return read_log(self._aws.client("logs"), trains, cursor)

    def has_artifact(self, name: str) -> bool:
        with unavailable():
            candidate = Candidate.of(self._jobs.describe(name))
            return candidate is not None and self._is_there(candidate.artifact_uri)

    def fetch_artifact(self, name: str, folder: Path) -> Path:
        """A folder with the job's candidate, which stands for the model.

        Raises JobNotFound, and ArtifactMissing where the job has none, or its files are gone.
        """
        target = folder / name
        if target.is_dir():
            return target
        with unavailable():
            candidate = Candidate.of(self._jobs.describe(name))
            if candidate is None:
                raise ArtifactMissing(
                    f"AutoML job {name} has no candidate with containers: materialize the model again "
                    "to train anew"
                )
            if not self._is_there(candidate.artifact_uri):
                raise ArtifactMissing(
                    f"{candidate.artifact_uri} is gone, although AutoML job {name} completed; "
                    "materialize the model again to train anew"
                )
        candidate.write(target)
        return target

    def jobs_of_runs(self, run_ids: Sequence[str]) -> Sequence[TaggedJob]:
        with unavailable():
            client = self._aws.client("resourcegroupstaggingapi")
            return jobs_of_runs(client, self.storage.project, run_ids, "automl-job")

    @property
    def _client(self) -> Any:
        return self._aws.client("sagemaker")

    def _training_job(self, name: str, candidate: Mapping[str, Any]) -> str | None:
        """The training job of a candidate, or what was found out before."""
        found = training_step(candidate)
        with self._lock:
            if found is not None:
                self._training_jobs[name] = found
            return self._training_jobs.get(name)

    def _candidates_job(self, name: str) -> str | None:
        """The training job of a candidate that isn't yet the best one."""
        with translated(f"list the candidates of AutoML job {name}"):
            answer = self._client.list_candidates_for_auto_ml_job(AutoMLJobName=name)
        for candidate in answer["Candidates"]:
            if found := self._training_job(name, candidate):
                return found
        return None

    def _billed_seconds(self, training_job: str) -> float | None:
        """What the training within the job was billed; None where it can't be seen."""
        try:
            with translated(f"describe training job {training_job}"):
                answer = self._client.describe_training_job(TrainingJobName=training_job)
        except AwsUnavailable:
            raise
        except AwsError:
            return None
        seconds = answer.get("BillableTimeInSeconds")
        if seconds is None:
            return None
        return float(seconds * answer["ResourceConfig"].get("InstanceCount", 1))

    def _is_there(self, uri: str) -> bool:
        """Whether a model's archive or folder is in S3; of another bucket it isn't asked."""
        root = self.storage.uri(_OUTPUT) + "/"
        if not uri.startswith(root):
            return True
        key = f"{_OUTPUT}/{uri.removeprefix(root).rstrip('/')}"
        try:
            self.storage.size(key)
        except KeyMissing:
            return next(self.storage.list(key), None) is not None
        return True


def _reasons(answer: Mapping[str, Any]) -> list[str]:
    """Why a job failed, in the words of the job, of its parts and of its candidate, each once."""
    partial = answer.get("PartialFailureReasons", [])
    said = [
        answer.get("FailureReason"),
        *(reason.get("PartialFailureMessage") for reason in partial),
        answer.get("BestCandidate", {}).get("FailureReason"),
    ]
    return list(dict.fromkeys(reason for reason in said if reason))


def _kind(reasons: Sequence[str]) -> FailureKind | None:
    """The first kind that a reason tells."""
    return next(filter(None, map(failure_kind, reasons)), None)
