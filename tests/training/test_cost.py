from datetime import UTC, datetime, timedelta

import pytest

from sf_sagemaker.training.cost import (
    CostAboveMaximum,
    actual_cost,
    check_cost,
    highest_cost,
    share_of_cost,
    spot_saving,
)
from sf_sagemaker.training.job import Limits
from sf_sagemaker.training.platform import JobDescription, JobStatus

LIMITS = Limits(price_per_hour=0.5, max_cost=3.0, max_runtime=timedelta(hours=2))


def test_the_highest_cost_counts_all_hosts_all_time_and_warm_pools() -> None:
    assert highest_cost(LIMITS, 3) == 3.0
    warm = Limits(price_per_hour=0.5, max_runtime=timedelta(hours=2), keep_alive=timedelta(hours=1))
    assert highest_cost(warm, 3) == 4.5
    assert highest_cost(Limits(), 3) is None


def test_a_run_is_bounded_as_a_whole() -> None:
    check_cost(LIMITS, 1, jobs=3)
    with pytest.raises(CostAboveMaximum, match=r"4 jobs of 1 x .* could cost 4.00.* is 3.00"):
        check_cost(LIMITS, 1, jobs=4)
    check_cost(Limits(price_per_hour=100.0), 1, jobs=1000)  # no maximum was set


def test_a_job_of_many_has_its_share_for_all_of_its_attempts() -> None:
    limits = Limits(price_per_hour=0.5, max_cost=8.0, max_runtime=timedelta(hours=2))
    share = share_of_cost(limits, 2, jobs=3)
    assert share.max_cost == pytest.approx(8 / 3)
    check_cost(share, 2, spent=0.6)
    with pytest.raises(CostAboveMaximum, match=r"could cost 2.00, after the 0.70 of attempts"):
        check_cost(share, 2, spent=0.7)
    with pytest.raises(CostAboveMaximum):
        share_of_cost(limits, 2, jobs=5)
    third = Limits(price_per_hour=0.1, max_cost=0.1 * 3, max_runtime=timedelta(hours=1))
    check_cost(share_of_cost(third, 1, jobs=3), 1)  # whatever the rounding


def described(**changes: object) -> JobDescription:
    now = datetime.now(UTC)
    fields = {"instance_type": LIMITS.instance_type, "instance_count": 2, **changes}
    return JobDescription("job", JobStatus.COMPLETED, "Completed", now, **fields)  # type: ignore[arg-type]


def test_what_was_billed_is_what_it_cost() -> None:
    assert actual_cost(described(billable_seconds=1800), LIMITS) == 0.5
    assert actual_cost(described(), LIMITS) is None
    other = described(billable_seconds=1800, instance_type="ml.c5.large")
    assert actual_cost(other, LIMITS) is None
    assert spot_saving(described(spot=True, training_seconds=100, billable_seconds=30)) == 0.7
    assert spot_saving(described(training_seconds=100, billable_seconds=100)) is None
