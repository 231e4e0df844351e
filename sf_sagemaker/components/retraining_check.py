"""The check `retraining` of a model: whether what is due can be done without a person.

The sensor and the schedules that retrain a model report it when their answer changes, and once for each
cause, so that the asset's health says what else only the logs of their ticks would.
"""

from typing import Any

import dagster as dg

from sf_sagemaker.components.model_state import RetrainedModel, latest_verdict, newest_training
from sf_sagemaker.lifecycle.retraining import Decision, ModelState, Trigger
from sf_sagemaker.periods import Cadence

RETRAINING_CHECK = "retraining"


def retraining_check(assets: RetrainedModel, cadence: Cadence) -> dg.AssetChecksDefinition:
    """The check. When it is run, with a training or by hand, what was reported last still stands,
    unless a model was trained since."""

    @dg.asset_check(
        asset=assets.model,
        name=RETRAINING_CHECK,
        description=f"A retraining of {assets.name} that is due can be done. Reported by the sensor and "
        "the schedules that ask for it.",
    )
    def retraining(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        reported = latest_verdict(context.instance, _key(assets))
        trained = newest_training(context.instance, assets, cadence)
        if reported is None or reported.passed:
            return _result(True, "nothing that is due waits for a person")
        if trained is not None and _text(reported, "episode") != str(trained.storage_id):
            return _result(True, f"a model of {trained.partition} was trained since")
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=reported.description,
            metadata=reported.metadata,
        )

    return retraining


def report_decision(
    instance: dg.DagsterInstance,
    assets: RetrainedModel,
    state: ModelState,
    decision: Decision,
    trigger: Trigger,
) -> None:
    """Reports the check where the decision says something else than was reported last."""
    reported = latest_verdict(instance, _key(assets))
    if not _is_news(reported, state, decision, trigger):
        return
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=assets.model,
            check_name=RETRAINING_CHECK,
            passed=not decision.alert,
            severity=dg.AssetCheckSeverity.WARN,
            description=decision.reason,
            metadata={
                "reason": decision.reason,
                "causes": ", ".join(decision.causes) or "none",
                "landed": state.landed or "nothing",
                "episode": decision.episode,
                "asked_by": trigger,
            },
        )
    )


def _is_news(
    reported: dg.AssetCheckEvaluation | None,
    state: ModelState,
    decision: Decision,
    trigger: Trigger,
) -> bool:
    if reported is None or reported.passed:
        return decision.alert
    if not decision.alert:
        # What is in progress may end as what was reported; and the backstop leaves it to the sensor.
        return state.in_progress is None and trigger != "backstop"
    if reported.description == decision.reason:
        return False
    # The sensor asks often: what the backstop has found out stays until something new is known.
    stands = _text(reported, "asked_by") == "backstop" and trigger == "sensor"
    known = (_text(reported, "episode"), _text(reported, "landed"))
    return not stands or known != (decision.episode, state.landed)


def _key(assets: RetrainedModel) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(assets.model, RETRAINING_CHECK)


def _result(passed: bool, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={"reason": reason},
    )


def _text(verdict: dg.AssetCheckEvaluation, name: str) -> Any:
    value = verdict.metadata.get(name)
    return value.value if value is not None else None
