"""The sensor `<model>_replay`: history, period by period, as if each had just ended."""

from datetime import UTC, datetime

import dagster as dg

from sf_sagemaker.components.model_state import RetrainedModel, read_state
from sf_sagemaker.lifecycle.retraining import RetrainingPolicy, decide
from sf_sagemaker.periods import Cadence, Period

_SECONDS = 5  # the least time between two ticks


def replay_sensor(
    assets: RetrainedModel,
    *,
    job_name: str,
    cadence: Cadence,
    policy: RetrainingPolicy | None,
) -> dg.SensorDefinition:
    """Launches the job for the next period at each tick, once all that the one before led to is done.

    `policy` is that of automatic retraining, which goes first; None where there is none. What ages by
    the clock doesn't age in a replay: freshness windows have no part in it, decay does.
    """

    @dg.sensor(
        name=f"{assets.name}_replay",
        job_name=job_name,
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Off unless you turn it on: lands the next historical period at each tick and "
        f"evaluates {assets.name} on it, so that decay, retraining and promotion can be watched. "
        "Freshness is by the clock, and doesn't age in it.",
    )
    def replay(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        repository = context.repository_def
        if repository is None:
            raise dg.DagsterInvariantViolationError("a sensor of a code location has a repository")
        state = read_state(context.instance, repository, assets, cadence, datetime.now(UTC))
        if state.in_progress is not None:
            return dg.SkipReason(f"{state.in_progress} is in progress")
        if policy is not None:
            decision = decide(state, policy, "sensor")
            if decision.partition is not None:
                return dg.SkipReason(f"a retraining for {decision.partition} is {decision.reason}")
        period = _next(cadence, state.landed)
        if period is None:
            return dg.SkipReason(f"the last period, {state.landed}, has landed")
        # A period that fails is not tried again and again: whoever mends it launches it.
        return dg.RunRequest(run_key=period.key, partition_key=period.key)

    return replay


def _next(cadence: Cadence, landed: str | None) -> Period | None:
    if landed is None:
        return cadence.containing(cadence.start)
    return cadence.following(cadence.period(landed))
