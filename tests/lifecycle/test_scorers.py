"""Kinds of models under evaluation: their outcomes, and the references that are fitted beside them."""

import math
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sf_sagemaker.containers.xgboost.features import InvalidColumn
from sf_sagemaker.lifecycle.outcomes import UNKNOWN_CLASS
from sf_sagemaker.lifecycle.scorers import (
    LanguageModelScorer,
    XGBoostScorer,
    feature_names,
    row_digests,
)
from sf_sagemaker.lifecycle.text_baselines import NoRows, fit_word_model, score_answers
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation
from tiny_language_model import make_tiny_language_model


def spec(**changes: Any) -> DatasetSpec:
    values: dict[str, Any] = {
        "model": "house_prices",
        "source": Relation(name="sales"),
        "row_key": ("sale_id",),
        "split_key": ("sale_id",),
        "event_time": "sold_on",
        "target": "price",
        "window": "3 weeks",
    }
    return DatasetSpec(**(values | changes))


def houses(count: int = 400, *, start: int = 0, **columns: Any) -> pa.Table:
    """Sales of which rooms and area, with some values missing, decide the price."""
    numbers = np.arange(start, start + count)
    rooms = np.where(numbers % 11 == 0, np.nan, 1.0 + numbers % 5)
    areas = [[None, "north", "south", "west"][number % 4] for number in numbers]
    worth = np.nan_to_num(rooms, nan=3.0) * (1 + numbers % 4)
    values = {
        "sale_id": numbers,
        "sold_on": [date(2024, 1, 1)] * count,
        "price": 100 * worth,
        "rooms": rooms.astype(np.float32),
        "area": pa.array(areas, pa.string()),
        "split": ["train"] * count,
    }
    return pa.table(values | columns)


def of_kinds(table: pa.Table, kinds: list[str]) -> pa.Table:
    """The sales with a class as their target: by the price, the cheapest first."""
    price = table["price"].to_numpy()
    order = np.minimum((price / 1600 * len(kinds)).astype(int), len(kinds) - 1)
    return table.set_column(2, "price", pa.array([kinds[place] for place in order]))


ALL = np.arange(100)[None, :]


@pytest.mark.parametrize("kind", ["positive", "numeric"])
def test_the_reference_learns_a_number(kind: str):
    scorer = XGBoostScorer(spec(target_kind=kind), "median_absolute_percentage_error")
    its = scorer.fit_reference(houses()).outcomes(houses(100, start=400))
    assert len(its) == 100
    np.testing.assert_array_equal(its.actual, houses(100, start=400)["price"].to_numpy())
    assert scorer.measure.errors(its, ALL)[0] < 12  # the prices lie between 100 and 2000
    assert abs(scorer.measure.biases(its, its, ALL)[0]) < 0.5


@pytest.mark.parametrize("kinds", [["cheap", "dear"], ["cheap", "fair", "dear"]])
def test_the_reference_learns_classes_and_is_wrong_about_unknown_ones(kinds: list[str]):
    scorer = XGBoostScorer(spec(target_kind="class"), "log_loss")
    reference = scorer.fit_reference(of_kinds(houses(), kinds))
    rows = of_kinds(houses(100, start=400), kinds)
    its = reference.outcomes(rows)
    assert its.predicted.shape == ((100,) if len(kinds) == 2 else (100, 3))
    assert [sorted(kinds)[int(label)] for label in its.actual] == rows["price"].to_pylist()
    assert scorer.measure.errors(its, ALL)[0] < 0.3 * math.log(len(kinds))
    unknown = pa.array(["priceless"] * 10 + rows["price"].to_pylist()[10:])
    others = reference.outcomes(rows.set_column(2, "price", unknown))
    np.testing.assert_array_equal(others.rows, its.rows)
    np.testing.assert_array_equal(others.predicted, its.predicted)
    assert others.actual.tolist() == [UNKNOWN_CLASS] * 10 + its.actual[10:].tolist()
    # Each of them costs what the least probability does.
    worse = scorer.measure.errors(others, ALL)[0] - scorer.measure.errors(its, ALL)[0]
    assert 1.4 < worse < 0.1 * -math.log(np.finfo(np.float32).eps)


def test_equal_rows_make_equal_references():
    scorer = XGBoostScorer(spec(target_kind="positive"), "mean_absolute_error")
    rows = houses(100, start=400)
    first, second = (scorer.fit_reference(houses()).outcomes(rows) for _ in range(2))
    np.testing.assert_array_equal(first.predicted, second.predicted)
    seeded = XGBoostScorer(spec(target_kind="positive", seed=5), "mean_absolute_error")
    third = seeded.fit_reference(houses()).outcomes(rows)
    assert (third.predicted != first.predicted).any()


def test_a_reference_needs_rows_and_two_classes():
    for count in (0, 1):
        with pytest.raises(NoRows, match=f"{count} rows"):
            XGBoostScorer(spec(), "mean_absolute_error").fit_reference(houses(count))
    with pytest.raises(NoRows, match="1 classes"):
        XGBoostScorer(spec(target_kind="class"), "auc").fit_reference(of_kinds(houses(), ["one"]))


def test_a_positive_target_that_is_not_is_refused():
    rows = houses(3, price=[1.0, 0.0, 2.0])
    with pytest.raises(InvalidColumn, match="zero or negative in 1 of 3 rows"):
        XGBoostScorer(spec(target_kind="positive"), "mean_absolute_error").fit_reference(rows)


def test_features_are_the_columns_without_another_role():
    columns = houses(1).column_names
    assert feature_names(spec(), columns) == ["rooms", "area"]
    assert feature_names(spec(features=("Area", "sale_id")), columns) == ["sale_id", "area"]
    assert feature_names(spec(split_key=("AREA",)), columns) == ["rooms"]


def test_a_row_is_known_by_the_values_of_its_key():
    rows = pa.table({"a": ["a", "ab", "a"], "b": ["bc", "c", "bc"], "day": [date(2024, 1, 1)] * 3})
    digests = row_digests(rows, ["A", "b"])
    assert digests[0] == digests[2] != digests[1]
    assert row_digests(rows.slice(1), ["a", "b"]).tolist() == digests[1:].tolist()
    assert len(set(row_digests(rows, ["a", "day"]).tolist())) == 2
    assert set(map(len, digests)) == {16}


def strikes(count: int, *, start: int = 0) -> pa.Table:
    """Reports of bird strikes, whose words mostly say the effect."""
    effects = ["landing", "abort", "other"]
    numbers = range(start, start + count)
    words = {"landing": "returned", "abort": "stopped on the runway", "other": "no damage"}
    completions = [effects[number % 3] for number in numbers]
    return pa.table(
        {
            "report_id": list(numbers),
            "prompt": [
                f" Remark: bird {number} {words[effect] if number % 7 else 'seen'}. Effect:"
                for number, effect in zip(numbers, completions, strict=True)
            ],
            "completion": completions,
            "split": ["test"] * count,
        }
    )


TEXT = spec(
    row_key=("report_id",), split_key=("report_id",), target="completion", target_kind="text"
)


def test_the_reference_beside_a_language_model_is_the_model_of_words():
    train, rows = strikes(200), strikes(60, start=200)
    completions = rows["completion"].to_pylist()
    completions[:5] = ["shutdown"] * 5  # which the training rows don't have
    rows = rows.set_column(2, "completion", pa.array(completions))
    scorer = LanguageModelScorer(TEXT, "exact_match")
    its = scorer.fit_reference(train).outcomes(rows)
    prompts = [prompt.strip() for prompt in rows["prompt"].to_pylist()]
    words = fit_word_model(
        [prompt.strip() for prompt in train["prompt"].to_pylist()],
        train["completion"].to_pylist(),
    )
    expected = score_answers(words, prompts, completions)
    assert len(its) == expected["rows"] == 60
    assert its.predicted[:, 0].mean() == pytest.approx(expected["exact_match"])
    assert its.predicted[:, 1].mean() == pytest.approx(expected["log_loss"])
    assert scorer.measure.errors(its, np.arange(60)[None, :])[0] == pytest.approx(
        1 - expected["exact_match"]
    )
    with pytest.raises(NoRows):
        scorer.fit_reference(strikes(1))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="installed without the extra llm")
@pytest.mark.parametrize("answers", [("abort", "landing"), ()])
def test_a_language_model_is_scored_by_its_answers_and_their_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...]
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    artifact = untrained_adapter(tmp_path, answers)
    rows = strikes(12)
    its = LanguageModelScorer(TEXT, "completion_loss").load(artifact).outcomes(rows)
    assert its.predicted.shape == (12, 2)
    assert its.splits.tolist() == ["test"] * 12
    from sf_sagemaker.containers.llm.model import load_model

    model = load_model(artifact)
    prompts = [prompt.strip() for prompt in rows["prompt"].to_pylist()]
    completions = rows["completion"].to_pylist()
    losses = model.completion_loss(prompts, completions)
    np.testing.assert_allclose(its.predicted[:, 1], losses, rtol=1e-4)
    given = model.predict(prompts) if answers else model.generate(prompts)
    matched = [answer == text for answer, text in zip(given, completions, strict=True)]
    assert its.predicted[:, 0].tolist() == [float(match) for match in matched]
    if answers:
        assert 0 < sum(matched) < 12  # the third answer is none of the model's
    empty = LanguageModelScorer(TEXT, "exact_match").load(artifact).outcomes(rows.slice(0, 0))
    assert len(empty) == 0


def untrained_adapter(folder: Path, answers: tuple[str, ...]) -> Path:
    """The artifact of a fine-tuning that never took a step, on a tiny base."""
    import importlib.metadata

    from peft import LoraConfig, PeftModel, get_peft_model

    from sf_sagemaker.containers.llm.base_model import find_base_model
    from sf_sagemaker.containers.llm.model import LanguageModel, load_base
    from sf_sagemaker.containers.llm.model_card import ModelCard

    texts = [*strikes(60)["prompt"].to_pylist(), " landing", " abort", " other"]
    base = find_base_model(str(make_tiny_language_model(folder / "base", texts)))
    model, tokenizer = load_base(base)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert isinstance(adapted, PeftModel)
    card = ModelCard(
        model="incident_triage",
        partition="1995-01-01",
        dataset={},
        base_model={"name": base.name, "digest": base.digest},
        task="text",
        hyperparameters={},
        answers=answers,
        instruction="",
        max_tokens=64,
        steps=0,
        trainable_parameters=0,
        metrics={},
        prompted_base={},
        confusion={},
        unseen_completions={},
        cut_prompts={},
        samples=(),
        learning_curve={},
        library_versions={
            name: importlib.metadata.version(name) for name in ("transformers", "peft")
        },
        golden_rows=(),
        seed=0,
        instance_count=1,
    )
    LanguageModel(adapted.eval(), tokenizer, card).save(folder / "artifact")
    return folder / "artifact"
