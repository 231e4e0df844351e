"""Training jobs on Amazon SageMaker."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from threading import Lock
from typing import Any

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR

from sf_sagemaker.aws import Aws, translated
from sf_sagemaker.containers.llm.base_model_name import BaseModelName
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.storage import KeyMissing
from sf_sagemaker.training.archive import unpack_archive
from sf_sagemaker.training.cost import check_cost
from sf_sagemaker.training.job import InvalidTrainingJob, Limits, TrainingJob, check_job
from sf_sagemaker.training.platform import (
    ArtifactMissing,
    GivenBaseModel,
    JobDescription,
    JobNotFound,
    JobStatus,
    LogLine,
    Pacing,
    TaggedJob,
)
from sf_sagemaker.training.sagemaker_base_model import give_base_model
from sf_sagemaker.training.sagemaker_code import upload_code
from sf_sagemaker.training.sagemaker_errors import failure_kind, on_creation, with_remedy
from sf_sagemaker.training.sagemaker_image import Images
from sf_sagemaker.training.sagemaker_jobs import SageMakerJobs, moment, unavailable
from sf_sagemaker.training.sagemaker_logs import log_page, read_log
from sf_sagemaker.training.sagemaker_request import (
    CODE_CHANNEL,
    PIPES_CHANNEL,
    Input,
    Network,
    context_key,
    training_request,
)
from sf_sagemaker.training.sagemaker_tags import jobs_of_runs

_OUTPUT = "training-jobs"
_PACING = Pacing(poll=15.0, longest_poll=60.0, settle=10.0, retry=60.0)


class SageMakerTrainingPlatform:
    """Runs jobs under the execution role `role_arn`; code, messages and models lie in `storage`.

    `subnets` with `security_groups`, and `kms_key`, are for jobs that name none of their own.
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
        self._images = Images(aws)
        self._jobs = SageMakerJobs(aws, "training job", "training_job", "TrainingJobName")
        # What is asked for once.
        self._lock = Lock()
        self._default_network: Network | None = None

    def image(
        self, framework: str, instance_type: str | None = None, custom: str | None = None
    ) -> str:
        """An image's full address, by digest where ECR tells it. Raises ImageNotUsable."""
        with unavailable():
            if custom is not None:
                return self._images.custom(custom)
            return self._images.framework(framework, instance_type)

    def base_model(self, name: str, limits: Limits, *, accept_eula: bool) -> GivenBaseModel:
        """A model in S3 or of JumpStart, by a channel, or of the hub. Raises BaseModelRefused."""
        with unavailable():
            network = self._network_of(limits)
            return give_base_model(
                self._aws,
                BaseModelName.parse(name),
                accept_eula=accept_eula,
                isolated=limits.network_isolation,
                subnets=network.subnets if network else (),
            )

    def create(self, job: TrainingJob, name: str, environment: Mapping[str, str]) -> None:
        """Starts a job. Raises JobNameTaken; JobRefused, InvalidTrainingJob, InvalidBucket,
        KeyMissing for a channel without files, or CostAboveMaximum, before anything is created."""
        check_job(job)
        check_cost(job.limits, job.instance_count)
        with unavailable():
            self.storage.check()
            self._images.check(job.image, job.limits.instance_type)
            inputs = [*self._inputs(job), *self._own_inputs(job, name, environment)]
            request = training_request(
                job,
                name,
                environment,
                role_arn=self._role_arn,
                project=self.storage.project,
                inputs=inputs,
                output_uri=self.storage.uri(_OUTPUT),
                checkpoint_uri=self.storage.uri(job.checkpoint_key),
                network=self._network_of(job.limits),
                kms_key=job.limits.kms_key or self._kms_key,
            )
        self._jobs.create(
            request,
            lambda there: there.get("Environment") == request["Environment"],
            lambda error: on_creation(error, self._role_arn),
        )

    def describe(self, name: str) -> JobDescription:
        answer = self._jobs.describe(name)
        region = self._aws.region
        if answer["TrainingJobStatus"] == "Deleting":
            raise JobNotFound(f"training job {name} in {region} is being deleted")
        status = JobStatus(answer["TrainingJobStatus"])
        reason = answer.get("FailureReason")
        resources = answer["ResourceConfig"]
        completed = status is JobStatus.COMPLETED
        kind = failure_kind(reason) if reason and status is JobStatus.FAILED else None
        return JobDescription(
            name=name,
            status=status,
            secondary_status=answer["SecondaryStatus"],
            created_at=answer["CreationTime"].astimezone(UTC),
            started_at=moment(answer, "TrainingStartTime"),
            ended_at=moment(answer, "TrainingEndTime"),
            failure_reason=with_remedy(reason, kind, "compute.instance_type"),
            failure_kind=kind,
            instance_type=resources.get("InstanceType"),
            instance_count=resources.get("InstanceCount", 1),
            spot=answer.get("EnableManagedSpotTraining", False),
            training_seconds=answer.get("TrainingTimeInSeconds"),
            billable_seconds=answer.get("BillableTimeInSeconds"),
            page=(
                f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{name}"
            ),
            artifact_uri=answer["ModelArtifacts"]["S3ModelArtifacts"] if completed else None,
            log=log_page(region, name),
            ours=answer["OutputDataConfig"]["S3OutputPath"] == self.storage.uri(_OUTPUT),
        )

    def stop(self, name: str) -> None:
        self._jobs.stop(name)

    def read_log(self, name: str, cursor: str | None) -> tuple[Sequence[LogLine], str | None]:
        with unavailable():
            return read_log(self._aws.client("logs"), name, cursor)

    def has_artifact(self, name: str) -> bool:
        try:
            with unavailable():
                self.storage.size(_artifact(name))
        except KeyMissing:
            return False
        return True

    def fetch_artifact(self, name: str, folder: Path) -> Path:
        target = folder / name
        if target.is_dir():
            return target
        try:
            with unavailable(), self.storage.open(_artifact(name)) as raw:
                unpack_archive(raw, target, self.storage.uri(_artifact(name)))
        except KeyMissing:
            self.describe(name)  # raises JobNotFound
            raise ArtifactMissing(
                f"{self.storage.uri(_artifact(name))} is gone, although training job {name} "
                "completed; materialize the model again to train anew"
            ) from None
        return target

    def jobs_of_runs(self, run_ids: Sequence[str]) -> Sequence[TaggedJob]:
        with unavailable():
            client = self._aws.client("resourcegroupstaggingapi")
            return jobs_of_runs(client, self.storage.project, run_ids)

    def _inputs(self, job: TrainingJob) -> Iterator[Input]:
        for channel in job.channels:
            uri = self.storage.uri(channel.key)
            if next(self.storage.list(channel.key), None) is not None:
                uri += "/"  # or else what only begins with the same name would belong to it
            else:
                try:
                    self.storage.size(channel.key)
                except KeyMissing:
                    raise KeyMissing(
                        f"channel {channel.name!r} has no files: {uri} is empty or doesn't exist"
                    ) from None
            yield Input(channel.name, uri, sharded=channel.distribution == "sharded")

    def _own_inputs(
        self, job: TrainingJob, name: str, environment: Mapping[str, str]
    ) -> Iterator[Input]:
        named = {channel.name for channel in (*job.channels, *job.external)}
        taken = named & {CODE_CHANNEL, PIPES_CHANNEL}
        if taken:
            raise InvalidTrainingJob(f"channel {', '.join(taken)}: that name is the platform's own")
        for one in job.external:
            yield Input(one.name, one.uri, accept_eula=one.accept_eula)
        yield Input(CODE_CHANNEL, self.storage.uri(upload_code(self.storage, job.program)) + "/")
        if DAGSTER_PIPES_CONTEXT_ENV_VAR in environment:
            yield Input(PIPES_CHANNEL, self.storage.uri(context_key(name)))

    def _network_of(self, limits: Limits) -> Network | None:
        if limits.subnets:
            return Network(limits.subnets, limits.security_groups)
        if not limits.default_subnets:
            return self._network
        with self._lock:
            if self._default_network is None:
                self._default_network = _find_default_network(self._aws.client("ec2"))
            return self._default_network


def _find_default_network(ec2: Any) -> Network:
    """The subnets and the security group of the default VPC. Raises InvalidTrainingJob."""
    with translated("look up the default subnets"):
        subnets = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])
        found = subnets["Subnets"]
        if not found:
            raise InvalidTrainingJob(
                "compute.default_subnets: this account has no default VPC here; set "
                "compute.subnets and compute.security_groups"
            )
        vpc = found[0]["VpcId"]
        groups = ec2.describe_security_groups(
            Filters=[
                {"Name": "vpc-id", "Values": [vpc]},
                {"Name": "group-name", "Values": ["default"]},
            ]
        )["SecurityGroups"]
    return Network(
        tuple(sorted(subnet["SubnetId"] for subnet in found if subnet["VpcId"] == vpc)),
        tuple(group["GroupId"] for group in groups),
    )


def _artifact(name: str) -> str:
    return f"{_OUTPUT}/{name}/output/model.tar.gz"
