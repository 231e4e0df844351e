"""Fine-tuning by Autopilot on the stand-in: the whole life of AutoML jobs, and what may come between.

Client calls for one job with n polls: before creation 1 HeadBucket in a process; 1 CreateAutoMLJobV2;
n + 2 DescribeAutoMLJobV2; for each poll 1 ListCandidatesForAutoMLJob until the candidate's training job is
known, then 1 DescribeLogStreams and 1 GetLogEvents or more; 1 DescribeTrainingJob; 1 HeadObject.
"""

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sf_sagemaker.aws import Aws
from sf_sagemaker.lifecycle.answers import NotAnswered
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.autopilot_answers import AskingOptions, AutopilotAnswers
from sf_sagemaker.serving.sagemaker_model import SageMakerModels
from sf_sagemaker.serving.sagemaker_transform import SageMakerTransforms, TransformJobOverdue
from sf_sagemaker.training.autopilot import INSTANCES, AutopilotPlatform
from sf_sagemaker.training.autopilot_candidate import Candidate, InferenceContainer
from sf_sagemaker.training.autopilot_data import prepare_data
from sf_sagemaker.training.autopilot_errors import AUTOML, AutoMLJobFailed, AutoMLJobStopped
from sf_sagemaker.training.autopilot_job import AutopilotJob
from sf_sagemaker.training.cost import CostAboveMaximum, actual_cost
from sf_sagemaker.training.job import RUN_TAG, InvalidTrainingJob, Limits
from sf_sagemaker.training.platform import (
    CREATOR,
    ArtifactMissing,
    FailureKind,
    JobDescription,
    JobNameTaken,
    JobNotFound,
    JobRefused,
    JobStatus,
    LogLine,
    Pacing,
    PlatformUnavailable,
)
from sf_sagemaker.training.run import JobResult, run_job
from sf_sagemaker.training.sagemaker_errors import RoleNotUsable
from standins.sagemaker.service import SageMakerService
from waiting import wait_until

PACING = Pacing(poll=0.1, longest_poll=0.2, settle=0.3, retry=0.1)
ROWS = [
    *(("the engine was shut down after the strike", "shutdown") for _ in range(30)),
    *(("take-off was aborted at once", "abort") for _ in range(20)),
    *(("the flight went on as planned", "other") for _ in range(40)),
]


def batches(rows: Sequence[tuple[str | None, str | None]]) -> Callable[[], list[pa.RecordBatch]]:
    columns = {
        "prompt": pa.array([row[0] for row in rows], pa.string()),
        "completion": pa.array([row[1] for row in rows], pa.string()),
    }
    return lambda: [pa.RecordBatch.from_pydict(columns)]


class Site:
    """A bucket, the platform, and a model's name, of one test."""

    def __init__(self, service: SageMakerService, aws: Aws) -> None:
        unique = uuid.uuid4().hex[:8]
        self.service = service
        self.storage = S3Storage(aws, service.create_bucket(f"bucket-{unique}"), "p")
        self.platform = AutopilotPlatform(aws, self.storage, service.role_arn, pacing=PACING)
        self.model = f"triage_{unique}"
        self.lines: list[str] = []
        self.statuses: list[str] = []
        self.aws = aws

    def job(self, rows: Sequence[tuple[str, str]] = ROWS, **changes: Any) -> AutopilotJob:
        base_model = changes.get("base_model")
        data = prepare_data(
            self.storage,
            f"autopilot-data/{self.model}/1",
            {"training": batches(rows), "validation": batches(rows[::9])},
            base_model=base_model,
        )
        return AutopilotJob(
            **{
                "model": self.model,
                "partition": "2015-04-27",
                "dataset_fingerprint": "abc",
                "training": data.training,
                "validation": data.validation,
                "limits": Limits(INSTANCES, timedelta(minutes=5), price_per_hour=36.0),
                **changes,
            }
        )

    def run(self, job: AutopilotJob, **options: Any) -> JobResult:
        def on_log(line: LogLine) -> None:
            self.lines.append(line.text)

        def on_status(description: JobDescription) -> None:
            self.statuses.append(f"{description.status} {description.secondary_status}")

        return run_job(job, self.platform, AUTOML, on_log=on_log, on_status=on_status, **options)


@pytest.fixture
def site(service: SageMakerService, aws: Aws) -> Site:
    service.settings.stop_grace_seconds = 1
    site = Site(service, aws)
    service.calls.clear()
    return site


def test_a_job_trains_and_leaves_its_candidate(site: Site, tmp_path: Path) -> None:
    site.service.settings.starting_seconds = 0.3
    job = site.job(hyperparameters={"epochCount": "2", "learningRate": "0.01"})
    result = site.run(job)
    assert not result.adopted
    assert result.name == job.name(1)
    assert site.statuses[0] == "InProgress Starting"
    assert site.statuses[-1] == "Completed Completed"
    assert any(line.startswith("eval_loss=") for line in site.lines)
    candidate = Candidate.read(site.platform.fetch_artifact(result.name, tmp_path))
    assert candidate.base_model == "Falcon7BInstruct"
    assert {metric.name for metric in candidate.metrics} == {
        "TrainingLoss", "ValidationLoss", "Perplexity", "Rouge1",
    }  # fmt: skip
    assert candidate.steps[0].type == "AWS::SageMaker::TrainingJob"
    description = result.description
    assert description.artifact_uri == candidate.artifact_uri
    assert candidate.artifact_uri.startswith(site.storage.uri("autopilot-jobs") + "/")
    assert description.billable_seconds is not None
    assert actual_cost(description, job.limits) == pytest.approx(description.billable_seconds / 100)
    assert candidate.steps[0].name in (description.log or "")
    [created] = site.service.calls.of("CreateAutoMLJobV2")
    config = created.parameters["AutoMLProblemTypeConfig"]["TextGenerationJobConfig"]
    assert config == {
        "CompletionCriteria": {"MaxCandidates": 1, "MaxAutoMLJobRuntimeInSeconds": 300},
        "TextGenerationHyperParameters": {"epochCount": "2", "learningRate": "0.01"},
    }
    assert site.service.automl[result.name].seen == [
        "Starting", "AnalyzingData", "TrainingModels", "Completed",
    ]  # fmt: skip
    assert site.service.calls.count("ListTrainingJobs") == 0
    assert site.service.calls.count("ListAutoMLJobs") == 0


def test_what_a_job_is_given_is_what_the_rows_are(site: Site) -> None:
    job = site.job([("  a\nb ", "ö"), ("c, d", 'e"')])
    keys = list(site.storage.list(job.training))
    table = pq.read_table(pa.BufferReader(site.storage.read(keys[0])))
    assert table.to_pydict() == {"input": ["a\nb", "c, d"], "output": ["ö", 'e"']}
    assert len(keys) == 1


def test_the_same_again_adopts_what_there_is(site: Site) -> None:
    first = site.run(site.job())
    again = site.run(site.job(limits=Limits(INSTANCES, timedelta(hours=2)), accept_eula=True))
    assert (again.name, again.adopted) == (first.name, True)
    assert site.service.calls.count("CreateAutoMLJobV2") == 1
    other = site.job(hyperparameters={"epochCount": "2"})
    assert other.name(1) != first.name
    assert site.job(base_model="Falcon7BInstruct").name(1) == first.name  # which is the default


def test_a_job_that_a_killed_process_left_behind_is_adopted(site: Site) -> None:
    job = site.job()
    site.service.automl.hold(job.name(1))
    site.platform.create(job, job.name(1), {CREATOR: "a process that is gone"})
    site.service.automl.release(job.name(1))
    result = site.run(job)
    assert result.adopted
    assert any("training rows" in line for line in site.lines)


def test_a_lost_answer_is_found_out(site: Site) -> None:
    site.service.faults.lose_answer("CreateAutoMLJobV2")
    result = site.run(site.job())
    assert (result.attempt, result.adopted) == (1, False)
    assert len([job for job in site.service.automl.all() if job.name == result.name]) == 1


def test_a_throttled_service_is_asked_again(site: Site) -> None:
    for operation in ("CreateAutoMLJobV2", "DescribeAutoMLJobV2", "ListCandidatesForAutoMLJob"):
        site.service.faults.throttle(operation)
    site.service.faults.internal_error("CreateAutoMLJobV2")
    site.service.settings.hidden_seconds = 0.3
    job = site.job()
    # Candidates are listed only while the job trains.
    site.service.automl.hold(job.name(1))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(site.run, job)
        wait_until(lambda: site.service.faults.left() == [])
        site.service.automl.release(job.name(1))
        assert running.result().attempt == 1


def test_a_name_that_another_took_is_told(site: Site) -> None:
    job = site.job()
    site.platform.create(job, job.name(1), {CREATOR: "one"})
    site.platform.create(job, job.name(1), {CREATOR: "one"})
    with pytest.raises(JobNameTaken, match="never used twice"):
        site.platform.create(job, job.name(1), {CREATOR: "two"})
    site.platform.stop(job.name(1))


def test_another_deployments_job_is_passed_over(site: Site) -> None:
    other = Site(site.service, site.aws)
    other.model = site.model
    theirs = other.run(other.job())
    ours = site.run(site.job())
    assert theirs.name.endswith("-1")
    assert ours.name.endswith("-2")


@pytest.mark.parametrize("cause", ["capacity", "internal"])
def test_what_is_the_platforms_own_fault_is_tried_again(site: Site, cause: str) -> None:
    faults = site.service.faults
    faults.capacity_error() if cause == "capacity" else faults.internal_failure()
    result = site.run(site.job())
    assert result.attempt == 2
    failed = site.platform.describe(site.job().name(1))
    assert failed.failure_kind is (
        FailureKind.CAPACITY if cause == "capacity" else FailureKind.INTERNAL
    )


def test_wrong_columns_fail_the_job_for_good(site: Site) -> None:
    job = site.job()
    with site.storage.write("wrong/part.parquet") as file:
        pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), file)
    with pytest.raises(
        AutoMLJobFailed, match="exactly two columns named input and output"
    ) as raised:
        site.run(replace(job, dataset_fingerprint="wrong", training="wrong", validation=None))
    assert raised.value.permanent
    assert raised.value.description.failure_kind is FailureKind.CONFIGURATION


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("word " * 2000, "b")] * 30, "30 of 30 rows exceed the context of 1024 tokens"),
        ([("a b", "b")] * 1200, "has 1200 rows, the limit is 1000"),
    ],
    ids=["too long", "too many"],
)
def test_what_was_not_checked_before_fails_the_job(
    site: Site, rows: Sequence[tuple[str, str]], says: str
) -> None:
    inputs, outputs = zip(*rows, strict=True)
    with site.storage.write("raw/part.parquet") as file:
        pq.write_table(pa.table({"input": inputs, "output": outputs}), file)
    job = replace(site.job(), dataset_fingerprint=says, training="raw", validation=None)
    with pytest.raises(AutoMLJobFailed, match=says):
        site.run(job)


def test_a_time_limit_ends_a_job_without_a_model(site: Site) -> None:
    job = site.job(limits=Limits(INSTANCES, timedelta(seconds=1)))
    site.service.automl.hold(job.name(1))
    with pytest.raises(AutoMLJobStopped, match=r"MaxAutoMLJobRuntimeReached.*compute\.max_runtime"):
        site.run(job)


def test_a_run_that_nobody_wants_stops_its_job(site: Site) -> None:
    job = site.job()
    site.service.automl.hold(job.name(1))

    def pause(seconds: float) -> None:
        if site.service.automl[job.name(1)].training_job is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.run(job, pause=pause, should_stop=lambda name: True)
    ended = site.service.automl.wait(job.name(1))
    assert ended.status == "Stopped"
    assert site.platform.describe(job.name(1)).status is JobStatus.STOPPED
    assert site.service.jobs[str(ended.training_job)].status == "Stopped"
    site.platform.stop(job.name(1))  # which has ended
    with pytest.raises(JobNotFound):
        site.platform.stop("never-was")
    site.service.automl.release(job.name(1))
    assert site.run(job).attempt == 2


def test_jobs_are_found_by_the_run_that_created_them(site: Site) -> None:
    job = site.job(tags={RUN_TAG: f"run of {site.model}"})
    site.run(job)
    [found] = site.platform.jobs_of_runs([f"run of {site.model}"])
    assert (found.name, found.model, found.partition) == (job.name(1), site.model, "2015-04-27")


def test_containers_are_read_wherever_they_are(site: Site, tmp_path: Path) -> None:
    site.service.automl.containers_in = "InferenceContainerDefinitions"
    try:
        result = site.run(site.job())
    finally:
        site.service.automl.containers_in = "InferenceContainers"
    candidate = Candidate.read(site.platform.fetch_artifact(result.name, tmp_path))
    assert candidate.containers[0].environment == {"SM_NUM_GPUS": "4"}


def test_a_model_that_was_deleted_is_missed(site: Site, tmp_path: Path) -> None:
    result = site.run(site.job())
    assert site.platform.has_artifact(result.name)
    site.service.jobs.remove_artifact(str(site.service.automl[result.name].training_job))
    assert not site.platform.has_artifact(result.name)
    with pytest.raises(ArtifactMissing, match="is gone"):
        site.platform.fetch_artifact(result.name, tmp_path)
    assert site.run(site.job()).attempt == 2


def test_what_can_not_run_is_refused_before_anything_is_created(site: Site) -> None:
    job = site.job()
    for wrong, error, says in (
        ({"base_model": "Llama2-7B"}, InvalidTrainingJob, "EULA"),
        ({"base_model": "not a name"}, InvalidTrainingJob, "letters, digits and hyphens"),
        ({"hyperparameters": {"learningRate": "0." + "1" * 20}}, InvalidTrainingJob, "up to 16"),
        ({"limits": Limits(INSTANCES, timedelta(hours=2), price_per_hour=9, max_cost=1)},
         CostAboveMaximum, "could cost 18"),
    ):  # fmt: skip
        with pytest.raises(error, match=says):
            site.platform.create(replace(job, **wrong), "any", {})
    with pytest.raises(InvalidTrainingJob):
        job.name(0)
    assert site.service.calls.count("CreateAutoMLJobV2") == 0


def test_what_the_service_refuses_is_said(site: Site) -> None:
    job = site.job(hyperparameters={"epochCount": "11"})
    with pytest.raises(JobRefused, match="Invalid value 11"):
        site.run(job)
    site.service.faults.forbid_passing(site.service.role_arn)
    with pytest.raises(RoleNotUsable, match="iam:PassRole"):
        site.run(site.job())


def test_a_gated_model_is_trained_once_its_terms_are_accepted(site: Site) -> None:
    result = site.run(site.job(base_model="Llama2-7B", accept_eula=True))
    [created] = site.service.calls.of("CreateAutoMLJobV2", AutoMLJobName=result.name)
    config = created.parameters["AutoMLProblemTypeConfig"]["TextGenerationJobConfig"]
    assert config["ModelAccessConfig"] == {"AcceptEula": True}
    assert config["BaseModelName"] == "Llama2-7B"


@pytest.mark.parametrize("model", ["m", "a_model_of_a_very_long_name_indeed_x", "triage"])
@pytest.mark.parametrize("attempt", [1, 100])
def test_names_fit(model: str, attempt: int) -> None:
    job = AutopilotJob(model, "2015-04-27", "abc", "training")
    name = job.name(attempt)
    assert len(name) <= 32
    assert not name.startswith("-")
    assert name != replace(job, model=model + "y").name(attempt)


class Hold:
    """Waits for a test."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.tags = {RUN_TAG: "a run that asks"}

    def check(self) -> None: ...

    def take(self, name: str) -> None:
        self.taken.append(name)

    def report(self, description: JobDescription) -> None: ...

    def log(self, line: LogLine) -> None: ...

    def pause(self, seconds: float) -> None:
        import time

        time.sleep(min(seconds, 0.1))

    def nobody_wants(self, name: str) -> bool:
        return False


def test_a_model_is_asked_and_answers_from_what_it_was_trained_on(
    site: Site, tmp_path: Path
) -> None:
    result = site.run(site.job())
    artifact = site.platform.fetch_artifact(result.name, tmp_path)
    transforms = SageMakerTransforms(site.aws, site.storage, site.service.role_arn, pacing=PACING)
    models = SageMakerModels(
        site.aws, site.storage, site.service.role_arn, site.platform.fetch_artifact
    )
    asking = AutopilotAnswers(transforms, models)
    options = AskingOptions(site.model, Limits("ml.g5.12xlarge"), 8)
    prompts = ["an engine had to be shut down", "aborted take-off", "an engine had to be shut down"]
    hold = Hold()
    ask = asking.on_behalf_of(hold, options).of(artifact)
    assert ask(prompts) == ["shutdown", "abort", "shutdown"]
    assert ask([]) == []
    assert ask(["", ""]) == ["", ""]
    assert ask(["", *prompts]) == ["", "shutdown", "abort", "shutdown"]
    assert ask(prompts) == ["shutdown", "abort", "shutdown"]
    assert site.service.calls.count("CreateTransformJob") == 1  # of the same prompts
    assert len(set(hold.taken)) == 1
    [found] = transforms.jobs_of_runs(["a run that asks"])
    assert (found.name, found.model, found.partition) == (hold.taken[0], site.model, "")
    site.storage.delete(f"transforms/{site.model}/answers")
    site.service.jobs.remove_artifact(str(site.service.automl[result.name].training_job))
    with pytest.raises(NotAnswered, match=r"gives no answers|can't be served"):
        ask(["another question"])


def test_a_model_in_a_folder_is_told_before_anything_is_created(site: Site, tmp_path: Path) -> None:
    image = InferenceContainer(image="any", model_data_url="s3://models/candidate/")
    Candidate(job="triage-1", name="c", base_model="Mistral7B", containers=(image,)).write(
        tmp_path / "candidate"
    )
    asking = AutopilotAnswers(
        SageMakerTransforms(site.aws, site.storage, site.service.role_arn, pacing=PACING),
        SageMakerModels(
            site.aws, site.storage, site.service.role_arn, site.platform.fetch_artifact
        ),
    )
    options = AskingOptions(site.model, Limits("ml.g5.12xlarge"), 8)
    ask = asking.on_behalf_of(Hold(), options).of(tmp_path / "candidate")
    with pytest.raises(
        NotAnswered, match=r"its model as a folder .*batch transform jobs read archives"
    ):
        ask(["a question"])
    assert not {"CreateModel", "CreateTransformJob"} & set(site.service.calls)


@pytest.mark.slow
def test_a_model_that_takes_too_long_to_answer_is_stopped(site: Site, tmp_path: Path) -> None:
    result = site.run(site.job())
    artifact = site.platform.fetch_artifact(result.name, tmp_path)
    transforms = SageMakerTransforms(site.aws, site.storage, site.service.role_arn, pacing=PACING)
    models = SageMakerModels(
        site.aws, site.storage, site.service.role_arn, site.platform.fetch_artifact
    )
    limits = Limits(
        "ml.g5.12xlarge",
        max_runtime=timedelta(seconds=1),
        price_per_hour=3600.0,
        max_cost=1.5,
        settings="autopilot.inference",
    )
    hold = Hold()
    asking = AutopilotAnswers(transforms, models)

    def ask(limits: Limits) -> Sequence[str]:
        options = AskingOptions(site.model, limits, 8)
        return asking.on_behalf_of(hold, options).of(artifact)(["a question"])

    with pytest.raises(CostAboveMaximum, match=r"autopilot\.inference\.max_cost is 0\.50"):
        ask(replace(limits, max_cost=0.5))
    assert not site.service.calls.count("CreateTransformJob")
    site.service.settings.downloading_seconds = 60
    with pytest.raises(TransformJobOverdue, match=r"Raise autopilot\.inference\.max_runtime"):
        ask(limits)
    assert site.service.transforms[hold.taken[-1]].status == "Stopped"


def test_a_service_that_is_away_is_no_answer(site: Site) -> None:
    site.service.faults.throttle("DescribeAutoMLJobV2", None)
    with pytest.raises(PlatformUnavailable):
        site.platform.describe("any")
    site.service.faults.clear()
    with pytest.raises(JobNotFound):
        site.platform.describe("any")
