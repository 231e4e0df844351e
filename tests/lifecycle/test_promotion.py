"""Champions over a small project: real datasets, training jobs and evaluations in storage."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sf_sagemaker.containers import program_files
from sf_sagemaker.lifecycle.champions import (
    Champion,
    IncompatibleChallenger,
    ModelMissing,
    OlderChallenger,
    read_champions,
    roll_back,
)
from sf_sagemaker.lifecycle.decay import DecayLimits
from sf_sagemaker.lifecycle.log import CorruptEntry
from sf_sagemaker.lifecycle.period_evaluation import Predictors, evaluate_period
from sf_sagemaker.lifecycle.promotion import (
    PromotionRules,
    Standing,
    replacement_due,
    standing,
    update_champion,
)
from sf_sagemaker.lifecycle.registry import RegisteredModel, describe_model, register_model
from sf_sagemaker.lifecycle.scorers import XGBoostScorer
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.job import Program, TrainingJob, dataset_channels
from sf_sagemaker.training.local import LocalTrainingPlatform
from sf_sagemaker.training.platform import ArtifactMissing
from sf_sagemaker.training.run import TRAINING, run_job
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from sf_sagemaker.warehouse.duckdb import DuckDBWarehouse
from sf_sagemaker.warehouse.export import export_dataset, read_split
from sf_sagemaker.warehouse.manifests import read_manifest

pytestmark = pytest.mark.slow  # seven training jobs

CADENCE = Cadence("week", datetime(2024, 1, 1), datetime(2024, 4, 1))
WEEKS = [period.key for period in CADENCE.between(CADENCE.start, datetime(2025, 1, 1))]
METRIC = "median_absolute_percentage_error"
SPEC = DatasetSpec(
    model="prices",
    source=Relation(name="sales"),
    row_key=("sale_id",),
    split_key=("parcel_id",),
    event_time="sold_on",
    target="price",
    target_kind="positive",
    exclude=("rent",),
    window="3 weeks",
)
OTHER_SPLIT = SPEC.model_copy(update={"split_key": ("sale_id",)})
OTHER_TARGET = SPEC.model_copy(update={"target": "rent", "exclude": ("price",)})
LIMITS = DecayLimits(rolling=2, min_rows=300, max_bias=0.05, max_relative_excess_error=0.05)
RULES = PromotionRules(margin=0.02, min_rows=50, confirm=False)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BREAK = 6  # the week from which on prices are a third higher
# Twelve weeks of 280 sales; what is not in the columns spreads prices by some ten percent.
SALES = f"""
create table sales as
with drawn as (
    select i, 0.17 * ((hash(i) % 1000) / 1000.0 + (hash(i + 7) % 1000) / 1000.0 - 1) as luck
    from range(12 * 280) as numbers(i)
)
select
    i as sale_id,
    i % 701 as parcel_id,
    date '2024-01-01' + cast(i // 40 as integer) as sold_on,
    cast(1 + i % 6 as double) as rooms,
    ['north', 'south', 'west'][1 + i % 3] as area,
    cast(100 * (1 + i % 6) * (1 + i % 3) * exp(luck + if(i >= 280 * {BREAK}, 0.3, 0)) as double)
        as price,
    cast((1 + i % 6) * exp(luck) as double) as rent
from drawn
"""


@dataclass
class World:
    """A warehouse, a storage, and trained models by name, which a test registers as they come."""

    warehouse: DuckDBWarehouse
    storage: LocalStorage
    models: Mapping[str, RegisteredModel]

    @property
    def predictors(self) -> Predictors:
        return Predictors(LocalTrainingPlatform(self.storage), XGBoostScorer(SPEC, METRIC))

    def register(self, *names: str) -> None:
        for name in names:
            register_model(self.storage, self.models[name])

    def evaluate(self, *weeks: int) -> None:
        for week in weeks:
            evaluate_period(
                self.warehouse,
                self.storage,
                SPEC,
                CADENCE,
                WEEKS[week],
                self.predictors,
                max_age=10,
                evaluated_at=NOW,
            )

    def update(
        self,
        rules: PromotionRules = RULES,
        *,
        limits: DecayLimits = LIMITS,
        confirmed: str | None = None,
        run_id: str | None = "run-1",
    ) -> Standing:
        """`confirmed` is a name of `models`, or a training job."""
        named = self.models.get(confirmed or "")
        return update_champion(
            self.storage,
            "prices",
            CADENCE,
            self.predictors,
            limits,
            rules,
            promoted_at=NOW,
            confirmed=named.training_job if named else confirmed,
            run_id=run_id,
        )

    def back(self, version: int) -> Champion:
        return roll_back(
            self.storage,
            "prices",
            version,
            in_force_from=WEEKS[12],
            promoted_at=NOW.isoformat(),
            reason="asked for",
        )

    @property
    def log(self) -> list[str]:
        """The names of the champions so far."""
        names = {model.training_job: name for name, model in self.models.items()}
        return [names[entry.training_job] for entry in read_champions(self.storage, "prices")]

    def train(self, week: int, spec: DatasetSpec = SPEC) -> RegisteredModel:
        export = export_dataset(
            self.warehouse, self.storage, spec, CADENCE, WEEKS[week], attempt="run"
        )
        platform = LocalTrainingPlatform(self.storage)
        job = TrainingJob(
            model=spec.model,
            partition=WEEKS[week],
            program=Program(*program_files("xgboost")),
            image=platform.image("xgboost"),
            dataset_fingerprint=export.manifest.fingerprint.value,
            channels=dataset_channels(export.key),
            hyperparameters={
                "objective": "reg:squarederror",
                "num_round": "30",
                "eta": "0.3",
                "max_depth": "3",
                "target_transform": "log",
                "seed": "0",
            },
            seed=0,
        )
        result = run_job(job, platform, TRAINING, poll_seconds=0.1)
        return describe_model(
            export.manifest,
            export.key,
            training_job=result.name,
            artifact_uri=result.description.artifact_uri or "",
            trained_at=NOW.isoformat(),
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Trained models, none of them registered. Copied for each test."""
    folder = tmp_path_factory.mktemp("world")
    world = World(
        DuckDBWarehouse(folder / "warehouse.duckdb"), LocalStorage(folder / "storage"), {}
    )
    with world.warehouse.writing() as session:
        session.execute(SALES)
    models = {
        "warm-up": world.train(1),
        "early": world.train(2),
        "next": world.train(3),
        "late": world.train(8),
        "other split": world.train(3, OTHER_SPLIT),
        "other target": world.train(3, OTHER_TARGET),
        "without rooms": world.train(3, SPEC.model_copy(update={"exclude": ("rent", "rooms")})),
    }
    return replace(world, models=models)


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    folder = tmp_path / "world"
    shutil.copytree(made.warehouse.path.parent, folder)
    return World(
        DuckDBWarehouse(folder / "warehouse.duckdb"), LocalStorage(folder / "storage"), made.models
    )


def test_without_a_model_there_is_no_champion(world: World) -> None:
    now = world.update()
    assert (now.champion, now.point, now.as_of, now.considered) == (None, None, None, None)


def test_a_model_whose_window_was_not_full_is_kept_out(world: World) -> None:
    world.register("warm-up")
    now = world.update()
    assert (now.champion, now.considered, now.as_of) == (None, None, WEEKS[1])
    assert world.log == []


def test_the_first_champion_is_compared_with_nothing(world: World) -> None:
    world.register("warm-up", "early")
    now = world.update()
    assert now.champion is not None
    assert now.considered is not None
    assert now.considered.comparison is None
    assert (now.champion.version, now.champion.kind) == (1, "first")
    assert (now.champion.partition, now.champion.in_force_from) == (WEEKS[2], WEEKS[3])
    assert (now.champion.run_id, now.champion.promoted_at) == ("run-1", NOW.isoformat())
    assert now.champion == read_champions(world.storage, "prices")[0]
    again = world.update()
    assert again.considered is None
    assert world.log == ["early"]


def test_a_better_challenger_takes_over_on_rows_that_neither_was_trained_on(world: World) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 6, 7)
    world.register("late")
    world.evaluate(9)
    now = world.update(run_id="run-2")
    assert now.considered is not None
    comparison = now.considered.comparison
    assert comparison is not None
    assert comparison.verdict == "no worse"
    test_rows = read_manifest(world.storage, world.models["late"].dataset).rows("test")
    assert comparison.rows == test_rows + 280  # the weeks before the challenger's are out
    assert comparison.challenger_error < comparison.champion_error / 2
    assert world.log == ["early", "late"]
    assert now.champion is not None
    assert (now.champion.kind, now.champion.in_force_from) == ("promotion", WEEKS[10])
    assert now.champion.figures["rows"] == comparison.rows
    assert now.champion.figures["verdict"] == "no worse"
    assert "no worse" in now.champion.reason
    assert now.point is None, "the new champion was in force in no evaluated period yet"
    assert [point.version for point in now.series] == [1, 1, 1, 1]


def test_an_undecided_challenger_is_looked_at_again_and_meanwhile_the_champion_stays(
    world: World,
) -> None:
    world.register("early")
    world.update()
    world.register("next")
    few = world.update(replace(RULES, min_rows=10_000))
    world.evaluate(4, 5)
    undecided = world.update(replace(RULES, margin=0))
    for now, verdict in ((few, "too few rows"), (undecided, "undecided")):
        assert now.considered is not None
        assert now.considered.comparison is not None
        assert now.considered.comparison.verdict == verdict
        assert now.considered.decision.kind == "keep"
        assert world.log == ["early"]
    assert undecided.point is not None
    assert undecided.point.state == "healthy"
    assert undecided.point.rows == 560
    now = world.update(replace(RULES, margin=0.5))
    assert world.log == ["early", "next"]
    assert now.champion is not None
    assert now.champion.in_force_from == WEEKS[6]


def test_an_undecided_challenger_takes_over_from_a_biased_champion(world: World) -> None:
    world.register("early")
    world.update()
    world.register("next")
    world.evaluate(4, 5, 6, 7)
    now = world.update(replace(RULES, margin=0))
    assert now.considered is not None
    assert now.considered.comparison is not None
    assert now.considered.comparison.verdict == "undecided"
    assert "the champion has decayed by its bias" in now.considered.decision.reason
    assert world.log == ["early", "next"]


def test_an_undecided_challenger_takes_over_from_a_champion_that_is_too_old(world: World) -> None:
    world.register("early")
    world.update()
    world.register("next")
    unlimited = replace(RULES, margin=0)
    now = world.update(unlimited)
    assert now.considered is not None
    assert now.considered.comparison is not None
    assert now.considered.comparison.verdict == "undecided"
    assert world.log == ["early"]
    assert now.as_of is not None
    assert now.champion is not None
    age = CADENCE.period(now.as_of).end - CADENCE.period(now.champion.partition).end
    assert age > timedelta(0)
    world.update(replace(unlimited, max_age=age + timedelta(weeks=1)))
    assert world.log == ["early"]
    # It has just reached its limit, as when the freshness window ran out: to stay would exceed it.
    now = world.update(replace(unlimited, max_age=age))
    assert now.considered is not None
    assert f"the champion is {age.days} days old" in now.considered.decision.reason
    assert world.log == ["early", "next"]


@pytest.mark.parametrize(
    ("cadence", "newest", "max_age", "told"),
    [
        (Cadence("week", datetime(2024, 1, 1)), "2024-03-18", timedelta(days=84), None),
        (Cadence("week", datetime(2024, 1, 1)), "2024-03-25", timedelta(days=84), "84 days old"),
        # Windows that are no whole number of periods run out within one.
        (Cadence("week", datetime(2024, 1, 1)), "2024-03-11", timedelta(days=80), None),
        (Cadence("week", datetime(2024, 1, 1)), "2024-03-18", timedelta(days=80), "77 days old"),
        (Cadence("month", datetime(2024, 1, 1)), "2025-02-01", timedelta(days=400), "394 days old"),
        # After the last period there is none in which it could grow older.
        (
            Cadence("week", datetime(2024, 1, 1), datetime(2024, 4, 1)),
            "2024-03-25",
            timedelta(days=84),
            None,
        ),
    ],
)
def test_a_champion_is_due_when_the_next_period_would_exceed_its_age(
    cadence: Cadence, newest: str, max_age: timedelta, told: str | None
) -> None:
    champion = Champion(
        version=1,
        model="prices",
        partition="2024-01-01",
        training_job="prices-1",
        in_force_from=newest,
        promoted_at="2024-01-08T00:00:00",
        kind="first",
        reason="the first",
        figures={},
    )
    due = replacement_due(champion, None, newest, cadence, replace(RULES, max_age=max_age))
    assert (due is None) == (told is None)
    assert told is None or f"the champion is {told}" in str(due)


def test_a_person_confirms(world: World) -> None:
    rules = replace(RULES, margin=0.5, confirm=True)
    world.register("early")
    for _ in range(2):
        now = world.update(rules)
        assert now.champion is None
        assert now.considered is not None
        assert now.considered.decision.kind == "confirm"
        assert "A person must confirm" in now.considered.decision.reason
    world.update(rules, confirmed="early")
    assert world.log == ["early"]

    world.register("next")
    now = world.update(rules)
    assert now.considered is not None
    assert now.considered.decision.kind == "confirm"
    # Also what the comparison doesn't speak for.
    now = world.update(replace(rules, min_rows=10_000), confirmed="next")
    assert world.log == ["early", "next"]
    assert now.champion is not None
    assert now.champion.reason.startswith("confirmed by a person; ")
    assert now.champion.figures["verdict"] == "too few rows"
    world.update(rules, confirmed="next")
    assert world.log == ["early", "next"]


def test_a_person_confirms_only_what_is_registered_and_newer(world: World) -> None:
    world.register("early", "next")
    world.update()
    with pytest.raises(ModelMissing, match="prices has no model of the training job 'job-x'"):
        world.update(confirmed="job-x")
    with pytest.raises(OlderChallenger, match="materialize the champion with its version"):
        world.update(confirmed="early")
    assert world.log == ["next"]


def test_what_a_rollback_has_deposed_does_not_come_back_by_itself(world: World) -> None:
    rules = replace(RULES, margin=0.5)
    for name in ("early", "next"):
        world.register(name)
        world.update(rules)
    world.back(1)
    world.evaluate(4)
    now = world.update(rules)
    assert now.considered is None
    assert world.log == ["early", "next", "early"]
    # A newer one is considered, and compared with the champion in force.
    world.register("late")
    world.evaluate(9)
    now = world.update(rules)
    assert world.log == ["early", "next", "early", "late"]
    assert now.considered is not None
    assert now.considered.comparison is not None
    assert now.considered.comparison.verdict == "no worse"


def test_a_challenger_of_another_target_is_kept_out_and_can_not_be_confirmed(world: World) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    world.register("other target")
    reason = kept(world.update())
    assert re.search(r"predicts rent .*predicts price .*another name", reason)
    with pytest.raises(IncompatibleChallenger):
        world.update(confirmed="other target")
    assert world.log == ["early"]


def test_a_challenger_of_another_split_is_compared_on_later_rows_only(world: World) -> None:
    world.register("early")
    world.update()
    world.register("other split")
    world.evaluate(4, 5)
    now = world.update(replace(RULES, margin=0.5))
    assert now.considered is not None
    assert now.considered.comparison is not None
    challenger = world.models["other split"]
    manifest = read_manifest(world.storage, challenger.dataset)
    test = read_split(world.storage, manifest, challenger.dataset, "test")
    days = [day.isoformat()[:10] for day in test["sold_on"].to_pylist()]
    later = sum(day >= WEEKS[3] for day in days)
    assert 0 < later < len(days)
    assert now.considered.comparison.rows == later + 2 * 280
    assert world.log == ["early", "other split"]


def test_labels_that_were_corrected_count_in_the_next_look(world: World) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    before = standing(world.storage, "prices", world.predictors, LIMITS)
    with world.warehouse.writing() as session:
        session.execute(f"update sales set price = 2 * price where sold_on >= '{WEEKS[4]}'")
    world.evaluate(4)
    after = standing(world.storage, "prices", world.predictors, LIMITS)
    assert before.point is not None
    assert after.point is not None
    assert (before.point.state, after.point.state) == ("healthy", "decayed")
    assert before.point.rows == after.point.rows == 560


def test_a_period_without_rows_changes_nothing(world: World) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    before = world.update()
    world.evaluate(12)
    after = world.update()
    assert (before.as_of, after.as_of) == (WEEKS[4], WEEKS[4])
    assert after.point is not None
    assert after.point.rows == 280, "of two periods, one has no rows"
    assert after.point.state == "no verdict"
    assert "at least 300 are needed" in after.point.reason


def test_a_corrupt_promotion_is_named(world: World) -> None:
    world.register("early")
    world.update()
    world.storage.path("champions/prices/000001.json").write_text('{"version": 1}')
    with pytest.raises(CorruptEntry, match=r"champions/prices/000001.json is not a promotion"):
        world.update()


def kept(now: Standing) -> str:
    """Why a challenger was kept out that couldn't be compared; the champion's verdict is there."""
    assert now.considered is not None
    assert now.considered.incomparable
    assert now.considered.comparison is None
    assert now.considered.decision.kind == "keep"
    assert now.point is not None
    return now.considered.decision.reason


def test_a_champion_that_is_not_registered_stays_and_a_person_can_replace_it(world: World) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    lost = world.models["early"]
    world.storage.delete(f"models/prices/{lost.partition}")
    world.register("next")
    reason = kept(world.update())
    assert f"{lost.training_job} of {WEEKS[2]}, which is not registered" in reason
    assert f"`confirm: {world.models['next'].training_job}`" in reason
    assert world.log == ["early"]
    now = world.update(confirmed="next")
    assert now.considered is not None
    assert "which is not registered" in now.considered.decision.reason
    assert world.log == ["early", "next"]


def test_a_champion_whose_artifact_is_gone_stays_and_a_person_can_replace_it(
    world: World,
) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    lost = world.models["early"].training_job
    [artifact] = world.storage.path(f"training-jobs/{lost}").rglob("model.tar.gz")
    artifact.unlink()
    world.register("next")
    now = world.update()
    assert "model.tar.gz is gone" in kept(now)
    assert now.point is not None
    assert now.point.state == "healthy"
    now = world.update(confirmed="next")
    assert now.considered is not None
    assert now.considered.comparison is None
    assert lost in now.considered.decision.reason
    assert world.log == ["early", "next"]


def test_a_challenger_whose_artifact_is_gone_is_kept_out_and_no_person_can_confirm_it(
    world: World,
) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    world.register("next")
    lost = world.models["next"].training_job
    [artifact] = world.storage.path(f"training-jobs/{lost}").rglob("model.tar.gz")
    artifact.unlink()
    reason = kept(world.update())
    assert f"the challenger {lost} can't be used" in reason
    assert "model.tar.gz is gone" in reason
    with pytest.raises(ArtifactMissing, match=lost):
        world.update(confirmed="next")
    assert world.log == ["early"]


def test_a_challenger_whose_dataset_is_gone_is_kept_out(world: World) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    world.register("next")
    world.storage.delete(world.models["next"].dataset)
    assert "manifest.json" in kept(world.update())
    world.update(confirmed="next")
    assert world.log == ["early", "next"]


def test_a_champion_that_needs_a_column_which_is_gone_stays(world: World) -> None:
    world.register("early")
    world.update()
    world.evaluate(3, 4)
    world.register("without rooms")
    assert "column 'rooms' is missing" in kept(world.update())
    world.update(confirmed="without rooms")
    assert world.log == ["early", "without rooms"]


class Counting(LocalStorage):
    """Counts how often what lies under models/ is listed, and each of its files is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: Counter[str] = Counter()

    def list(self, prefix: str) -> Iterator[str]:
        self.asked[f"list {prefix}"] += 1
        return super().list(prefix)

    def read(self, key: str) -> bytes:
        self.asked[f"read {key}"] += 1
        return super().read(key)


def test_the_registry_is_read_once_for_a_promotion(world: World) -> None:
    world.register("early")
    world.update()
    world.register("next", "late")
    world.evaluate(9)
    storage = Counting(world.storage.root)
    replace(world, storage=storage).update()
    assert world.log == ["early", "late"]
    asked = {what: count for what, count in storage.asked.items() if " models/" in what}
    assert len(asked) == 1 + 3, "one list of all, and a file for each of the three models"
    assert set(asked.values()) == {1}


UPDATER = """
import sys
from dataclasses import replace
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("promotion_test", {file!r})
module = importlib.util.module_from_spec(spec)
sys.modules["promotion_test"] = module
spec.loader.exec_module(module)

world = module.World(None, module.LocalStorage(Path({root!r})), {{}})
print("ready", flush=True)
for line in sys.stdin:
    now = world.update(replace(module.RULES, margin=0.5), run_id=line.strip())
    print(now.champion.version, now.champion.training_job, flush=True)
"""


def test_processes_that_decide_at_once_append_once_for_each_decision(world: World) -> None:
    code = UPDATER.format(file=__file__, root=str(world.storage.root))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for version, name in enumerate(("early", "next", "late"), start=1):
            world.register(name)
            for number, process in enumerate(processes):
                assert process.stdin is not None
                process.stdin.write(f"round {version} of {number}\n")
                process.stdin.flush()
            for process in processes:
                assert process.stdout is not None
                said = process.stdout.readline().split()
                assert said == [str(version), world.models[name].training_job]
            assert len(read_champions(world.storage, "prices")) == version
        assert world.log == ["early", "next", "late"]
    finally:
        for process in processes:
            process.communicate(timeout=60)


def test_a_decision_that_another_one_overtook_is_taken_again(world: World) -> None:
    """The other process promotes while this one compares."""
    rules = replace(RULES, margin=0.5)
    world.register("early")
    world.update()
    world.register("next")

    class Overtaken(Predictors):
        def load(self, training_job: str):
            if world.log == ["early"]:
                world.update(rules, run_id="other")
            return super().load(training_job)

    now = update_champion(
        world.storage,
        "prices",
        CADENCE,
        Overtaken(LocalTrainingPlatform(world.storage), XGBoostScorer(SPEC, METRIC)),
        LIMITS,
        rules,
        promoted_at=NOW + timedelta(hours=1),
        run_id="this",
    )
    assert now.considered is None, "the champion is the challenger already"
    assert [entry.run_id for entry in read_champions(world.storage, "prices")] == ["run-1", "other"]
