"""Labels that come late or are corrected: what is known of a period by some moment, and which evaluations
rest on something else.

A label is known when its `label_delay` has passed, or at its `available_at`. Evaluated at its end, a
period has only those labels that were known by then. A label may also be corrected later, or its row
may arrive later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sf_sagemaker.lifecycle.evaluation import Evaluation, read_evaluations
from sf_sagemaker.periods import Cadence, InvalidPeriod, Period
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.selection import RowSums, select_rows, sums_by_period
from sf_sagemaker.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class KnownLabels:
    """The labels of a period that were known by some moment: how many, and a version that differs as
    soon as one of them does. `algorithm` computed the version."""

    rows: int
    algorithm: str
    version: str

    def differ(self, evaluation: Evaluation) -> bool:
        """Whether an evaluation rests on other labels. Of another algorithm's, only their number tells."""
        if evaluation.labels_algorithm != self.algorithm:
            return evaluation.rows != self.rows
        return evaluation.labels_version != self.version


def periods_to_evaluate_again(
    warehouse: Warehouse, storage: Storage, spec: DatasetSpec, cadence: Cadence, known_by: datetime
) -> list[str]:
    """The evaluated periods before a moment that have other labels by then, in order.

    `known_by` is naive, in the cadence's time zone.

    Raises CorruptEvaluation, and what `known_labels` raises.
    """
    evaluated = {
        period: evaluation
        for evaluation in read_evaluations(storage, spec.model)
        if (period := _period(cadence, evaluation)) is not None and period.start < known_by
    }
    if not evaluated:
        return []
    known = known_labels(warehouse, spec, cadence, list(evaluated), known_by)
    return [
        period.key
        for period, evaluation in sorted(evaluated.items())
        if known[period.key].differ(evaluation)
    ]


def known_labels(
    warehouse: Warehouse,
    spec: DatasetSpec,
    cadence: Cadence,
    periods: Sequence[Period],
    known_by: datetime | None = None,
) -> dict[str, KnownLabels]:
    """The labels of periods that were known by a moment, or all there are, by partition; in one scan.

    `periods` are one at least. Raises what `select_rows` raises, and what sessions of the warehouse
    raise.
    """
    with warehouse.reading() as session:
        selection = select_rows(session, spec, cadence.timezone)
        start, end = min(it.start for it in periods), max(it.end for it in periods)
        conditions = [selection.in_interval(start, end), selection.labelled()]
        if known_by is not None:
            conditions.append(selection.known_by(known_by))
        rows = selection.rows(" and ".join(conditions), sampled=False)
        labels = (*spec.row_key, spec.target)
        days = session.rows(selection.sums_by_day(f"({rows}) as labelled", labels))
        algorithm = session.dialect.fingerprint_algorithm
    sums = sums_by_period(days, cadence)
    return {
        period.key: KnownLabels(its.rows, algorithm, its.fingerprint(algorithm).value)
        for period in periods
        for its in [sums.get(period.key, RowSums())]
    }


def count_rows(
    warehouse: Warehouse, spec: DatasetSpec, period: Period, *, timezone: str = "UTC"
) -> int:
    """The rows of a period, with a label or without. Raises as `known_labels`."""
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
