"""What the champion asset and its checks show: the decision, the decay series, the drift of inputs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from sf_sagemaker.components import lifecycle_plots
from sf_sagemaker.components.figures import defined, rounded
from sf_sagemaker.components.model_state import DECAY_CHECK
from sf_sagemaker.lifecycle.champions import Champion
from sf_sagemaker.lifecycle.decay import DecayLimits, DecayPoint
from sf_sagemaker.lifecycle.drift import InputDrift
from sf_sagemaker.lifecycle.promotion import Consideration, Standing
from sf_sagemaker.periods import Cadence
from sf_sagemaker.storage import Storage

DRIFT_CHECK = "input_drift"
COMPARISON_CHECK = "comparison"
EVALUATED_CHECK = "evaluated"


def decision_text(considered: Consideration) -> str:
    """What became of a challenger, for the run's log."""
    verb = {"promote": "takes over", "keep": "does not take over", "confirm": "waits"}
    decision = considered.decision
    return f"{considered.challenger.training_job} {verb[decision.kind]}: {decision.reason}"


def champion_metadata(
    result: Standing, cadence: Cadence, plot: dg.MarkdownMetadataValue | None, storage: Storage
) -> dict[str, Any]:
    """The champion's metadata, with the plot of its decay; without a champion, why there is none."""
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
        metadata |= defined(
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
        }
    return metadata if plot is None else {**metadata, "decay": plot}


def _points(series: Sequence[DecayPoint]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "period": point.partition,
                    "version": point.version,
                    "rows": point.rows,
                    "error": rounded(point.error),
                    "reference_error": rounded(point.reference_error),
                    "bias": rounded(point.bias.estimate),
                    "excess": rounded(point.excess.estimate),
                    "state": point.state,
                }
            )
            for point in series
        ]
    )


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


def decay_result(
    result: Standing, limits: DecayLimits, metric: str, plot: dg.MarkdownMetadataValue | None
) -> dg.AssetCheckResult:
    """Fails for a champion that has decayed, also where nothing newer is known of it.

    Without a verdict it passes otherwise, and says so.
    """
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
        metadata |= defined(
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
    if plot is not None:
        metadata["plot"] = plot
    return dg.AssetCheckResult(
        check_name=DECAY_CHECK,
        passed=point is None or not point.causes,
        description=reason,
        metadata=metadata,
    )


def evaluated_result(result: Standing, cadence: Cadence, max_age: int) -> dg.AssetCheckResult:
    """A warning where the newest evaluation since the champion is in force has no scores of it.

    There is no new verdict on its decay then, however wrong it is. `max_age` is the evaluation's, in periods.
    """
    passed, reason = _evaluated(result, cadence, max_age)
    return dg.AssetCheckResult(
        check_name=EVALUATED_CHECK,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={"reason": reason, "max_age": max_age},
    )


def _evaluated(result: Standing, cadence: Cadence, max_age: int) -> tuple[bool, str]:
    now = result.champion
    if now is None:
        return True, "there is no champion yet"
    since = [one for one in result.evaluations if one.rows and one.partition >= now.in_force_from]
    if not since:
        return True, "the champion has not been in force in any evaluated period yet"
    newest = since[-1]
    if any(scores.predictor == now.training_job for scores in newest.scores):
        return True, f"the evaluation of {newest.partition} has scores of {now.training_job}"
    missing = (
        f"the evaluation of {newest.partition} has no scores of {now.training_job}, so that its decay "
        "can't be seen"
    )
    for left_out in newest.left_out:
        if left_out.predictor == now.training_job:
            return False, f"{missing}: it was left out. {left_out.reason}"
    trained, evaluated = cadence.period(now.partition), cadence.period(newest.partition)
    age = sum(1 for _ in cadence.between(trained.end, evaluated.end))
    if age > max_age:
        return False, (
            f"{missing}: it was {age} periods old, and evaluation.max_age is {max_age} periods. Train "
            "another model, or raise evaluation.max_age and evaluate the period again"
        )
    return False, f"{missing}: it was registered later. Evaluate the period again"


def comparison_result(considered: Consideration | None) -> dg.AssetCheckResult:
    """A warning where the challenger was not compared: retraining is in vain until that is mended."""
    reason = considered.decision.reason if considered else "there is no challenger"
    return dg.AssetCheckResult(
        check_name=COMPARISON_CHECK,
        passed=considered is None or not considered.incomparable,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={
            "decision": considered.decision.kind if considered else "none",
            "reason": reason,
            **({"challenger": considered.challenger.training_job} if considered else {}),
        },
    )


def drift_result(drift: InputDrift | None) -> dg.AssetCheckResult:
    """A warning where features have drifted; without a champion there is no verdict."""
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
