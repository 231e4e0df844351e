"""Evaluating a period: the models of earlier periods, and the reference, on its rows.

The reference is fitted to what was known when the period began, so that a period which is hard for
every model can be told from a model that has decayed.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.answers import NotAnswered
from sf_sagemaker.lifecycle.evaluation import (
    Evaluation,
    LeftOut,
    PredictorScores,
    write_evaluation,
)
from sf_sagemaker.lifecycle.evaluation_table import land_evaluations
from sf_sagemaker.lifecycle.intervals import bootstrap
from sf_sagemaker.lifecycle.labels import count_rows, known_labels
from sf_sagemaker.lifecycle.outcomes import (
    REFERENCE,
    UNKNOWN_CLASS,
    Measure,
    Outcomes,
    Predictor,
    Scorer,
)
from sf_sagemaker.lifecycle.predictions import StoredPredictions, read_predictions
from sf_sagemaker.lifecycle.registry import RegisteredModel, models_of
from sf_sagemaker.lifecycle.text_baselines import NoRows
from sf_sagemaker.periods import Cadence, Period, parse_length
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.errors import ArtifactCorrupt
from sf_sagemaker.training.platform import AnyPlatform, ArtifactMissing, JobNotFound
from sf_sagemaker.warehouse.dataset import DatasetSpec
from sf_sagemaker.warehouse.export import read_rows
from sf_sagemaker.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

# What keeps one predictor from being scored, and no other one.
UNUSABLE = (ContainerError, JobNotFound, ArtifactMissing, ArtifactCorrupt, NoRows, NotAnswered)


class OtherTarget(SfSagemakerError):
    """A model that was trained to predict something else than the model is configured for now."""


class Predictors:
    """Loads models by their training job, and holds as many of them as the scorer says.

    One for many periods spares a backfill from loading each model for every period. Threads may share
    it. A fine-tuned language model takes hundreds of megabytes.
    """

    def __init__(self, platform: AnyPlatform, scorer: Scorer) -> None:
        self.scorer = scorer
        self._platform = platform
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        self._lock = Lock()

    def load(self, training_job: str) -> Predictor:
        """The model of a training job.

        Raises JobNotFound, ArtifactMissing, ArtifactCorrupt, and what the scorer raises.
        """
        with self._lock:
            predictor = self._loaded.pop(training_job, None)
            if predictor is None:
                with tempfile.TemporaryDirectory() as scratch:
                    artifact = self._platform.fetch_artifact(training_job, Path(scratch))
                    predictor = self.scorer.load(artifact)
            self._loaded[training_job] = predictor
            while len(self._loaded) > self.scorer.held:
                self._loaded.popitem(last=False)
            return predictor


def evaluate_period(
    warehouse: Warehouse,
    storage: Storage,
    spec: DatasetSpec,
    cadence: Cadence,
    partition: str,
    predictors: Predictors,
    *,
    max_age: int,
    evaluated_at: datetime,
    known_by: datetime | None = None,
    from_predictions: bool = False,
    run_id: str | None = None,
) -> Evaluation:
    """Scores every registered model that is 1 to `max_age` periods old on the rows of a period.

    Only labels that were known by `known_by` count, all of them where it is None. The reference is
    fitted to the rows of the trailing window that ends where the period begins, with the labels known
    by then. With `from_predictions`, a model whose predictions of all these rows are stored is not asked
    again: what it said before the labels were known counts. A model that can't be scored is left out and
    named. The evaluation is committed in object storage, and then landed in the warehouse.
    `evaluated_at` is aware, `known_by` naive and in the
    cadence's time zone.

    Raises InvalidPeriod, CorruptEntry, CorruptEvaluation, and what reading rows and landing raise.
    """
    period = cadence.period(partition)
    # Before the rows are read: of labels that change meanwhile, this evaluation then counts as old.
    labels = known_labels(warehouse, spec, cadence, [period], known_by)[partition]
    rows = read_rows(
        warehouse, spec, period.start, period.end, known_by=known_by, timezone=cadence.timezone
    )
    there = count_rows(warehouse, spec, period, timezone=cadence.timezone)
    stored = read_predictions(warehouse, spec, period) if from_predictions else None
    candidates = _candidates(
        warehouse, storage, spec, cadence, period, predictors, max_age, rows, stored
    )
    outcomes: dict[str, Outcomes] = {}
    left_out: list[LeftOut] = []
    for candidate in candidates:
        try:
            outcomes[candidate.predictor] = (
                candidate.load().outcomes(rows) if rows.num_rows else _no_outcomes()
            )
        except (*UNUSABLE, OtherTarget) as error:
            left_out.append(LeftOut(candidate.predictor, str(error)))
    measure = predictors.scorer.measure
    scores = [
        _scores(candidate, outcomes, measure, spec.seed)
        for candidate in candidates
        if candidate.predictor in outcomes
    ]
    evaluation = write_evaluation(
        storage,
        Evaluation(
            model=spec.model,
            partition=partition,
            evaluated_at=evaluated_at,
            metric=measure.metric,
            key="",
            rows=rows.num_rows,
            scores=tuple(scores),
            left_out=tuple(left_out),
            run_id=run_id,
            known_by=known_by,
            unlabelled=max(0, there - rows.num_rows),
            labels_version=labels.version,
            labels_algorithm=labels.algorithm,
            from_predictions=max(
                (
                    len(outcomes[candidate.predictor])
                    for candidate in candidates
                    if candidate.stored and candidate.predictor in outcomes
                ),
                default=0,
            ),
        ),
        outcomes,
    )
    land_evaluations(warehouse, storage, spec.model, period)
    return evaluation


@dataclass(frozen=True)
class _Candidate:
    """A predictor to score; `load` gives it, or raises what `UNUSABLE` and OtherTarget say.

    `stored` says that it is known by the predictions that it made of the rows before.
    """

    predictor: str
    partition: str | None
    age: int | None
    warm_up: bool
    load: Callable[[], Predictor]
    stored: bool = False


def _candidates(
    warehouse: Warehouse,
    storage: Storage,
    spec: DatasetSpec,
    cadence: Cadence,
    period: Period,
    predictors: Predictors,
    max_age: int,
    rows: "pa.Table",
    stored: StoredPredictions | None,
) -> list[_Candidate]:
    """The models, youngest first, and the reference."""
    earlier = list(cadence.between(cadence.start, period.start))[-max_age:] if max_age else []

    def candidate(model: RegisteredModel, age: int) -> _Candidate:
        before = stored.predictor(model, rows) if stored else None

        def load() -> Predictor:
            _check_target(model, spec)
            return before or predictors.load(model.training_job)

        return _Candidate(
            model.training_job, model.partition, age, model.warm_up, load, before is not None
        )

    candidates = [
        candidate(model, age)
        for age, trained in enumerate(reversed(earlier), start=1)
        for model in models_of(storage, spec.model, trained.key)
    ]
    window = period.start - parse_length(spec.window)
    start = max(window, cadence.start)

    def fit_reference() -> Predictor:
        train = _known_rows(warehouse, spec, cadence, start, period.start)
        if not train.num_rows:
            raise NoRows(f"no row of the window before {period.start:%Y-%m-%d} had a label by then")
        return predictors.scorer.fit_reference(train)

    reference = _Candidate(REFERENCE, None, None, window < cadence.start, fit_reference)
    return [*candidates, reference]


def _known_rows(
    warehouse: Warehouse, spec: DatasetSpec, cadence: Cadence, start: datetime, end: datetime
) -> "pa.Table":
    return read_rows(warehouse, spec, start, end, known_by=end, timezone=cadence.timezone)


def _check_target(model: RegisteredModel, spec: DatasetSpec) -> None:
    found, expected = (model.target, model.target_kind), (spec.target.lower(), spec.target_kind)
    if found != expected:
        raise OtherTarget(
            f"{model.training_job} was trained to predict {found[0]!r} ({found[1]}), and "
            f"{spec.model} is configured for {expected[0]!r} ({expected[1]}): train it again"
        )


def _scores(
    candidate: _Candidate,
    outcomes: dict[str, Outcomes],
    measure: Measure,
    seed: int,
) -> PredictorScores:
    import numpy as np

    its = outcomes[candidate.predictor]
    reference = _aligned(outcomes.get(REFERENCE), its)
    finite = np.isfinite(its.predicted)
    if finite.ndim == 2:
        finite = finite.all(axis=1)
    return PredictorScores(
        predictor=candidate.predictor,
        partition=candidate.partition,
        age=candidate.age,
        warm_up=candidate.warm_up,
        rows=len(its),
        unknown_class=int((its.actual == UNKNOWN_CLASS).sum()) if measure.of_classes else 0,
        error=bootstrap(lambda chosen: measure.errors(its, chosen), len(its), seed=seed),
        bias=bootstrap(lambda chosen: measure.biases(its, reference, chosen), len(its), seed=seed),
        not_finite=int((~finite).sum()),
    )


def _aligned(reference: Outcomes | None, its: Outcomes) -> Outcomes:
    """The reference's outcomes on the same rows, with NaN predicted where it has none."""
    import numpy as np

    predicted = np.full(its.predicted.shape, np.nan)
    if reference is not None and reference.predicted.shape[1:] == its.predicted.shape[1:]:
        _, ours, theirs = np.intersect1d(its.rows, reference.rows, return_indices=True)
        predicted[ours] = reference.predicted[theirs]
    return Outcomes(its.rows, its.splits, its.actual, predicted)


def _no_outcomes() -> Outcomes:
    import numpy as np

    text = np.empty(0, dtype="<U1")
    return Outcomes(text, text, np.empty(0), np.empty(0))
