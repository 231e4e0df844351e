"""What the check `evaluated` of a champion says, without a run."""

from datetime import UTC, date, datetime, timedelta

import pytest

from sf_sagemaker.components.champion_report import evaluated_result
from sf_sagemaker.lifecycle.champions import Champion
from sf_sagemaker.lifecycle.evaluation import Evaluation, LeftOut, PredictorScores
from sf_sagemaker.lifecycle.intervals import Interval
from sf_sagemaker.lifecycle.promotion import Standing
from sf_sagemaker.periods import Cadence

CADENCE = Cadence("week", datetime(2024, 1, 1))
WEEKS = [f"{date(2024, 1, 1) + timedelta(weeks=week)}" for week in range(12)]
MAX_AGE = 5


def champion(in_force_from: int) -> Champion:
    return Champion(
        version=1,
        model="prices",
        partition=WEEKS[0],
        training_job="job",
        in_force_from=WEEKS[in_force_from],
        promoted_at="2026-01-01T00:00:00+00:00",
        kind="first",
        reason="the first",
        figures={},
    )


def evaluation(week: int, *predictors: str, rows: int = 100, lost: str | None = None) -> Evaluation:
    interval = Interval(0.1, 0.1, 0.1)
    return Evaluation(
        model="prices",
        partition=WEEKS[week],
        evaluated_at=datetime(2026, 1, 1, tzinfo=UTC),
        metric="mean_absolute_error",
        key="",
        rows=rows,
        scores=tuple(
            PredictorScores(name, None, None, False, rows, 0, interval, interval)
            for name in predictors
        ),
        left_out=(LeftOut("job", lost),) if lost else (),
    )


@pytest.mark.parametrize(
    ("evaluations", "passed", "says"),
    [
        ([], True, "not been in force in any evaluated period yet"),
        ([evaluation(1)], True, "not been in force in any evaluated period yet"),
        ([evaluation(2, "job")], True, f"the evaluation of {WEEKS[2]} has scores of job"),
        (
            [evaluation(5, "job"), evaluation(6, rows=0)],
            True,
            f"evaluation of {WEEKS[5]} has scores",
        ),
        ([evaluation(2), evaluation(3, "job")], True, f"evaluation of {WEEKS[3]} has scores"),
        ([evaluation(3, "other")], False, "it was registered later. Evaluate the period again"),
        ([evaluation(5)], False, "it was registered later"),
        (
            [evaluation(6)],
            False,
            "it was 6 periods old, and evaluation.max_age is 5 periods. Train",
        ),
        ([evaluation(3, lost="its file is gone")], False, "it was left out. its file is gone"),
        ([evaluation(9, lost="its file is gone")], False, "it was left out. its file is gone"),
    ],
)
def test_without_scores_of_the_champion_there_is_a_warning_with_the_reason(
    evaluations: list[Evaluation], passed: bool, says: str
) -> None:
    standing = Standing([champion(2)], [], WEEKS[9], evaluations, [])
    result = evaluated_result(standing, CADENCE, MAX_AGE)
    assert (result.passed, result.severity.name) == (passed, "WARN")
    assert says in (result.description or "")
    assert ("its decay can't be seen" in (result.description or "")) == (not passed)
