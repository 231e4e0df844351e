"""A model with `method: autopilot`, from rows in Snowflake to its champion, on SageMaker's stand-in."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from locations import (
    Location,
    Project,
    failure_of,
    metadata_of,
    own_deployment,
    temporary_project,
)
from production import Production, production
from sf_sagemaker import deployment
from sf_sagemaker.aws import Aws
from sf_sagemaker.components.orphaned_jobs import orphaned_jobs_sensor
from sf_sagemaker.lifecycle.champions import read_champions
from sf_sagemaker.lifecycle.evaluation import read_evaluations
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.autopilot_answers import AutopilotAnswers
from sf_sagemaker.serving.sagemaker_model import SageMakerModels
from sf_sagemaker.serving.sagemaker_transform import SageMakerTransforms
from sf_sagemaker.training.autopilot import INSTANCES, AutopilotPlatform
from sf_sagemaker.training.autopilot_job import AutopilotJob
from sf_sagemaker.training.holding import RunHold, job_tag
from sf_sagemaker.training.job import RUN_TAG, Limits
from sf_sagemaker.training.platform import Pacing

DATASET = "triage/sampled_training_dataset"
MODEL = "triage/fine_tuned_llm"
EVALUATION = "triage/evaluation"
CHAMPION = "triage/champion"
MONTHS = [f"1990-0{month}-01" for month in range(1, 6)]
PACING = Pacing(poll=0.1, longest_poll=0.3, settle=0.3, retry=0.1)

TRIAGE = """\
type: sf_sagemaker.components.FineTunedLLM
attributes:
  name: triage
  source: {table: safety.triage}
  row_key: [report_id]
  event_time: reported_on
  partitions: {every: month, start: "1990-01-01", end: "1990-06-01"}
  sample: {window: 2 months, seed: 7, splits: {train: 0.6, validation: 0.2, test: 0.2}}
  method: autopilot
  autopilot: {base_model: Mistral7BInstruct, accept_eula: false, epochs: 3}
  compute: {max_runtime: 10 minutes, price_per_hour: 36, max_cost: 30, tags: {team: safety}}
  evaluation: {max_age: 3 months}
  decay: {rolling: 1 month, min_rows: 20, max_bias: 0.5}
  promotion: {min_rows: 20}
"""
OUTCOMES = {
    "shutdown": "the left engine was shut down after a bird went in",
    "abort": "the crew rejected the take-off before reaching decision speed",
    "other": "remains were found on the runway and nothing was damaged",
}
PER_MONTH = 60


def rows() -> list[str]:
    kinds = list(OUTCOMES)
    return [
        f"({number}, '1990-0{1 + number // PER_MONTH}-{1 + number % 28:02}', "
        f"'Report {number}: {OUTCOMES[kind]}. Effect:', '{kind}')"
        for number in range(5 * PER_MONTH)
        for kind in [kinds[(number * 7 + number // 11) % 3]]
    ]


@dataclass
class Site(Location):
    """The location, with the services behind it and how long its steps wait."""

    production: Production
    resources: dict[str, Any]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("autopilot") / "home"
    with temporary_project() as project, production(home) as there:
        there.snowflake.sql(
            "create schema if not exists SAFETY",
            "create table SAFETY.TRIAGE "
            "(report_id integer, reported_on date, prompt varchar, completion varchar)",
            f"insert into SAFETY.TRIAGE values {', '.join(rows())}",
        )
        project.add(
            "triage", TRIAGE.replace("epochs: 3", "epochs: 3, inference: {price_per_hour: 36}")
        )
        resources = paced(dict(deployment.resources()), there.aws.role_arn)
        definitions = dg.Definitions.merge(
            project.stack.enter_context(project.sandbox.build_all_defs()),
            dg.Definitions(resources=resources, executor=dg.in_process_executor),
        )
        yield Site(definitions, there.instance, home, there, resources)


def paced(resources: dict[str, Any], role_arn: str) -> dict[str, Any]:
    """The deployment's own, asking more often than it would AWS."""
    aws, storage = Aws(), cast(S3Storage, resources["storage"])
    platform = AutopilotPlatform(aws, storage, role_arn, pacing=PACING)
    answers = AutopilotAnswers(
        SageMakerTransforms(aws, storage, role_arn, pacing=PACING),
        SageMakerModels(aws, storage, role_arn, platform.fetch_artifact),
    )
    assert type(resources["autopilot_platform"]) is AutopilotPlatform
    assert type(resources["autopilot_answers"]) is AutopilotAnswers
    return {**resources, "autopilot_platform": platform, "autopilot_answers": answers}


@dataclass
class Life:
    """The runs of a model's life, in order."""

    first: dg.ExecuteInProcessResult
    second: dg.ExecuteInProcessResult
    evaluation: dg.ExecuteInProcessResult
    champions: list[dg.ExecuteInProcessResult]


@pytest.fixture(scope="module")
def life(site: Site) -> Life:
    def run(keys: list[str], month: str | None = None) -> dg.ExecuteInProcessResult:
        result = site.materialize(keys, month)
        assert result.success, failure_of(result)
        return result

    first = run([DATASET, MODEL], MONTHS[1])
    champion = run([CHAMPION])
    second = run([DATASET, MODEL], MONTHS[2])
    evaluation = run([EVALUATION], MONTHS[3])
    return Life(first, second, evaluation, [champion, run([CHAMPION])])


@pytest.mark.slow
def test_a_model_is_trained_and_asked(site: Site, life: Life) -> None:
    metadata = metadata_of(life.first, MODEL)
    job = metadata["training_job"]
    assert job.startswith("triage-1990-02-01-"[:8])
    assert len(job) <= 32
    assert metadata["fine_tuned_exact_match"] > 0.9 > metadata["commonest_answer_exact_match"]
    assert metadata["test_rows"] == metadata_of(life.first, DATASET)["rows_test"]
    samples = [record.data for record in metadata["samples"].records]
    assert {sample["answer"] for sample in samples} <= set(OUTCOMES)
    checks = {check.check_name: check for check in life.first.get_asset_check_evaluations()}
    assert checks["beats_baseline"].passed
    assert "perplexity" in metadata["not_evaluated"]
    created = site.production.aws.automl[job].request
    assert {tag["Key"]: tag["Value"] for tag in created["Tags"]} == {
        "team": "safety",
        "sf_sagemaker:project": "s3://models-of-the-team/sf_sagemaker",
        "sf_sagemaker:model": "triage",
        "sf_sagemaker:partition": MONTHS[1],
        RUN_TAG: life.first.run_id,
    }


@pytest.mark.slow
def test_what_autopilot_says_of_its_candidate_is_shown(site: Site, life: Life) -> None:
    metadata = metadata_of(life.first, MODEL)
    candidate = site.production.aws.automl[metadata["training_job"]].candidate
    assert candidate is not None
    said = {
        metric["StandardMetricName"]: metric["Value"]
        for metric in candidate["CandidateProperties"]["CandidateMetrics"]
    }
    assert metadata["candidate_validation_validation_loss"] == said["ValidationLoss"]
    assert metadata["candidate_train_training_loss"] == said["TrainingLoss"]
    assert metadata["candidate_validation_perplexity"] == said["Perplexity"]
    assert metadata["candidate_validation_rouge1"] == said["Rouge1"]
    assert len(metadata["candidate_metrics"].records) == 4
    [step] = [record.data for record in metadata["candidate_steps"].records]
    assert step["type"] == "AWS::SageMaker::TrainingJob"
    [container] = [record.data for record in metadata["inference_containers"].records]
    assert container["model_data"] == metadata["artifact"]
    assert metadata["base_model"] == "Mistral7BInstruct"
    assert step["name"] in metadata["log"]
    assert metadata["cost"] == pytest.approx(metadata["billable_seconds"] / 100)


@pytest.mark.slow
def test_what_answers_cost_is_shown(site: Site, life: Life) -> None:
    """At 36 an hour: of the report's one job, and of a job for each model that is evaluated."""
    for metadata, asked in (
        (metadata_of(life.first, MODEL), 1),
        (metadata_of(life.evaluation, EVALUATION), 2),
    ):
        names = metadata["answers_transform_jobs"].split(", ")
        assert len(names) == asked
        jobs = [site.production.aws.transforms[name] for name in names]
        seconds = sum(
            (job.ended - job.started).total_seconds() for job in jobs if job.started and job.ended
        )
        assert seconds > 0
        assert metadata["answers_cost"] == pytest.approx(seconds / 100, rel=0.01)
        assert RUN_TAG in jobs[0].tags


@pytest.mark.slow
def test_progress_and_notices_reach_the_run(site: Site, life: Life) -> None:
    messages = [entry.user_message for entry in site.instance.all_logs(life.first.run_id)]
    assert any("fewer than the 1,000 that Autopilot's documentation" in text for text in messages)
    assert any("InProgress (TrainingModels)" in text for text in messages)
    assert not [text for text in messages if "[pipes]" in text]


@pytest.mark.slow
def test_later_rows_judge_it_and_the_champion_is_compared(site: Site, life: Life) -> None:
    storage = site.resources["storage"]
    [evaluated] = read_evaluations(storage, "triage")
    assert evaluated.metric == "exact_match"
    assert evaluated.rows == PER_MONTH
    assert evaluated.left_out == ()
    by_age = {scores.age: scores for scores in evaluated.scores}
    assert set(by_age) == {1, 2, None}  # None is the reference
    assert by_age[1].error.estimate < 0.1
    assert by_age[1].not_finite == 0
    assert abs(by_age[1].bias.estimate) < 0.1
    log = read_champions(storage, "triage")
    assert log[0].partition == MONTHS[1]
    assert metadata_of(life.champions[0], CHAMPION)
    checks = {c.check_name: c for c in life.champions[1].get_asset_check_evaluations()}
    assert checks["comparison"].passed
    assert checks["decay"].passed
    assert log[-1].partition in MONTHS[1:3]
    assert log[-1].figures.get("metric", "exact_match") == "exact_match"
    curve = site.materialize(["triage/decay_curve"])
    assert curve.success, failure_of(curve)


@pytest.mark.slow
def test_the_same_again_pays_for_nothing(site: Site, life: Life) -> None:
    calls = site.production.aws.calls
    before = [calls.count(name) for name in ("CreateAutoMLJobV2", "CreateTransformJob")]
    again = site.materialize([DATASET, MODEL], MONTHS[1])
    assert again.success, failure_of(again)
    metadata, first = metadata_of(again, MODEL), metadata_of(life.first, MODEL)
    assert metadata["adopted"] is True
    for name in ("training_job", "scores", "trained_at"):
        assert metadata[name] == first[name]
    assert [calls.count(name) for name in ("CreateAutoMLJobV2", "CreateTransformJob")] == before


@pytest.mark.slow
@pytest.mark.parametrize("cancelled", [False, True], ids=["killed", "cancelled"])
def test_only_a_cancelled_run_stops_its_job(
    site: Site, life: Life, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = site.production
    month = MONTHS[4 if cancelled else 3]
    assert site.materialize([DATASET], month).success
    known = {job.name for job in there.aws.automl.all()}

    def pause(hold: RunHold, seconds: float) -> None:
        """Waits, and is interrupted once the job trains."""
        time.sleep(0.05)
        [job] = [job for job in there.aws.automl.all() if job.name not in known] or [None]
        if job is None or job.training_job is None:
            return
        if cancelled:
            [run] = there.instance.get_runs(dg.RunsFilter(tags=job_tag(job.name)))
            there.instance.report_run_canceling(run)
        raise dg.DagsterExecutionInterruptedError

    monkeypatch.setattr(RunHold, "pause", pause)
    assert not site.materialize([MODEL], month).success
    monkeypatch.undo()
    [job] = [job for job in there.aws.automl.all() if job.name not in known]
    if cancelled:
        assert there.aws.automl.wait(job.name).status == "Stopped"
        assert job.name.endswith("-1")
        return
    after = site.materialize([MODEL], month)
    assert after.success, failure_of(after)
    metadata = metadata_of(after, MODEL)
    assert (metadata["training_job"], metadata["adopted"]) == (job.name, True)


@pytest.mark.slow
def test_a_failure_of_the_data_is_said_before_a_job_is_created(site: Site, life: Life) -> None:
    there = site.production
    there.snowflake.sql("update SAFETY.TRIAGE set prompt = repeat('x', 13000)")
    created = there.aws.calls.count("CreateAutoMLJobV2")
    result = site.materialize([DATASET, MODEL], MONTHS[4])
    assert not result.success
    assert "of the rows have an input or output longer than" in failure_of(result)
    assert there.aws.calls.count("CreateAutoMLJobV2") == created
    run = there.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "false"


@pytest.mark.slow
def test_the_orphan_sensor_stops_jobs_that_nobody_wants(site: Site, life: Life) -> None:
    there = site.production
    instance, platform = there.instance, site.resources["autopilot_platform"]
    training = metadata_of(life.first, MODEL)["training_job"]
    finished = there.aws.automl[training].request["AutoMLJobInputDataConfig"]
    key = finished[0]["DataSource"]["S3DataSource"]["S3Uri"]
    root = site.resources["storage"].uri("autopilot-data").removesuffix("autopilot-data")
    job = AutopilotJob(
        "triage", MONTHS[4], "orphan", key.removeprefix(root).rstrip("/"),
        limits=Limits(INSTANCES), tags={},
    )  # fmt: skip
    name = job.name(1)

    @dg.job
    def any_job() -> None: ...

    run = instance.create_run_for_job(
        any_job, status=dg.DagsterRunStatus.CANCELED, tags=job_tag(name)
    )
    there.aws.automl.hold(name)
    tagged = AutopilotJob(**{**vars(job), "tags": {RUN_TAG: run.run_id}})
    platform.create(tagged, name, {})
    platforms = ("training_platform", "autopilot_platform", "transform_platform")
    context = dg.build_sensor_context(
        instance=instance, resources={"storage": site.resources["storage"]}
        | {platform: site.resources[platform] for platform in platforms},
    )  # fmt: skip
    said = orphaned_jobs_sensor()(context)
    assert isinstance(said, dg.SkipReason)
    assert f"Stopped {name}: its run was cancelled" in (said.skip_message or "")
    assert there.aws.automl.wait(name).status == "Stopped"
    # What trains within it carries its tags, and is its own to stop.
    assert [call.parameters for call in there.aws.calls.of("StopTrainingJob")] == []


def test_locally_it_is_an_error_when_it_is_built(tmp_path: Path) -> None:
    import duckdb

    with temporary_project() as project, own_deployment(tmp_path / "home") as instance:
        project.add("triage", TRIAGE)
        location = Location(project.definitions(), instance, tmp_path / "home")
        with duckdb.connect(str(tmp_path / "home" / "warehouse.duckdb")) as connection:
            connection.execute("create schema safety")
            connection.execute(
                "create table safety.triage (report_id integer, reported_on date, "
                "prompt varchar, completion varchar)"
            )
            connection.execute(f"insert into safety.triage values {', '.join(rows())}")
        built = location.materialize([DATASET, MODEL], MONTHS[1])
    assert not built.success
    assert "method: autopilot is SageMaker's, and SF_SAGEMAKER_DEPLOYMENT is local" in (
        failure_of(built)
    )


@pytest.mark.parametrize(
    ("right", "wrong", "located", "says"),
    [
        ("accept_eula: false, ", "", "autopilot", "accept_eula must be written"),
        ("Mistral7BInstruct", "Llama2-7B", "autopilot", "terms of use"),
        ("epochs: 3", "epochs: 11", "autopilot.epochs", "at least 1 and at most 10"),
        ("epochs: 3", "batch_size: 0", "autopilot.batch_size", "at least 1 and at most 64"),
        ("epochs: 3", "learning_rate: 0", "autopilot.learning_rate", "greater than 0"),
        ("epochs: 3", "warmup_steps: 251", "autopilot.warmup_steps", "at most 250"),
        ("epochs: 3", "epoch: 3", "autopilot.epoch", "did you mean 'epochs'"),
        ("epochs: 3", "max_runtime_per_candidate: 1 hour", "autopilot.max_runtime_per_candidate",
         "more than the whole job may take"),
        ("epochs: 3", "inference: {instance_type: g5}", "autopilot.inference.instance_type",
         "not a SageMaker instance type"),
        ("epochs: 3", "inference: {instance_type: ml.m5.xlarge}", "autopilot.inference.instance_type",
         "has no GPU"),
        ("max_cost: 30,", "max_cost: 30, instance_type: ml.g5.xlarge,", "compute.instance_type",
         "Autopilot chooses instances"),
        ("max_cost: 30,", "max_cost: 30, spot: true,", "compute.spot", "method: training_job"),
        ("method: autopilot", "method: autopilot\\n  base_model: package:x", "base_model",
         "write autopilot.base_model"),
        ("method: autopilot", "method: autopilot\\n  hyperparameters: {lora_rank: 8}",
         "hyperparameters", "write autopilot.epochs"),
        ("method: autopilot", "method: autopilot\\n  endpoint: {}", "endpoint", "batch transform"),
        ("max_age: 3 months", "metric: completion_loss", "evaluation.metric", "write exact_match"),
        ("method: autopilot", "method: training_job\\n  base_model: package:x", "autopilot",
         "belongs to method: autopilot"),
        ("method: autopilot", "method: automl", "method", "'training_job' or 'autopilot'"),
        ("epochs: 3", "inference: {max_runtime: 2 hours, price_per_hour: 7, max_cost: 10}",
         "autopilot.inference", "could cost 14.00, and autopilot.inference.max_cost is 10.00"),
        ("  autopilot: {base_model: Mistral7BInstruct, accept_eula: false, epochs: 3}\\n", "",
         "method", "needs the attribute autopilot"),
    ],
)  # fmt: skip
def test_a_mistake_is_located_and_explained(
    project: Project, right: str, wrong: str, located: str, says: str
) -> None:
    right, wrong = (text.replace("\\n", "\n") for text in (right, wrong))
    assert right in TRIAGE
    file = project.add("triage", TRIAGE.replace(right, wrong))
    message = project.mistake()
    assert str(file) in message, message
    assert f"attributes.{located}" in message, message
    assert says in message, message


def test_unknown_and_gated_base_models(project: Project) -> None:
    for name, accepted in (("Llama2-7B", "true"), ("Something-Newer-8B", "false")):
        text = TRIAGE.replace(
            "Mistral7BInstruct, accept_eula: false", f"{name}, accept_eula: {accepted}"
        )
        project.add("triage", text)
        assert project.definitions()
