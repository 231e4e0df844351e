"""The asset `<model>/champion`: the model in force, whether it decays, and whether its inputs drift."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from sf_sagemaker.components import lifecycle_plots
from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.champion_report import (
    COMPARISON_CHECK,
    DRIFT_CHECK,
    EVALUATED_CHECK,
    champion_metadata,
    comparison_result,
    decay_result,
    decision_text,
    drift_result,
    evaluated_result,
)
from sf_sagemaker.components.model_state import DECAY_CHECK
from sf_sagemaker.components.trained_model import ModelKind
from sf_sagemaker.lifecycle.champions import (
    ModelMissing,
    UnknownVersion,
    champion_model,
    champion_of_version,
    roll_back,
)
from sf_sagemaker.lifecycle.decay import DecayLimits
from sf_sagemaker.lifecycle.drift import InputDrift, measure_drift
from sf_sagemaker.lifecycle.period_evaluation import Predictors
from sf_sagemaker.lifecycle.promotion import (
    PromotionRules,
    Standing,
    standing,
    update_champion,
)
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import KeyMissing, Storage
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.errors import CorruptDataset, UnsupportedType
from sf_sagemaker.warehouse.export import read_rows, read_split
from sf_sagemaker.warehouse.manifests import read_manifest
from sf_sagemaker.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa


class ChampionConfig(dg.Config):
    """Run configuration of a champion."""

    version: int | None = Field(
        default=None, description="Roll back: make the model of this version champion again."
    )
    confirm: str | None = Field(
        default=None,
        description="Training job that becomes champion whatever the comparison says: how a person "
        "confirms a promotion.",
    )


@dataclass(frozen=True)
class ChampionRules:
    """What is configured about a champion. `max_effect` and `ignored` are about drift of its inputs."""

    limits: DecayLimits
    promotion: PromotionRules
    max_effect: float
    ignored: Collection[str]


def champion(
    *,
    spec: DatasetSpec,
    kind: ModelKind,
    model_key: dg.AssetKey,
    evaluation_key: dg.AssetKey,
    rules: ChampionRules,
    max_age: int,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The champion asset, with its checks `decay`, `evaluated`, `input_drift` and `comparison`.

    `max_age` is the evaluation's, in periods.
    """
    key = dg.AssetKey([spec.model, "champion"])
    cadence = attributes.cadence

    @dg.asset(
        key=key,
        description=(
            f"The model of {spec.model} that is in force: the newest entry of an append-only promotion "
            "log. Materializing it considers the newest challenger, and appends an entry where that is "
            "no worse on rows that neither was trained on. Roll back with the run configuration "
            "`version`."
        ),
        deps=[model_key, evaluation_key],
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds={"json"},
        check_specs=[
            dg.AssetCheckSpec(
                DECAY_CHECK,
                asset=key,
                description=f"Over {rules.limits.rolling} periods, the champion's bias is within "
                f"{rules.limits.max_bias:g}, and its error has not risen by more than "
                f"{rules.limits.max_relative_excess_error:.0%} against a reference that is refitted "
                "for each period.",
            ),
            dg.AssetCheckSpec(
                EVALUATED_CHECK,
                asset=key,
                description="The newest evaluation has scores of the champion: without them its decay "
                f"can't be seen. Models are evaluated while they are up to {max_age} periods old.",
            ),
            dg.AssetCheckSpec(
                DRIFT_CHECK,
                asset=key,
                description="The features of recent rows are distributed as those that the champion "
                f"was trained on: none has moved by more than {rules.max_effect:.0%} of its rows.",
            ),
            dg.AssetCheckSpec(
                COMPARISON_CHECK,
                asset=key,
                description="The newest challenger could be compared with the champion: none of the two "
                "is lost, and both can score the same rows.",
            ),
        ],
        required_resource_keys=kind.resource_keys,
    )
    def champion(
        context: dg.AssetExecutionContext, config: ChampionConfig
    ) -> Iterator[dg.MaterializeResult]:
        warehouse: Warehouse = context.resources.warehouse
        storage: Storage = context.resources.storage
        bound = kind.bound(context)
        predictors = bound.predictors(context)
        if config.version is not None:
            result = _rolled_back(
                storage, spec.model, cadence, predictors, rules, config.version, context.run_id
            )
        else:
            result = update_champion(
                storage,
                spec.model,
                cadence,
                predictors,
                rules.limits,
                rules.promotion,
                promoted_at=datetime.now(UTC),
                confirmed=config.confirm,
                run_id=context.run_id,
            )
        if result.considered is not None:
            log = context.log.warning if result.considered.incomparable else context.log.info
            log(decision_text(result.considered))
        metric = kind.scorer.measure.metric
        drift = None
        if result.as_of is not None:
            drift = _drift(warehouse, storage, spec, cadence, result, result.as_of, rules)
        plot = None
        if result.series:
            plot = lifecycle_plots.decay_series(result.series, rules.limits, metric)
        yield dg.MaterializeResult(
            metadata={
                **champion_metadata(result, cadence, plot, storage),
                **bound.scoring_metadata(),
            },
            data_version=dg.DataVersion(
                result.champion.training_job if result.champion else "none"
            ),
            check_results=[
                decay_result(result, rules.limits, metric, plot),
                evaluated_result(result, cadence, max_age),
                drift_result(drift),
                comparison_result(result.considered),
            ],
        )

    return champion


def _rolled_back(
    storage: Storage,
    model: str,
    cadence: Cadence,
    predictors: Predictors,
    rules: ChampionRules,
    version: int,
    run_id: str,
) -> Standing:
    before = standing(storage, model, predictors, rules.limits)
    if before.as_of is None:
        raise UnknownVersion(f"{model} has no champion to go back to: no model of it is registered")
    # A model that can't be loaded can't answer: better to keep the champion that there is.
    predictors.load(champion_of_version(before.log, model, version).training_job)
    roll_back(
        storage,
        model,
        version,
        in_force_from=f"{cadence.period(before.as_of).end:%Y-%m-%d}",
        promoted_at=datetime.now(UTC).isoformat(),
        reason=f"rolled back to version {version} by a person",
        run_id=run_id,
    )
    return standing(storage, model, predictors, rules.limits)


def _drift(
    warehouse: Warehouse,
    storage: Storage,
    spec: DatasetSpec,
    cadence: Cadence,
    result: Standing,
    newest: str,
    rules: ChampionRules,
) -> InputDrift | None:
    """The champion's training rows against the newest periods, whether or not those have labels."""
    if result.champion is None:
        return None
    try:
        registered = champion_model(storage, result.champion, result.models)
    except ModelMissing as error:
        return InputDrift("no verdict", str(error), rules.max_effect, 0, 0, (), ())
    end = cadence.period(newest).end
    recent = [*cadence.between(cadence.start, end)][-rules.limits.rolling :]
    try:
        rows: pa.Table = read_rows(
            warehouse,
            spec,
            recent[0].start,
            end,
            timezone=cadence.timezone,
            labelled=False,
        )
    except UnsupportedType as error:
        reason = f"the recent rows can't be read: {error}"
        return InputDrift("drifted", reason, rules.max_effect, 0, 0, (), ())
    # A feature that the configuration has dropped since is not read any more.
    features = {name: kind for name, kind in registered.features if name in rows.column_names}
    ignored = [name.lower() for name in rules.ignored if name.lower() in features]
    try:
        manifest = read_manifest(storage, registered.dataset)
        training = read_split(
            storage, manifest, registered.dataset, "train", columns=list(features)
        )
    except (CorruptDataset, KeyMissing) as error:
        reason = f"the champion's training rows can't be read: {error}"
        return InputDrift("no verdict", reason, rules.max_effect, 0, rows.num_rows, (), ())
    return measure_drift(
        training,
        rows,
        features.items(),
        ignored=ignored,
        limit=rules.max_effect,
        seed=spec.seed,
    )
