"""A code location of small models that are retrained by themselves, without any warehouse.

What each does is steered by files in the folder $STEERING: `<model>.hold` keeps its training waiting,
`<model>.failures` is how often it fails, `<model>.decayed` the newest period at which its champion
has decayed, and `<model>.code` its code version, which each process reads when it loads the code.
Each attempt to train appends a line to `<model>.attempts`.
"""

import os
import time
from datetime import datetime
from pathlib import Path

import dagster as dg

from sf_sagemaker.components.attributes import Freshness, Retraining
from sf_sagemaker.components.model_state import DECAY_CHECK, RetrainedModel
from sf_sagemaker.components.retraining import retraining_definitions
from sf_sagemaker.periods import Cadence

CADENCE = Cadence("week", datetime(2014, 4, 28), datetime(2015, 6, 1))
PARTITIONS = dg.TimeWindowPartitionsDefinition(
    start="2014-04-28", end="2015-06-01", fmt="%Y-%m-%d", cron_schedule="0 0 * * 1"
)
WEEKS = PARTITIONS.get_partition_keys()
SAME = dg.IdentityPartitionMapping()

DAY = Freshness(fail_window="1 day")
MINUTE = Freshness(fail_window="1 minute")
EACH_MINUTE = Freshness(deadline="* * * * *", within="1 minute")
AUTOMATIC = Retraining(mode="automatic", cool_down=4, schedule="0 0 1 1 *")
STUBBORN = Retraining(
    mode="automatic", cool_down=4, schedule="* * * * *", max_retries=1, max_requests=2
)

MODELS = {
    "both": (DAY, AUTOMATIC),
    "expiring": (MINUTE, AUTOMATIC),
    "awaited": (EACH_MINUTE, AUTOMATIC),
    "flaky": (DAY, AUTOMATIC),
    "broken": (DAY, STUBBORN),
    "busy": (DAY, AUTOMATIC),
    "outdated": (DAY, AUTOMATIC),
    "edited": (DAY, AUTOMATIC),
    "refused": (DAY, AUTOMATIC),
    "healthy": (DAY, AUTOMATIC),
}


def assets_of(name: str) -> RetrainedModel:
    return RetrainedModel(
        name=name,
        source=dg.AssetKey([name, "features"]),
        dataset=dg.AssetKey([name, "dataset"]),
        model=dg.AssetKey([name, "model"]),
        champion=dg.AssetKey([name, "champion"]),
    )


def model_definitions(name: str, freshness: Freshness, retraining: Retraining) -> dg.Definitions:
    """Features with a blocking check, dataset, model and champion, and what retrains them."""
    keys = assets_of(name)
    written = steering(name, "code")
    code = written.read_text() if written.exists() else "1"

    @dg.asset(
        key=keys.source,
        partitions_def=PARTITIONS,
        check_specs=[
            dg.AssetCheckSpec("rows", asset=keys.source, blocking=True),
            dg.AssetCheckSpec("advice", asset=keys.source),
        ],
    )
    def features() -> dg.MaterializeResult:
        rows = not steering(name, "damaged").exists()
        return dg.MaterializeResult(
            check_results=[
                dg.AssetCheckResult(check_name="rows", passed=rows),
                dg.AssetCheckResult(check_name="advice", passed=False),
            ]
        )

    @dg.asset(
        key=keys.dataset,
        partitions_def=PARTITIONS,
        code_version=code,
        deps=[dg.AssetDep(keys.source, partition_mapping=SAME)],
    )
    def dataset() -> dg.MaterializeResult:
        return dg.MaterializeResult()

    @dg.asset(
        key=keys.model,
        partitions_def=PARTITIONS,
        code_version=code,
        freshness_policy=freshness.policy(),
        deps=[dg.AssetDep(keys.dataset, partition_mapping=SAME)],
    )
    def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with steering(name, "attempts").open("a") as attempts:
            attempts.write(f"{context.partition_key}\n")
        while steering(name, "hold").exists():
            time.sleep(0.1)
        failures = steering(name, "failures")
        left = int(failures.read_text()) if failures.exists() else 0
        if left:
            failures.write_text(str(left - 1))
            raise dg.Failure("the training fails")
        return dg.MaterializeResult()

    @dg.asset(
        key=keys.champion,
        deps=[dg.AssetDep(keys.model, partition_mapping=dg.AllPartitionMapping())],
        check_specs=[dg.AssetCheckSpec(DECAY_CHECK, asset=keys.champion)],
    )
    def champion(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        decayed = steering(name, "decayed")
        newest = max(context.instance.get_materialized_partitions(keys.model), default="")
        passed = not (decayed.exists() and newest <= decayed.read_text())
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=passed)])

    return dg.Definitions.merge(
        dg.Definitions(
            assets=[features, dataset, model, champion],
            jobs=[dg.define_asset_job(f"{name}_training", [dataset, model])],
        ),
        retraining_definitions(
            keys, cadence=CADENCE, window="2 weeks", freshness=freshness, retraining=retraining
        ),
    )


def steering(name: str, what: str) -> Path:
    return Path(os.environ["STEERING"]) / f"{name}.{what}"


@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions.merge(
        *(model_definitions(name, *settings) for name, settings in MODELS.items()),
        dg.Definitions(executor=dg.in_process_executor),
    )
