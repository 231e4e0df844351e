"""Evaluations in storage: committed or not there, never overwritten, the newest counts."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sf_sagemaker.lifecycle.evaluation import (
    CorruptEvaluation,
    Evaluation,
    LeftOut,
    PredictorScores,
    evaluations_of,
    read_evaluations,
    read_outcomes,
    write_evaluation,
)
from sf_sagemaker.lifecycle.intervals import Interval
from sf_sagemaker.lifecycle.outcomes import REFERENCE, Outcomes
from sf_sagemaker.storage import LocalStorage

NOON = datetime(2024, 2, 5, 12, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def scores(predictor: str = "job-1", error: float = 0.1) -> PredictorScores:
    return PredictorScores(
        predictor=predictor,
        partition="2024-01-22",
        age=1,
        warm_up=False,
        rows=3,
        unknown_class=1,
        error=Interval(error, 0.05, 0.2),
        bias=Interval(-0.01, -0.02, 0.02),
        not_finite=0,
    )


def evaluation(at: datetime = NOON, partition: str = "2024-01-29", **changes) -> Evaluation:
    values = {
        "model": "house_prices",
        "partition": partition,
        "evaluated_at": at,
        "metric": "mean_absolute_error",
        "key": "",
        "rows": 4,
        "scores": (scores(),),
    }
    return Evaluation(**(values | changes))


def outcomes(predicted: list) -> Outcomes:
    count = len(predicted)
    return Outcomes(
        rows=np.array([f"row-{number}" for number in range(count)]),
        splits=np.array(["train", "test", "train"][:count]),
        actual=np.arange(count, dtype=float),
        predicted=np.array(predicted, dtype=float),
    )


def test_an_evaluation_is_read_back_as_it_was_written(storage: LocalStorage):
    undefined = Interval(math.nan, math.nan, math.nan)
    reference = replace(scores(REFERENCE), partition=None, age=None, error=undefined)
    written = write_evaluation(
        storage,
        evaluation(
            scores=(scores(), reference),
            left_out=(LeftOut("job-0", "its artifact is gone"),),
            run_id="run",
        ),
        {},
    )
    (read,) = read_evaluations(storage, "house_prices")
    assert written.key == read.key == "evaluations/house_prices/2024-01-29/20240205T120000000000Z"
    assert math.isnan(read.scores[1].error.estimate)
    assert replace(read, scores=()) == replace(written, scores=())
    assert read.scores[0] == written.scores[0]
    assert replace(read.scores[1], error=None) == replace(reference, error=None)


def test_outcomes_are_read_by_predictor_and_in_their_shape(storage: LocalStorage):
    written = {
        "numbers": outcomes([1.5, math.nan, math.inf]),
        "probabilities": outcomes([[0.1, 0.2, 0.7], [1, 0, 0]]),
        "other": outcomes([[0.5, 0.5]]),
    }
    its = write_evaluation(storage, evaluation(), written)
    read = read_outcomes(storage, its, ["probabilities", "numbers", "nobody"])
    assert set(read) == {"numbers", "probabilities"}
    for predictor, found in read.items():
        for name in ("rows", "splits", "actual", "predicted"):
            np.testing.assert_array_equal(getattr(found, name), getattr(written[predictor], name))


def test_the_newest_evaluation_of_each_period_counts(storage: LocalStorage):
    first = write_evaluation(storage, evaluation(scores=(scores(error=1),)), {})
    other = write_evaluation(storage, evaluation(partition="2024-01-22"), {})
    second = write_evaluation(
        storage, evaluation(NOON + timedelta(days=1), scores=(scores(error=2),)), {}
    )
    assert read_evaluations(storage, "house_prices") == [other, second]
    assert evaluations_of(storage, "house_prices", "2024-01-29") == [first, second]
    assert read_evaluations(storage, "house") == []


@pytest.mark.parametrize("later", [timedelta(0), timedelta(hours=-3)])
def test_a_clock_that_was_put_back_does_not_hide_what_was_evaluated_last(
    storage: LocalStorage, later: timedelta
):
    first = write_evaluation(storage, evaluation(), {"job-1": outcomes([1.0])})
    second = write_evaluation(storage, evaluation(NOON + later), {"job-1": outcomes([2.0])})
    assert second.evaluated_at == first.evaluated_at + timedelta(microseconds=1)
    assert read_evaluations(storage, "house_prices") == [second]
    assert read_outcomes(storage, first, ["job-1"])["job-1"].predicted.tolist() == [1.0]


def test_times_are_filed_in_utc(storage: LocalStorage):
    written = write_evaluation(
        storage, evaluation(datetime(2024, 2, 5, 12, tzinfo=timezone(timedelta(hours=9)))), {}
    )
    assert written.key.endswith("/20240205T030000000000Z")


def test_an_evaluation_that_was_not_finished_is_none(storage: LocalStorage):
    storage.create(
        "evaluations/house_prices/2024-01-29/20240205T120000000000Z/outcomes.parquet", b""
    )
    assert read_evaluations(storage, "house_prices") == []
    written = write_evaluation(storage, evaluation(), {"job-1": outcomes([1.0])})
    assert read_evaluations(storage, "house_prices") == [written]
    assert len(read_outcomes(storage, written, ["job-1"])["job-1"]) == 1


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def overwritten(content: bytes) -> bytes:
    return content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :]


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, overwritten, empty])
def test_a_damaged_evaluation_is_named(storage: LocalStorage, damage: Callable[[bytes], bytes]):
    written = write_evaluation(storage, evaluation(), {"job-1": outcomes([1.0])})
    for name in ("scores.parquet", "outcomes.parquet"):
        file = storage.path(f"{written.key}/{name}")
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CorruptEvaluation, match=r"scores\.parquet is not an evaluation"):
        read_evaluations(storage, "house_prices")
    with pytest.raises(CorruptEvaluation, match=r"outcomes\.parquet holds no outcomes"):
        read_outcomes(storage, written, ["job-1"])


def test_another_kind_of_file_is_no_evaluation(storage: LocalStorage):
    written = write_evaluation(storage, evaluation(), {"job-1": outcomes([1.0])})
    for name in ("scores.parquet", "outcomes.parquet"):
        pq.write_table(pa.table({"sales": [1, 2]}), storage.path(f"{written.key}/{name}"))
    with pytest.raises(CorruptEvaluation, match=r"scores\.parquet is not an evaluation"):
        read_evaluations(storage, "house_prices")
    with pytest.raises(CorruptEvaluation, match=r"outcomes\.parquet holds no outcomes"):
        read_outcomes(storage, written, ["job-1"])


def test_evaluations_at_the_same_moment_are_all_kept(storage: LocalStorage):
    with ThreadPoolExecutor(8) as pool:
        written = list(
            pool.map(
                lambda number: write_evaluation(
                    storage, evaluation(rows=number), {"job-1": outcomes([number])}
                ),
                range(8),
            )
        )
    assert len({its.key for its in written}) == 8
    for its in written:
        assert read_outcomes(storage, its, ["job-1"])["job-1"].predicted.tolist() == [its.rows]
    found = evaluations_of(storage, "house_prices", "2024-01-29")
    assert sorted(its.rows for its in found) == list(range(8))


def test_a_folder_that_is_named_by_no_time_is_named(storage: LocalStorage):
    storage.create("evaluations/house_prices/2024-01-29/yesterday/scores.parquet", b"")
    with pytest.raises(CorruptEvaluation, match="yesterday doesn't belong there"):
        write_evaluation(storage, evaluation(), {})
