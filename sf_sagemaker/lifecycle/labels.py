"""Late labels: how many rows of a period have one by some moment, and which evaluations lack some.

A label is known when its `label_delay` has passed, or at its `available_at`. Evaluated at its end, a
period has only those labels that were known by then.
"""

from datetime import datetime

from sf_sagemaker.lifecycle.evaluation import Evaluation, read_evaluations
from sf_sagemaker.periods import Cadence, InvalidPeriod, Period
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.selection import select_rows
from sf_sagemaker.warehouse.warehouse import Warehouse, quote


def periods_to_evaluate_again(
    warehouse: Warehouse, storage: Storage, spec: DatasetSpec, cadence: Cadence, known_by: datetime
) -> list[str]:
    """The evaluated periods before a moment that have another number of labels by then, in order.

    None where labels are known at once. `known_by` is naive, in the cadence's time zone.

    Raises CorruptEvaluation, and what `count_labelled` raises.
    """
    if spec.available_at is None and not spec.label_delay:
        return []
    evaluated = {
        period: evaluation
        for evaluation in read_evaluations(storage, spec.model)
        if (period := _period(cadence, evaluation)) is not None and period.start < known_by
    }
    if not evaluated:
        return []
    labelled = count_labelled(warehouse, spec, cadence, min(evaluated).start, known_by, known_by)
    return [
        period.key
        for period, evaluation in sorted(evaluated.items())
        if labelled.get(period.key, 0) != evaluation.rows
    ]


def count_labelled(
    warehouse: Warehouse,
    spec: DatasetSpec,
    cadence: Cadence,
    start: datetime,
    end: datetime,
    known_by: datetime,
) -> dict[str, int]:
    """Rows of events in [start, end) whose label was known by a moment, by partition.

    Raises what `select_rows` raises, and what sessions of the warehouse raise.
    """
    with warehouse.reading() as session:
        selection = select_rows(session, spec, cadence.timezone)
        conditions = (
            selection.in_interval(start, end),
            selection.labelled(),
            selection.known_by(known_by),
        )
        rows = selection.rows(" and ".join(conditions), sampled=False)
        day = f"cast({quote(spec.event_time.lower())} as {session.dialect.date})"
        days = session.rows(f"select {day}, count(*) from ({rows}) as labelled group by 1")
    counts: dict[str, int] = {}
    for day, count in days:  # a day belongs to one period: they begin at midnight
        period = cadence.containing(datetime(day.year, day.month, day.day))
        if period is not None:
            counts[period.key] = counts.get(period.key, 0) + int(count)
    return counts


def count_rows(
    warehouse: Warehouse, spec: DatasetSpec, period: Period, *, timezone: str = "UTC"
) -> int:
    """The rows of a period, with a label or without. Raises as `count_labelled`."""
    with warehouse.reading() as session:
        selection = select_rows(session, spec, timezone)
        rows = selection.rows(selection.in_interval(period.start, period.end), sampled=False)
        return int(session.rows(f"select count(*) from ({rows}) as present")[0][0])


def _period(cadence: Cadence, evaluation: Evaluation) -> Period | None:
    """The period of an evaluation; None for one of an earlier definition of the periods."""
    try:
        return cadence.period(evaluation.partition)
    except InvalidPeriod:
        return None
