"""One tick of the retraining sensors over models of 500 partitions: CPU seconds and database queries.

Each tick looks at its own model alone: the cost of all of them is to grow with their number, and the
cost of one not at all. `idle` is a tick without a cause, `due` one that asks for a run.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from statistics import median
from typing import Any

import dagster as dg
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sf_sagemaker.components.attributes import Freshness, Retraining
from sf_sagemaker.components.model_state import DECAY_CHECK, RetrainedModel
from sf_sagemaker.components.retraining import retraining_definitions
from sf_sagemaker.periods import Cadence

_SITES = ((3, 500), (3, 50), (10, 50), (50, 50))  # models, partitions of each
_CHECKS = [f"check_{number}" for number in range(10)]  # blocking ones of each source
_QUIET = {"python_logs": {"python_log_level": "ERROR"}}
_CADENCE = Cadence("week", datetime(2010, 1, 4), datetime(2024, 1, 1))
_PERIODS = dg.TimeWindowPartitionsDefinition(
    start="2010-01-04", end="2024-01-01", fmt="%Y-%m-%d", cron_schedule="0 0 * * 1"
)


def main() -> None:
    """Prints the cost of a tick of all sensors, as the numbers of partitions and of models grow."""
    print("| models | partitions | tick | CPU s, all | CPU s, a model | queries, a model |")
    print("|--|--|--|--|--|--|")
    for models, partitions in _SITES:
        with (
            tempfile.TemporaryDirectory() as folder,
            dg.DagsterInstance.local_temp(folder, overrides=_QUIET) as instance,
        ):
            landing = _definitions(models, due=False).resolve_implicit_global_asset_job_def()
            weeks = _PERIODS.get_partition_keys()[:partitions]
            for number in range(models):
                _train(instance, _assets(number), weeks)
                landing.execute_in_process(
                    asset_selection=[_assets(number).source],
                    partition_key=weeks[-1],
                    instance=instance,
                )
            for tick in ("idle", "due"):
                repository = _definitions(models, due=tick == "due").get_repository_def()
                seconds, queries = _tick(instance, repository, models, asks=tick == "due")
                print(
                    f"| {models} | {partitions} | {tick} | {seconds:.2f} | {seconds / models:.3f} "
                    f"| {queries / models:.0f} |",
                    flush=True,
                )


def _assets(number: int) -> RetrainedModel:
    name = f"model_{number:02d}"
    parts = ("features", "dataset", "model", "champion")
    return RetrainedModel(name, *(dg.AssetKey([name, part]) for part in parts))


def _definitions(models: int, *, due: bool) -> dg.Definitions:
    """The code location; where it is `due`, the code is another than that of the models."""
    version = "2" if due else "1"

    def definitions(assets: RetrainedModel) -> dg.Definitions:
        @dg.asset(
            key=assets.source,
            partitions_def=_PERIODS,
            check_specs=[
                dg.AssetCheckSpec(name, asset=assets.source, blocking=True) for name in _CHECKS
            ],
        )
        def source() -> dg.MaterializeResult:
            passed = [dg.AssetCheckResult(check_name=name, passed=True) for name in _CHECKS]
            return dg.MaterializeResult(check_results=passed)

        @dg.asset(
            key=assets.dataset,
            partitions_def=_PERIODS,
            deps=[assets.source],
            code_version=version,
        )
        def dataset() -> dg.MaterializeResult:
            return dg.MaterializeResult()

        @dg.asset(
            key=assets.model, partitions_def=_PERIODS, deps=[assets.dataset], code_version=version
        )
        def model() -> dg.MaterializeResult:
            return dg.MaterializeResult()

        @dg.asset(
            key=assets.champion,
            deps=[dg.AssetDep(assets.model, partition_mapping=dg.AllPartitionMapping())],
            check_specs=[dg.AssetCheckSpec(DECAY_CHECK, asset=assets.champion)],
        )
        def champion() -> dg.MaterializeResult:
            return dg.MaterializeResult()

        return dg.Definitions.merge(
            dg.Definitions(assets=[source, dataset, model, champion]),
            retraining_definitions(
                assets,
                cadence=_CADENCE,
                window="17 weeks",
                freshness=Freshness(fail_window="84 days"),
                retraining=Retraining(mode="automatic"),
            ),
        )

    return dg.Definitions.merge(*(definitions(_assets(number)) for number in range(models)))


def _train(instance: dg.DagsterInstance, assets: RetrainedModel, weeks: Sequence[str]) -> None:
    """Source and model of each week, the newest week's dataset, and a verdict on the champion."""
    for key in (assets.source, assets.dataset, assets.model):
        for week in weeks[-1:] if key == assets.dataset else weeks:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(key, partition=week, tags={"dagster/code_version": "1"})
            )
    instance.report_runless_asset_event(dg.AssetMaterialization(assets.champion))
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=assets.champion, check_name=DECAY_CHECK, passed=True)
    )


def _tick(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, models: int, *, asks: bool
) -> tuple[float, int]:
    """Median CPU seconds of one tick of all sensors over three, and its queries."""
    seconds: list[float] = []
    counts: list[int] = []
    for _ in range(3):
        with _counted() as queries:
            started = time.process_time()
            for number in range(models):
                sensor = repository.get_sensor_def(f"{_assets(number).name}_retraining")
                context = dg.build_sensor_context(instance, repository_def=repository)
                made = sensor.evaluate_tick(context)
                assert bool(made.run_requests) == asks, made.skip_message
            seconds.append(time.process_time() - started)
            counts.append(len(queries))
    return median(seconds), counts[-1]


@contextmanager
def _counted() -> Iterator[list[str]]:
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("PRAGMA"):
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


if __name__ == "__main__":
    main()
