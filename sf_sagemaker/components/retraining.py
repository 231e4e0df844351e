"""What retrains a model by itself: a sensor, and a schedule that asks the same question.

The state of a model is read from Dagster's instance: materializations, checks, runs and backfills.
The decision is sf_sagemaker.lifecycle.retraining's. Nothing else is stored: which episode was asked
for, with which code, and why, are tags of the runs.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from sf_sagemaker.components.attributes import Freshness, Retraining
from sf_sagemaker.components.model_state import (
    CODE_TAG,
    EPISODE_TAG,
    MAX_RETRIES_TAG,
    RetrainedModel,
    code_tag,
    episode_tag,
    read_state,
)
from sf_sagemaker.components.retraining_check import report_decision, retraining_check
from sf_sagemaker.lifecycle.retraining import (
    Decision,
    RetrainingPolicy,
    Trigger,
    decide,
)
from sf_sagemaker.periods import Cadence, parse_length

CAUSE_TAG = "sf_sagemaker/cause"


def retraining_definitions(
    assets: RetrainedModel,
    *,
    cadence: Cadence,
    window: str,
    freshness: Freshness | None,
    retraining: Retraining,
    tags: Mapping[str, str] | None = None,
) -> dg.Definitions:
    """The sensor `<model>_retraining` with its backstop, or the schedule of that name, or nothing.

    Where something asks, the model has the check `retraining`, which says what a person has to do.
    `window` is the length of the model's datasets. Which blocking checks the source has, and which
    code versions dataset and model, is read from the code location when it is asked.
    """
    if retraining.mode == "manual":
        return dg.Definitions()
    policy = retraining_policy(cadence, window, freshness, retraining)
    name = f"{assets.name}_retraining"
    target = dg.AssetSelection.assets(*assets.built)
    check = retraining_check(assets, cadence)

    def ask(context: Any, trigger: Trigger) -> dg.RunRequest | dg.SkipReason:
        state = read_state(
            context.instance, context.repository_def, assets, cadence, datetime.now(UTC)
        )
        decision = decide(state, policy, trigger)
        if decision.alert:
            context.log.warning(f"{assets.name}: {decision.reason}")
        report_decision(context.instance, assets, state, decision, trigger)
        if decision.partition is None:
            return dg.SkipReason(decision.reason)
        code = code_tag(context.repository_def, assets)
        return _request(assets, decision, trigger, code, retraining.max_retries, tags or {})

    @dg.schedule(
        name=name if retraining.mode == "schedule" else f"{name}_backstop",
        cron_schedule=retraining.schedule,
        execution_timezone=cadence.timezone,
        target=target,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Retrains {assets.name} for the newest landed period."
        if retraining.mode == "schedule"
        else f"Asks again for a retraining of {assets.name} whose runs all failed.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return ask(context, "schedule" if retraining.mode == "schedule" else "backstop")

    if retraining.mode == "schedule":
        return dg.Definitions(schedules=[schedule], asset_checks=[check])

    @dg.sensor(
        name=name,
        target=target,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Retrains {assets.name} for the newest landed period when it is stale or decayed, "
        "or when its code or configuration changed: once each time.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return ask(context, "sensor")

    return dg.Definitions(sensors=[sensor], schedules=[schedule], asset_checks=[check])


def retraining_policy(
    cadence: Cadence, window: str, freshness: Freshness | None, retraining: Retraining
) -> RetrainingPolicy:
    """The attributes as the decision takes them; `window` is the length of the model's datasets."""
    return RetrainingPolicy(
        cadence=cadence,
        window=parse_length(window),
        fail_window=freshness.window() if freshness else None,
        cool_down=retraining.cool_down,
        max_requests=retraining.max_requests,
    )


def _request(
    assets: RetrainedModel,
    decision: Decision,
    trigger: Trigger,
    code: str,
    max_retries: int,
    tags: Mapping[str, str],
) -> dg.RunRequest:
    episode = episode_tag(assets, decision.episode)
    return dg.RunRequest(
        # Dagster keeps a key of the sensor from ever making a second run, whatever is interrupted.
        run_key=episode if trigger == "sensor" else None,
        asset_selection=assets.built,
        partition_key=decision.partition,
        tags={
            **tags,
            CAUSE_TAG: ", ".join(decision.causes),
            EPISODE_TAG: episode,
            CODE_TAG: code,
            MAX_RETRIES_TAG: str(max_retries),
        },
    )
