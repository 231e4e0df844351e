"""Scoring a period by a batch transform job: the same predictions, once, whatever comes between."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from serving.transform_site import OPTIONS, TransformSite, transform_site
from sf_sagemaker.serving.batch import NoHold, TransformOptions
from sf_sagemaker.serving.batch_files import PredictionsIncomplete, UnsendableValue
from sf_sagemaker.serving.sagemaker_transform import (
    TransformJobFailed,
    TransformJobOverdue,
    TransformJobStopped,
)
from sf_sagemaker.training.cost import CostAboveMaximum
from sf_sagemaker.training.job import RUN_TAG, Limits
from sf_sagemaker.training.platform import JobRefused, TaggedJob
from standins.sagemaker.quotas import TRANSFORM
from standins.sagemaker.service import SageMakerService

pytestmark = pytest.mark.slow

_numbers = iter(range(1000))


@pytest.fixture
def site(
    service: SageMakerService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TransformSite]:
    with transform_site(service, tmp_path, monkeypatch, str(next(_numbers))) as made:
        yield made


class Killed(Exception):
    """Stands for the end of a process at the point where it is raised."""


def jobs(site: TransformSite) -> list[str]:
    """The transform jobs of the site, in the order of their creation."""
    root = site.storage.uri("transforms")
    return [
        job.name
        for job in site.service.transforms.all()
        if job.request["TransformOutput"]["S3OutputPath"].startswith(root)
    ]


def test_the_same_predictions_as_in_this_process(site: TransformSite) -> None:
    site.here()
    expected = site.table()
    scored = site.transform()
    found = site.table()
    assert scored.rows == scored.previous_rows == len(found) == 300
    columns = [name for name, *_ in site.sql("describe predictions.houses")]
    assert columns == [
        "period", "sale_id", "lot", "sold_on", "prediction", "model_version", "training_job",
        "predicted_at",
    ]  # fmt: skip
    place = columns.index("prediction")
    assert [row[:place] + row[place + 1 :] for row in found] == [
        row[:place] + row[place + 1 :] for row in expected
    ]
    assert [row[place] for row in found] == pytest.approx(
        [row[place] for row in expected], rel=1e-6
    )
    assert len({row[place] for row in found}) > 100


@pytest.mark.parametrize("classes", [("cheap", "dear"), ("cheap", "fair", "dear")])
def test_the_same_classes_and_probabilities(site: TransformSite, classes: tuple[str, ...]) -> None:
    levels = site.of_classes(classes)
    levels.here()
    expected = levels.table("sale_id, prediction, probability")
    levels.transform()
    found = levels.table("sale_id, prediction, probability")
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], rel=1e-6)
    assert {row[1] for row in found} == set(classes)


def test_the_job_that_was_asked_for(site: TransformSite) -> None:
    scored = site.transform(replace(OPTIONS, instance_count=2, max_concurrent=3))
    assert scored.job is not None
    (name,) = jobs(site)
    request = site.service.transforms[name].request
    assert scored.job.name == name
    assert name.startswith("houses-2024-01-08-")
    assert request["DataProcessing"] == {
        "InputFilter": "$.features",
        "JoinSource": "Input",
        "OutputFilter": "$['row','SageMakerOutput']",
    }
    assert request["TransformResources"] == {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2}
    assert request["MaxConcurrentTransforms"] == 3
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert tags == {
        "sf_sagemaker:project": f"s3://{site.storage.bucket}/serving/tests",
        "sf_sagemaker:model": "houses",
        "sf_sagemaker:partition": "2024-01-08",
        "sf_sagemaker:max_runtime": "3600",
    }
    its = scored.job.description
    assert its.billable_seconds is not None
    assert scored.predicted_at == its.ended_at
    assert (its.page or "").endswith(f"#/transform-jobs/{name}")
    assert "TransformJobs" in (its.log or "")
    # Keys stay here: the model gets features only.
    sent = [key for key in site.storage.list("transforms") if key.endswith(".jsonl")]
    assert len(sent) == 5  # of 70 rows each
    line = json.loads(site.storage.read(sent[0]).split(b"\n")[0])
    assert set(line) == {"row", "features"}
    assert set(line["features"]) == {"rooms", "distance", "area"}


def test_a_small_period_is_scored_in_this_process(site: TransformSite) -> None:
    scored = site.transform(replace(OPTIONS, min_rows=301))
    assert scored.job is None
    assert scored.rows == 300
    assert jobs(site) == []


def test_scoring_again_takes_the_output_that_is_there(site: TransformSite) -> None:
    first = site.transform()
    before = site.table("*")
    site.service.calls.clear()
    again = site.transform()
    assert site.table("*") == before
    assert again.job is not None
    assert first.job is not None
    assert (again.job.name, again.job.adopted) == (first.job.name, True)
    assert again.predicted_at == first.predicted_at
    made = [call.operation for call in site.service.calls if call.operation.startswith("Put")]
    assert made == []  # neither rows nor a model moved
    assert len(jobs(site)) == 1


def test_other_rows_or_another_model_are_another_job(site: TransformSite) -> None:
    site.transform()
    site.sql("update analytics.houses set rooms = 6 where sale_id = 1")
    site.transform()
    site.artifacts.add("houses-job-2", level=0.5)
    site.crown("houses-job-2", version=2)
    site.transform()
    assert len(set(jobs(site))) == 3
    assert {row[0] for row in site.table("training_job")} == {"houses-job-2"}


def test_output_that_is_gone_is_computed_again(site: TransformSite) -> None:
    first = site.transform()
    assert first.job is not None
    output = [key for key in site.storage.list("transforms") if key.endswith(".out")]
    site.storage.delete(output[0])
    again = site.transform()
    assert again.job is not None
    assert again.job.attempt == 2
    assert len(jobs(site)) == 2


def test_rows_that_were_exported_again_have_a_job_of_their_own(site: TransformSite) -> None:
    """Its output has the numbers of rows, which are others where their order is another."""
    site.transform()
    keys = [key for key in site.storage.list("transforms") if key.endswith(".parquet")]
    site.storage.delete(keys[0])
    site.sql("create or replace table analytics.houses as from analytics.houses order by lot desc")
    again = site.transform()
    found = site.table("sale_id, prediction")
    site.here()
    assert [row[1] for row in found] == pytest.approx(
        [row[1] for row in site.table("sale_id, prediction")], rel=1e-6
    )
    assert again.job is not None
    assert not again.job.adopted


def test_calls_that_are_throttled_are_tried_again(site: TransformSite) -> None:
    for operation in (
        "CreateModel",
        "CreateTransformJob",
        "DescribeTransformJob",
        "PutObject",
        "GetObject",
    ):
        site.service.faults.throttle(operation, 2)
    assert site.transform().rows == 300
    assert site.service.faults.left() == []
    assert len(jobs(site)) == 1


def test_a_lost_answer_to_the_creation_leaves_one_job(site: TransformSite) -> None:
    site.service.faults.lose_answer("CreateTransformJob")
    scored = site.transform()
    assert scored.job is not None
    assert not scored.job.adopted
    assert len(jobs(site)) == 1


def test_a_job_that_cannot_be_seen_at_once(site: TransformSite) -> None:
    site.service.settings.hidden_seconds = 0.5
    assert site.transform().rows == 300
    assert len(jobs(site)) == 1


def test_without_capacity_another_attempt_follows(site: TransformSite) -> None:
    site.service.faults.capacity_error()
    scored = site.transform()
    assert scored.job is not None
    assert scored.job.attempt == 2
    assert scored.rows == 300


def test_capacity_that_never_comes_is_an_error(site: TransformSite) -> None:
    site.service.faults.capacity_error(times=4)
    with pytest.raises(
        TransformJobFailed, match=r"CapacityError.*instance_type of predictions\.transform"
    ):
        site.transform()
    assert len(jobs(site)) == 4


def test_a_quota_that_is_too_small(site: TransformSite) -> None:
    site.service.quotas.set("ml.m5.xlarge", 0, TRANSFORM)
    with pytest.raises(JobRefused, match="transform job usage"):
        site.transform()


def test_a_model_that_fails_leaves_the_table_as_it_was(site: TransformSite) -> None:
    site.here()
    before = site.table("*")
    # Whatever the model says of a row, the container of this archive refuses it.
    site.artifacts.change_card("houses-job-1", golden_rows=[])
    site.sql("update analytics.houses set price = 1")
    card = json.loads((site.artifacts.root / "houses-job-1" / "model-card.json").read_text())
    card["features"] = [one for one in card["features"] if one["name"] != "rooms"]
    site.artifacts.change_card("houses-job-1", features=card["features"])
    with pytest.raises(TransformJobFailed) as failed:
        site.transform()
    message = str(failed.value)
    assert "ClientError: See job logs for more information" in message
    assert "'rooms', which the model doesn't know" in message
    assert "log-groups" in message
    assert site.table("*") == before


def test_infinite_values_are_refused_before_anything_is_created(site: TransformSite) -> None:
    site.sql("update analytics.houses set distance = 'infinity' where sale_id = 7")
    with pytest.raises(UnsendableValue, match="column 'distance' has infinite values"):
        site.transform()
    assert jobs(site) == []
    assert list(site.storage.list("transforms")) == []


Change = Callable[[list[bytes]], list[bytes]]

# What may be wrong with a part of 70 rows, and what is said of it.
BROKEN: list[tuple[Change, str]] = [
    (lambda lines: lines[:-1], "has no prediction of 1 of 70 rows, 69 first"),
    (lambda lines: [*lines, lines[0]], "has two predictions of row 0"),
    (lambda lines: [*lines[:-1], b"{}"], "a line that is no row with its prediction"),
    (
        lambda lines: [lines[0].replace(b'"row":0', b'"row":70'), *lines[1:]],
        "a prediction of row 70: expected 0 to 69",
    ),
    (
        lambda lines: [b'{"row":0,"SageMakerOutput":{"prediction":null}}', *lines[1:]],
        "predicts None for row 0",
    ),
    (
        lambda lines: [b'{"row":0,"SageMakerOutput":{"prediction":"dear"}}', *lines[1:]],
        "predicts texts and numbers",
    ),
]


def test_output_without_one_prediction_for_each_row_leaves_the_table(site: TransformSite) -> None:
    site.transform()
    before = site.table("*")
    key = next(key for key in site.storage.list("transforms") if key.endswith("00000.jsonl.out"))
    whole = site.storage.read(key)
    lines = whole.removesuffix(b"\n").split(b"\n")
    for change, said in BROKEN:
        site.storage.delete(key)
        site.storage.create(key, b"\n".join(change(lines)))
        with pytest.raises(PredictionsIncomplete, match=said):
            site.transform()
        assert site.table("*") == before
    # In whatever order: a prediction names its row.
    site.storage.delete(key)
    site.storage.create(key, b"\n".join(reversed(lines)))
    site.transform()
    assert site.table("*") == before
    assert len(jobs(site)) == 1


class StopsAt(NoHold):
    """A run whose process ends while it waits; `wanted` says whether it was cancelled."""

    def __init__(self, *, cancelled: bool = False, at_once: bool = False) -> None:
        self.cancelled = cancelled
        self.at_once = at_once
        self.taken: list[str] = []

    def take(self, name: str) -> None:
        self.taken.append(name)
        if self.at_once:
            raise Killed

    def pause(self, seconds: float) -> None:
        raise Killed

    def nobody_wants(self, name: str) -> bool:
        return self.cancelled


def test_a_kill_while_the_job_runs_leaves_it_for_the_next_run(site: TransformSite) -> None:
    with pytest.raises(Killed):
        site.transform(hold=StopsAt())
    scored = site.transform()
    assert scored.job is not None
    assert scored.job.adopted
    assert len(jobs(site)) == 1
    assert len(site.table()) == 300


@pytest.mark.parametrize(
    "stage",
    [
        "sf_sagemaker.serving.sagemaker_transform.export_rows",
        "sf_sagemaker.s3.S3Storage.create",  # of what makes the files an export
        "sf_sagemaker.serving.sagemaker_model.SageMakerModels.ensure_model",
        "sf_sagemaker.serving.sagemaker_transform.SageMakerTransforms.create",
        "sf_sagemaker.serving.sagemaker_transform.read_output",
        "sf_sagemaker.serving.predictions.land_period",
    ],
)
def test_a_kill_at_any_stage_leaves_one_job_and_one_table(
    site: TransformSite, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stage, dies)
        with pytest.raises(Killed):
            site.transform()
    scored = site.transform()
    assert scored.rows == 300
    assert len(jobs(site)) == 1
    exports = {key.split("/")[4] for key in site.storage.list("transforms") if "/rows/" in key}
    assert len(exports) == 1
    assert len(site.table()) == 300
    site.here()
    assert [row[0] for row in site.table("sale_id")] == list(range(300))


def test_a_cancelled_run_stops_the_job_and_the_next_one_makes_another(site: TransformSite) -> None:
    site.service.settings.starting_seconds = 30
    hold = StopsAt(cancelled=True)
    with pytest.raises(Killed):
        site.transform(hold=hold)
    (name,) = hold.taken
    assert site.service.transforms.wait(name).status == "Stopped"
    site.service.settings.starting_seconds = 0
    scored = site.transform()
    assert scored.job is not None
    assert (scored.job.attempt, scored.rows) == (2, 300)


def test_a_job_that_a_person_stops(site: TransformSite) -> None:
    site.service.settings.starting_seconds = 30

    class Stops(NoHold):
        def take(self, name: str) -> None:
            threading.Timer(
                0.5,
                lambda: site.service.client("sagemaker").stop_transform_job(TransformJobName=name),
            ).start()

    with pytest.raises(TransformJobStopped, match="was stopped before it completed"):
        site.transform(hold=Stops())
    assert site.sql("select count(*) from information_schema.tables "
                    "where table_schema = 'predictions'") == [(0,)]  # fmt: skip


def test_the_price_says_what_a_job_cost(site: TransformSite) -> None:
    from sf_sagemaker.training.cost import actual_cost

    scored = site.transform()
    assert scored.job is not None
    its = scored.job.description
    assert its.billable_seconds is not None
    assert actual_cost(its, OPTIONS.limits) == pytest.approx(its.billable_seconds * 36 / 3600)
    assert actual_cost(its, Limits()) is None


def bounded(seconds: float, max_cost: float | None = None) -> TransformOptions:
    """Options for jobs that may run so long, at 1.00 a second and instance."""
    return replace(
        OPTIONS,
        limits=Limits(
            max_runtime=timedelta(seconds=seconds),
            price_per_hour=3600.0,
            settings="predictions.transform",
            max_cost=max_cost,
        ),
    )


def test_a_job_that_runs_for_too_long_is_stopped(site: TransformSite) -> None:
    site.service.settings.downloading_seconds = 60
    with pytest.raises(
        TransformJobOverdue,
        match=r"longer than predictions\.transform\.max_runtime, 0:00:01, and was",
    ) as raised:
        site.transform(bounded(1))
    assert raised.value.permanent
    (name,) = jobs(site)
    assert site.service.transforms[name].status == "Stopped"
    assert site.service.calls.count("StopTransformJob") == 1
    assert site.sql("select count(*) from information_schema.tables "
                    "where table_schema = 'predictions'") == [(0,)]  # fmt: skip
    site.service.settings.downloading_seconds = 0
    scored = site.transform(bounded(600))
    assert scored.job is not None
    assert (scored.job.attempt, scored.rows) == (2, 300)


def test_a_job_that_was_left_behind_is_stopped_by_the_next_run(site: TransformSite) -> None:
    """The time of a job is its own, whoever waits for it."""
    site.service.settings.downloading_seconds = 60
    with pytest.raises(Killed):
        site.transform(bounded(600), hold=StopsAt())
    with pytest.raises(TransformJobOverdue):
        site.transform(bounded(1))
    assert len(jobs(site)) == 1


def test_time_without_instances_does_not_count(site: TransformSite) -> None:
    site.service.settings.starting_seconds = 60

    class Waits(NoHold):
        """Cancels the run after some answers."""

        pauses = 0

        def pause(self, seconds: float) -> None:
            self.pauses += 1
            if self.pauses == 3:
                raise Killed

    with pytest.raises(Killed):
        site.transform(bounded(0), hold=Waits())
    assert site.service.calls.count("StopTransformJob") == 0


def test_a_job_that_could_cost_too_much_is_not_created(site: TransformSite) -> None:
    with pytest.raises(
        CostAboveMaximum,
        match=r"1 job of 2 x .* could cost 240\.00, and predictions\.transform\.max_cost is 200\.00",
    ):
        site.transform(replace(bounded(120, max_cost=200), instance_count=2))
    assert jobs(site) == []


def test_attempts_that_failed_count_towards_the_maximum(site: TransformSite) -> None:
    site.service.faults.internal_failure(after_seconds=2)
    with pytest.raises(CostAboveMaximum, match=r"after the \d+\.\d+ of attempts that failed"):
        site.transform(bounded(120, max_cost=121))
    assert len(jobs(site)) == 1


def test_jobs_are_found_by_the_run_that_created_them(site: TransformSite) -> None:
    hold = NoHold()
    hold.tags = {RUN_TAG: "run-of-a-test"}
    site.transform(bounded(90), hold=hold)
    (name,) = jobs(site)
    assert site.transforms.jobs_of_runs(["run-of-a-test", "another"]) == [
        TaggedJob(name, "houses", "2024-01-08", "run-of-a-test", timedelta(seconds=90))
    ]
    assert site.transforms.jobs_of_runs(["another"]) == []
