"""What jobs cost, by a price that is configured: at most, beforehand, and afterwards."""

from dataclasses import replace

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.training.job import Limits
from sf_sagemaker.training.platform import JobDescription

_HOUR = 3600.0  # seconds


class CostAboveMaximum(SfSagemakerError):
    """Jobs that could cost more than they may."""

    permanent = True


def highest_cost(limits: Limits, instance_count: int, jobs: int = 1) -> float | None:
    """What jobs cost if each uses all of its time; None without a price.

    Machines that are kept alive for a next job are billed too.
    """
    if limits.price_per_hour is None:
        return None
    seconds = limits.max_runtime.total_seconds()
    if limits.keep_alive is not None:
        seconds += limits.keep_alive.total_seconds()
    return limits.price_per_hour * instance_count * seconds / _HOUR * jobs


def check_cost(limits: Limits, instance_count: int, jobs: int = 1, *, spent: float = 0.0) -> None:
    """Raises CostAboveMaximum where jobs could cost more than `max_cost`, after what was `spent`."""
    cost = highest_cost(limits, instance_count, jobs)
    if cost is not None and limits.max_cost is not None and spent + cost > limits.max_cost:
        before = f", after the {spent:.2f} of attempts that failed" if spent else ""
        share = "the job's share of " if spent else ""
        settings = limits.settings
        remedies = [f"lower {settings}.max_runtime"]
        if instance_count > 1:
            remedies.append(f"lower {settings}.instance_count")
        if jobs > 1:
            remedies.append("build fewer partitions at once")
        raise CostAboveMaximum(
            f"{jobs} job{'s' if jobs > 1 else ''} of {instance_count} x "
            f"{limits.instance_type} for up to {limits.max_runtime} could cost {cost:.2f}{before}, "
            f"and {share}{settings}.max_cost is {limits.max_cost:.2f}: {', '.join(remedies)}, or raise "
            f"{settings}.max_cost"
        )


def share_of_cost(limits: Limits, instance_count: int, jobs: int) -> Limits:
    """The limits of one of a run's jobs, with its share of `max_cost`. Raises CostAboveMaximum."""
    check_cost(limits, instance_count, jobs)
    cost = highest_cost(limits, instance_count)
    if cost is None or limits.max_cost is None:
        return limits
    # Rounding must not leave a job less than it needs.
    return replace(limits, max_cost=max(cost, limits.max_cost / jobs))


def actual_cost(description: JobDescription, limits: Limits) -> float | None:
    """What an ended job cost; None without its billed time, or a price of its instance type.

    A job that was adopted may have run on other instances than are configured now.
    """
    if limits.price_per_hour is None or description.billable_seconds is None:
        return None
    if description.instance_type != limits.instance_type:
        return None
    hours = description.billable_seconds / _HOUR * description.instance_count
    return limits.price_per_hour * hours


def spot_saving(description: JobDescription) -> float | None:
    """The share of the time on spot instances that was not billed, from 0 to 1."""
    trained, billed = description.training_seconds, description.billable_seconds
    if not description.spot or not trained or billed is None:
        return None
    return max(0.0, 1 - billed / trained)
