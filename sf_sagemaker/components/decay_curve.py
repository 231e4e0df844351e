"""The asset `<model>/decay_curve`: how old a model may grow, and whether the configured window allows it."""

import math
from datetime import timedelta
from typing import Any

import dagster as dg

from sf_sagemaker.components import lifecycle_plots
from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.lifecycle.decay import DecayLimits
from sf_sagemaker.lifecycle.decay_curve import (
    DecayCurve,
    FreshnessWindow,
    freshness_window,
    measure_ages,
    read_period_outcomes,
)
from sf_sagemaker.lifecycle.decay_curve import (
    decay_curve as curve_of,
)
from sf_sagemaker.lifecycle.evaluation import read_evaluations
from sf_sagemaker.lifecycle.outcomes import Scorer
from sf_sagemaker.lifecycle.registry import newest_models
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import DatasetSpec

WINDOW_CHECK = "freshness_window"


def decay_curve(
    *,
    spec: DatasetSpec,
    scorer: Scorer,
    evaluation_key: dg.AssetKey,
    tolerance: float,
    limits: DecayLimits,
    configured: timedelta | None,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The decay curve asset, with its check `freshness_window`.

    `tolerance` is a relative excess error, `configured` the model's freshness window. An age needs as
    many rows as a verdict on the champion does, and a period a quarter of its share of those.
    """
    key = dg.AssetKey([spec.model, "decay_curve"])
    cadence = attributes.cadence

    @dg.asset(
        key=key,
        description=(
            "From backfilled models and evaluations: the excess error of a model over a freshly trained "
            f"one on the same rows, by age, and the age at which it reaches {tolerance:.0%}."
        ),
        deps=[evaluation_key],
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds={"plot"},
        check_specs=[
            dg.AssetCheckSpec(
                WINDOW_CHECK,
                asset=key,
                description="The configured freshness window is no longer than the data recommend.",
            )
        ],
    )
    def decay_curve(
        context: dg.AssetExecutionContext, storage: dg.ResourceParam[Storage]
    ) -> dg.MaterializeResult:
        evaluations = read_evaluations(storage, spec.model)
        outcomes = read_period_outcomes(
            storage, evaluations, newest_models(storage, spec.model).values()
        )
        matrix = measure_ages(scorer.measure, outcomes, cadence, seed=spec.seed)
        curve = curve_of(
            matrix,
            tolerance=tolerance,
            seed=spec.seed,
            min_rows=limits.min_rows,
            min_period_rows=math.ceil(limits.min_rows / limits.rolling / 4),
        )
        window = freshness_window(curve, cadence, label_delay=spec.label_delay)
        late = f". How late {spec.available_at} comes is not counted" if spec.available_at else ""
        metadata: dict[str, Any] = {
            "metric": curve.metric,
            "tolerance": curve.tolerance,
            "evaluated_periods": len(matrix.periods),
            "models": len(matrix.by_training()[0]),
            "recommendation": (window.reason if window else "too little is evaluated") + late,
            "periods_without_a_fresh_model": ", ".join(curve.periods_without_fresh) or "none",
        }
        if window is not None:
            metadata["recommended_freshness_window_days"] = window.days
        metadata |= _crossing(curve)
        if matrix.periods:
            metadata["error_by_training_and_evaluation"] = lifecycle_plots.error_matrix(matrix)
        if curve.points:
            metadata["ages"] = _table(curve)
            metadata["excess_by_age"] = lifecycle_plots.excess_by_age(curve, window, cadence.every)
        return dg.MaterializeResult(metadata=metadata, check_results=[_verdict(window, configured)])

    return decay_curve


def _crossing(curve: DecayCurve) -> dict[str, float | str]:
    crossing = curve.crossing
    bounds = {
        "crossing_age": crossing.estimate,
        "crossing_age_low": crossing.low,
        "crossing_age_high": crossing.high,
    }
    return {
        name: "not within the data" if age is None else round(age, 2)
        for name, age in bounds.items()
    }


def _table(curve: DecayCurve) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "age": point.age,
                    "excess": round(point.excess.estimate, 4),
                    "low": _rounded(point.excess.low),
                    "high": _rounded(point.excess.high),
                    "error": round(point.error, 4),
                    "fresh error": round(point.fresh_error, 4),
                    "periods": point.periods,
                    "rows": point.rows,
                }
            )
            for point in curve.points
        ]
    )


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _verdict(window: FreshnessWindow | None, configured: timedelta | None) -> dg.AssetCheckResult:
    """Fails where the configured window is longer than the recommended one, as far as that is known."""
    if window is None or configured is None:
        reason = "no freshness window is configured" if window else "too little is evaluated"
        passed = True
    else:
        verdict = window.verdict(configured)
        passed = verdict != "longer"
        says = {"within": "is short enough", "longer": "is too long", "unknown": "can't be judged"}
        reason = f"the configured {configured.days} days {says[verdict]}: {window.reason}"
    return dg.AssetCheckResult(
        check_name=WINDOW_CHECK,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={"reason": reason},
    )
