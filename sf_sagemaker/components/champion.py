"""The asset `<model>/champion`: the model in force, whether it decays, and whether its inputs drift."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from sf_sagemaker.components import lifecycle_plots
from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.retraining import DECAY_CHECK
from sf_sagemaker.lifecycle.champions import (
    Champion,
    UnknownVersion,
    champion_model,
    roll_back,
)
from sf_sagemaker.lifecycle.decay import DecayLimits, DecayPoint
from sf_sagemaker.lifecycle.drift import InputDrift, measure_drift
from sf_sagemaker.lifecycle.outcomes import Scorer
from sf_sagemaker.lifecycle.period_evaluation import Predictors
from sf_sagemaker.lifecycle.promotion import (
    Consideration,
    PromotionRules,
    Standing,
    standing,
    update_champion,
)
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.platform import TrainingPlatform
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.export import read_rows, read_split
from sf_sagemaker.warehouse.manifests import read_manifest
from sf_sagemaker.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

DRIFT_CHECK = "input_drift"


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
    scorer: Scorer,
    model_key: dg.AssetKey,
    evaluation_key: dg.AssetKey,
    rules: ChampionRules,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The champion asset, with its checks `decay` and `input_drift`."""
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
                DRIFT_CHECK,
                asset=key,
                description="The features of recent rows are distributed as those that the champion "
                f"was trained on: none has moved by more than {rules.max_effect:.0%} of its rows.",
            ),
        ],
    )
    def champion(
        context: dg.AssetExecutionContext,
        config: ChampionConfig,
        warehouse: dg.ResourceParam[Warehouse],
        storage: dg.ResourceParam[Storage],
        training_platform: dg.ResourceParam[TrainingPlatform],
    ) -> Iterator[dg.MaterializeResult]:
        predictors = Predictors(training_platform, scorer)
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
            context.log.info(_decision(result.considered))
        metric = scorer.measure.metric
        drift = None
        newest = max(filter(None, (result.as_of, result.landed)), default=None)
        if result.champion is not None and newest is not None:
            drift = _drift(warehouse, storage, spec, cadence, result.champion, newest, rules)
        yield dg.MaterializeResult(
            metadata=_metadata(result, cadence, rules.limits, metric, storage),
            data_version=dg.DataVersion(
                result.champion.training_job if result.champion else "none"
            ),
            check_results=[_decay_result(result, rules.limits, metric), _drift_result(drift)],
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
    champion: Champion,
    newest: str,
    rules: ChampionRules,
) -> InputDrift:
    """The champion's training rows against the newest periods, whether or not those have labels."""
    registered = champion_model(storage, champion)
    manifest = read_manifest(storage, registered.dataset)
    features = dict(registered.features)
    training = read_split(storage, manifest, registered.dataset, "train", columns=list(features))
    end = cadence.period(newest).end
    recent = [*cadence.between(cadence.start, end)][-rules.limits.rolling :]
    rows: pa.Table = read_rows(
        warehouse,
        spec,
        recent[0].start,
        end,
        timezone=cadence.timezone,
        labelled=False,
    )
    ignored = [name.lower() for name in rules.ignored if name.lower() in features]
    return measure_drift(
        training,
        rows,
        registered.features,
        ignored=ignored,
        limit=rules.max_effect,
        seed=spec.seed,
    )


def _decision(considered: Consideration) -> str:
    verb = {"promote": "takes over", "keep": "does not take over", "confirm": "waits"}
    decision = considered.decision
    return f"{considered.challenger.training_job} {verb[decision.kind]}: {decision.reason}"


def _metadata(
    result: Standing, cadence: Cadence, limits: DecayLimits, metric: str, storage: Storage
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"as_of": result.as_of or "nothing is known yet"}
    considered = result.considered
    if considered is not None:
        metadata["decision"] = considered.decision.kind
        metadata["decision_reason"] = considered.decision.reason
        metadata["challenger"] = considered.challenger.training_job
    if result.champion is None:
        return {**metadata, "champion": "none yet: no model with a full window is trained"}
    now = result.champion
    metadata |= {
        "champion": now.training_job,
        "version": now.version,
        "partition": now.partition,
        "in_force_from": now.in_force_from,
        "promoted_at": dg.MetadataValue.timestamp(datetime.fromisoformat(now.promoted_at)),
        "reason": now.reason,
        "log": _table(result.log),
        "dagster/uri": storage.uri(f"champions/{now.model}"),
    }
    if result.as_of is not None:
        trained, known = cadence.period(now.partition), cadence.period(result.as_of)
        metadata["age_days"] = (known.end - trained.end).days
        metadata["age_periods"] = sum(1 for _ in cadence.between(trained.end, known.end))
    if considered is not None and considered.comparison is not None:
        comparison = considered.comparison
        metadata |= _defined(
            {
                "comparison_rows": comparison.rows,
                "comparison_champion_error": comparison.champion_error,
                "comparison_challenger_error": comparison.challenger_error,
                "comparison_difference": comparison.difference.estimate,
                "comparison_difference_low": comparison.difference.low,
                "comparison_difference_high": comparison.difference.high,
                "comparison_margin": comparison.margin,
            }
        )
    if result.series:
        newest = result.series[-1]
        metadata |= {
            "decay_state": newest.state,
            "decay_reason": newest.reason,
            "decay_by_period": _points(result.series),
            "decay": lifecycle_plots.decay_series(result.series, limits, metric),
        }
    return metadata


def _points(series: Sequence[DecayPoint]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "period": point.partition,
                    "version": point.version,
                    "rows": point.rows,
                    "error": _rounded(point.error),
                    "reference_error": _rounded(point.reference_error),
                    "bias": _rounded(point.bias.estimate),
                    "excess": _rounded(point.excess.estimate),
                    "state": point.state,
                }
            )
            for point in series
        ]
    )


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def _table(log: Sequence[Champion]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "version": entry.version,
                    "kind": entry.kind,
                    "model of": entry.partition,
                    "in force from": entry.in_force_from,
                    "training job": entry.training_job,
                    "reason": entry.reason,
                }
            )
            for entry in reversed(log)
        ]
    )


def _decay_result(result: Standing, limits: DecayLimits, metric: str) -> dg.AssetCheckResult:
    """Fails for a champion that has decayed; without a verdict it passes, and says so."""
    point = result.point
    metadata: dict[str, Any] = {
        "max_bias": limits.max_bias,
        "max_relative_excess_error": limits.max_relative_excess_error,
        "rolling_periods": limits.rolling,
        "min_rows": limits.min_rows,
    }
    if point is None:
        state = "no verdict"
        reason = "the champion has not been in force in any evaluated period yet"
    else:
        state, reason = point.state, point.reason
        metadata |= {
            "period": point.partition,
            "version": point.version,
            "rows": point.rows,
            "periods": point.periods,
            "causes": ", ".join(point.causes) or "none",
        }
        metadata |= _defined(
            {
                "error": point.error,
                "reference_error": point.reference_error,
                "bias": point.bias.estimate,
                "bias_low": point.bias.low,
                "bias_high": point.bias.high,
                "relative_excess_error": point.excess.estimate,
                "relative_excess_error_low": point.excess.low,
                "relative_excess_error_high": point.excess.high,
            }
        )
    metadata |= {"state": state, "reason": reason, "metric": metric}
    if result.series:
        metadata["plot"] = lifecycle_plots.decay_series(result.series, limits, metric)
    return dg.AssetCheckResult(
        check_name=DECAY_CHECK, passed=state != "decayed", description=reason, metadata=metadata
    )


def _drift_result(drift: InputDrift | None) -> dg.AssetCheckResult:
    if drift is None:
        return dg.AssetCheckResult(
            check_name=DRIFT_CHECK,
            passed=True,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"state": "no verdict", "reason": "there is no champion yet"},
        )
    metadata: dict[str, Any] = {
        "state": drift.state,
        "reason": drift.reason,
        "limit": drift.limit,
        "training_rows": drift.training_rows,
        "recent_rows": drift.recent_rows,
        "ignored": ", ".join(drift.ignored) or "none",
    }
    if drift.features:
        metadata["plot"] = lifecycle_plots.input_drift(drift)
        metadata["features"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "feature": one.feature,
                        "effect": round(one.effect, 4),
                        "noise": round(one.noise, 4),
                        "before": one.before,
                        "now": one.now,
                        "missing before": round(one.missing_before, 4),
                        "missing now": round(one.missing_now, 4),
                        "unseen": round(one.unseen, 4),
                    }
                )
                for one in drift.features
            ]
        )
    return dg.AssetCheckResult(
        check_name=DRIFT_CHECK,
        passed=drift.state != "drifted",
        severity=dg.AssetCheckSeverity.WARN,
        description=drift.reason,
        metadata=metadata,
    )


def _defined(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if not math.isnan(value)}
