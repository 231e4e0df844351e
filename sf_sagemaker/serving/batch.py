"""The role that turns the rows of a period into predictions: in this process, or in jobs elsewhere.

Rows are read and predictions are given in parts, so that memory doesn't grow with the period.
"""

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from sf_sagemaker.periods import Cadence, Period
from sf_sagemaker.serving.endpoint import FetchArtifact, ServedModel
from sf_sagemaker.training.job import Limits
from sf_sagemaker.training.platform import JobDescription, LogLine
from sf_sagemaker.training.run import JobResult
from sf_sagemaker.warehouse.catalog import pinned
from sf_sagemaker.warehouse.dataset import DatasetSpec, Fingerprint
from sf_sagemaker.warehouse.selection import Selection, row_sums, select_rows
from sf_sagemaker.warehouse.warehouse import Session, Warehouse, quote

if TYPE_CHECKING:
    import pyarrow as pa

    from sf_sagemaker.containers.llm.model import LanguageModel
    from sf_sagemaker.containers.xgboost.model import XGBoostModel

_PROMPTS = 16  # that a language model answers at once
_MOST_THREADS = 8  # beyond, reading and writing take longer than predicting
_STAGED = '"__rows"'

# The predictions for some rows, and their probabilities where there are any.
Predict = Callable[["pa.Table"], tuple["pa.Array", "pa.Array | None"]]


@dataclass(frozen=True)
class StagedRows:
    """The rows of a period, held still in a temporary table, as long as their session is open."""

    session: Session
    columns: tuple[str, ...]
    rows: int
    fingerprint: Fingerprint

    def batches(self, rows: int) -> Iterator["pa.RecordBatch"]:
        """The rows in parts of up to `rows`."""
        return self.session.batches(f"select {_listed(self.columns)} from {_STAGED}", rows)


@dataclass(frozen=True)
class PeriodRows:
    """The rows whose event lies in a period, labelled or not; read when they are asked for.

    `kept` are the columns that say which row it is, `features` those that the model needs.
    """

    warehouse: Warehouse
    spec: DatasetSpec
    cadence: Cadence
    period: Period
    kept: tuple[str, ...]
    features: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.kept, *self.features)))

    def count(self) -> int:
        """How many there are. Raises what `select_rows` raises."""
        with self.warehouse.reading() as session:
            query = self._query(self._selection(session))
            return int(session.rows(f"select count(*) from ({query}) as present")[0][0])

    def batches(self, rows: int) -> Iterator["pa.RecordBatch"]:
        """The rows in parts of up to `rows`. Raises what `select_rows` raises."""
        with self.warehouse.reading() as session:
            query = self._query(self._selection(session))
            names = _listed(self.columns)
            yield from session.batches(f"select {names} from ({query}) as present", rows)

    @contextmanager
    def staged(self) -> Iterator[StagedRows]:
        """The rows as they are now, so that their fingerprint is of what is read afterwards.

        Raises what `select_rows` raises.
        """
        with self.warehouse.reading() as session, session.snapshot():
            selection = self._selection(session)
            query = self._query(replace(selection, table=pinned(session, selection.table)))
            session.execute(
                f"create temporary table {_STAGED} as "
                f"select {_listed(self.columns)} from ({query}) as present"
            )
            sums = row_sums(session, _STAGED, self.columns)
            fingerprint = sums.fingerprint(session.dialect.fingerprint_algorithm)
            yield StagedRows(session, self.columns, sums.rows, fingerprint)

    def _selection(self, session: Session) -> Selection:
        return select_rows(session, self.spec, self.cadence.timezone, self.features)

    def _query(self, selection: Selection) -> str:
        in_period = selection.in_interval(self.period.start, self.period.end)
        return selection.rows(in_period, sampled=False)


@dataclass(frozen=True)
class ScoredRows:
    """Some rows, by their kept columns, with the prediction of each, and its probability if it has one."""

    kept: "pa.Table"
    prediction: "pa.Array"
    probability: "pa.Array | None"


@dataclass(frozen=True)
class Scores:
    """The predictions of a period, in parts. `job` is the one that made them, where there was one."""

    parts: Iterator[ScoredRows]
    job: JobResult | None = None

    @property
    def predicted_at(self) -> datetime | None:
        """When the job ended; None where there is none."""
        return self.job.description.ended_at if self.job else None


@dataclass(frozen=True)
class TransformOptions:
    """How periods of at least `min_rows` rows are scored by a batch transform job, where there are any.

    `max_concurrent` requests of up to `max_payload_mb` are under way on an instance at a time. `image`
    is an inference image in place of SageMaker's own. Of `limits`, instances, time and money count:
    `max_cost` is what a period may cost, all attempts together.
    """

    min_rows: int
    limits: Limits
    instance_count: int = 1
    max_concurrent: int = 4
    max_payload_mb: int = 4
    image: str | None = None


class JobHold(Protocol):
    """What waits for a job on somebody's behalf, as training.holding.RunHold does for a run."""

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags that a job of its has."""
        ...

    def check(self) -> None:
        """Raises where no job should be started any more."""
        ...

    def take(self, name: str) -> None:
        """Is told the name of a job before it is created or waited for."""
        ...

    def report(self, description: JobDescription) -> None:
        """Is told each change of the job's state."""
        ...

    def log(self, line: LogLine) -> None:
        """Is told each line of the job's log."""
        ...

    def pause(self, seconds: float) -> None:
        """Waits; may raise, to interrupt the wait."""
        ...

    def nobody_wants(self, name: str) -> bool:
        """Whether a job whose wait is interrupted should be stopped."""
        ...


class NoHold:
    """Waits on nobody's behalf: an interruption leaves the job for the next one who asks."""

    tags: Mapping[str, str] = MappingProxyType({})

    def check(self) -> None:
        pass

    def take(self, name: str) -> None:
        pass

    def report(self, description: JobDescription) -> None:
        pass

    def log(self, line: LogLine) -> None:
        pass

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def nobody_wants(self, name: str) -> bool:
        return False


class BatchScoring(Protocol):
    """Scores the rows of a period by a model."""

    def score(
        self,
        rows: PeriodRows,
        model: ServedModel,
        *,
        batch_rows: int,
        transform: TransformOptions | None,
        hold: JobHold,
    ) -> AbstractContextManager[Scores]:
        """The predictions of all rows, read within the context, `batch_rows` in memory at a time.

        Raises what fetching and loading the model raise; what `select_rows` raises where the source
        lacks a column that the model needs; and what a job's life raises.
        """
        ...


class LocalBatchScoring:
    """Scores in this process, vectorised; transform options have no effect."""

    def __init__(self, fetch_artifact: FetchArtifact) -> None:
        self._fetch_artifact = fetch_artifact

    @contextmanager
    def score(
        self,
        rows: PeriodRows,
        model: ServedModel,
        *,
        batch_rows: int,
        transform: TransformOptions | None,
        hold: JobHold,
    ) -> Iterator[Scores]:
        with tempfile.TemporaryDirectory() as scratch:
            artifact = self._fetch_artifact(model.training_job, Path(scratch))
            if model.program == "llm":  # uses every core for a batch
                parts = _scored(rows, _answering(artifact), batch_rows, threads=1)
            else:
                threads = min(os.cpu_count() or 1, _MOST_THREADS)
                parts = _scored(rows, _boosted(artifact), batch_rows, threads)
            yield Scores(parts)


def _scored(
    rows: PeriodRows, predict: Predict, batch_rows: int, threads: int
) -> Iterator[ScoredRows]:
    """The rows in their order, each thread predicting a batch of its own.

    That takes less time than several threads on one batch, which wait for one another at its end, and
    reading and writing go on meanwhile.
    """
    import pyarrow as pa

    def score(batch: "pa.RecordBatch") -> ScoredRows:
        table = pa.Table.from_batches([batch])
        return ScoredRows(table.select(list(rows.kept)), *predict(table))

    with ThreadPoolExecutor(threads, thread_name_prefix="predict") as pool:
        waiting: deque[Future[ScoredRows]] = deque()
        for batch in rows.batches(-(-batch_rows // threads)):
            if batch.num_rows:
                waiting.append(pool.submit(score, batch))
            # One more than is predicted, so that no thread waits for a batch to be read.
            if len(waiting) > threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _listed(columns: tuple[str, ...]) -> str:
    return ", ".join(quote(name) for name in columns)


def _boosted(artifact: Path) -> Predict:
    import pyarrow as pa

    from sf_sagemaker.containers.serving.xgboost_handler import likeliest
    from sf_sagemaker.containers.xgboost.model import load_model

    model: XGBoostModel = load_model(artifact)
    model.booster.set_param({"nthread": 1})  # for each of the threads that predict
    classes = model.card.target.classes

    def predict(rows: "pa.Table") -> tuple["pa.Array", "pa.Array | None"]:
        predicted = model.predict(rows)
        if classes is None:
            return pa.array(predicted), None
        likely, probability, _ = likeliest(predicted)
        return pa.array(classes, pa.string()).take(pa.array(likely)), pa.array(probability)

    return predict


def _answering(artifact: Path) -> Predict:
    import pyarrow as pa

    from sf_sagemaker.containers.llm.model import load_model

    model: LanguageModel = load_model(artifact)
    answers = model.card.answers

    def predict(rows: "pa.Table") -> tuple["pa.Array", "pa.Array | None"]:
        prompts = [(text or "").strip() for text in rows["prompt"].to_pylist()]
        if not answers:
            starts = range(0, len(prompts), _PROMPTS)
            written = [text for i in starts for text in model.generate(prompts[i : i + _PROMPTS])]
            return pa.array(written, pa.string()), None
        probabilities = model.answer_probabilities(prompts)
        likely = pa.array(answers, pa.string()).take(pa.array(probabilities.argmax(axis=1)))
        return likely, pa.array(probabilities.max(axis=1))

    return predict
