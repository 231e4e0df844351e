"""One host: what the training script makes of a dataset."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xgboost

from containers.training_container import Container, Tables, one_shard, with_target
from sf_sagemaker.containers.metrics import evaluate
from sf_sagemaker.containers.xgboost.features import InvalidColumn, MissingColumn
from sf_sagemaker.containers.xgboost.model import load_model

LOG_PRICE = {
    "objective": "reg:squarederror",
    "target_transform": "log",
    "num_round": 60,
    "max_depth": 5,
    "eta": 0.2,
    "seed": 7,
}


def test_regression_on_log_prices(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    finished = container.run(**LOG_PRICE)
    assert finished.status == 0, finished.output
    assert finished.failure is None
    assert sorted(path.name for path in finished.model.iterdir()) == [
        "model-card.json",
        "model.ubj",
    ]

    model = load_model(finished.model)
    test = houses["test"][0]
    predicted, actual = model.predict(test), model.actual(test)
    assert predicted.shape == (400,)
    assert predicted.dtype == np.float64
    figures = evaluate("regression", actual, predicted, positive=True)
    # The median price alone is off by more than 30 %.
    assert figures["median_absolute_percentage_error"] < 16
    assert abs(figures["bias"]) < 0.05
    assert finished.card["metrics"]["test"] == pytest.approx(figures)


def test_the_card_tells_all(container: Container, houses: Tables) -> None:
    manifest = container.write(one_shard(houses), target="price", kind="positive")
    card = container.run(**LOG_PRICE).card
    assert card["model"] == "houses"
    assert card["partition"] == "2024-01-01"
    assert card["dataset"]["fingerprint"] == manifest.fingerprint.model_dump()
    assert card["dataset"]["rows"] == {"train": 3200, "validation": 400, "test": 400}
    assert card["dataset"]["dropped"]["missing_target"] == 3
    assert card["dataset"]["split"]["split_key"] == ["id"]
    kinds = {feature["name"]: feature["kind"] for feature in card["features"]}
    assert kinds["zipcode"] == "categorical"
    assert kinds["waterfront"] == "numeric"
    assert card["target"] == {
        "name": "price",
        "transform": "log",
        "classes": None,
        "positive": True,
    }
    assert card["hyperparameters"]["max_depth"] == "5"
    assert card["rounds"] == {"trained": 60, "best": 60}
    assert len(card["learning_curve"]["train"]["rmse"]) == 60
    assert len(card["learning_curve"]["validation"]["rmse"]) == 60
    assert sum(card["feature_importance"].values()) == pytest.approx(1)
    assert set(card["feature_importance"]) == set(kinds)
    assert card["library_versions"]["xgboost"] == xgboost.__version__
    assert len(card["golden_rows"]) == 8
    assert card["seed"] == 7
    assert card["instance_count"] == 1


def test_training_twice_makes_the_same_files(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    settings = {**LOG_PRICE, "num_round": 20, "subsample": 0.7, "colsample_bytree": 0.6}
    first = container.run(**settings)
    before = {path.name: path.read_bytes() for path in first.model.iterdir()}
    for path in [*first.model.iterdir(), *(container.root() / "checkpoints").iterdir()]:
        path.unlink()
    second = container.run(**settings)
    assert {path.name: path.read_bytes() for path in second.model.iterdir()} == before


def test_another_seed_makes_another_model(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    settings = {**LOG_PRICE, "num_round": 10, "subsample": 0.7}
    first = (container.run(**settings).model / "model.ubj").read_bytes()
    assert (container.run(**{**settings, "seed": 8}).model / "model.ubj").read_bytes() != first


def test_early_stopping_keeps_the_best_round(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    finished = container.run(**{**LOG_PRICE, "num_round": 500, "eta": 0.5}, early_stopping_rounds=5)
    card = finished.card
    curve = card["learning_curve"]["validation"]["rmse"]
    best = card["rounds"]["best"]
    assert best == int(np.argmin(curve)) + 1
    assert card["rounds"]["trained"] == len(curve) == best + 5
    assert load_model(finished.model).booster.num_boosted_rounds() == best
    # The last round has a line of its own, though it isn't one of every twenty-fifth.
    assert f"[{len(curve)}/500] train-rmse=" in finished.output


def test_progress_is_about_twenty_lines(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    lines = [
        line
        for line in container.run(
            **{**LOG_PRICE, "num_round": 200, "max_depth": 2}
        ).output.splitlines()
        if line.startswith("[") and "train-rmse=" in line
    ]
    assert len(lines) == 21
    assert lines[0].startswith("[1/200] ")
    assert lines[-1].startswith("[200/200] ")
    assert "validation-rmse=" in lines[0]


def test_two_classes(container: Container, houses: Tables) -> None:
    tables = with_target(
        houses, "price", "segment", lambda _, price: "high" if price > 450_000 else "low"
    )
    container.write(tables, target="segment", kind="class", classes=("high", "low"))
    finished = container.run(
        objective="binary:logistic", num_round=40, eval_metric="auc", early_stopping_rounds=10
    )
    assert finished.status == 0, finished.output
    curve = finished.card["learning_curve"]["validation"]["auc"]
    assert finished.card["rounds"]["best"] == int(np.argmax(curve)) + 1
    model = load_model(finished.model)
    test = tables["test"][0]
    predicted, actual = model.predict(test), model.actual(test)
    # The second class is the low one: its rows get the higher probabilities.
    assert actual.mean() == pytest.approx(np.mean(np.array(test["segment"]) == "low"))
    figures = evaluate(model.task, actual, predicted)
    assert figures["auc"] > 0.9
    assert figures["accuracy"] > 0.8
    assert finished.card["metrics"]["test"] == pytest.approx(figures)
    assert finished.card["task"] == "binary"


def test_a_numeric_target_of_zeros_and_ones(container: Container, houses: Tables) -> None:
    tables = with_target(houses, "price", "dear", lambda _, price: int(price > 450_000))
    container.write(tables, target="dear", kind="numeric")
    finished = container.run(objective="binary:logistic", num_round=20)
    assert finished.status == 0, finished.output
    assert finished.card["metrics"]["test"]["auc"] > 0.9
    assert finished.card["target"]["classes"] == ["0", "1"]


def test_several_classes(container: Container, houses: Tables) -> None:
    tables = with_target(houses, "grade", "level", lambda _, grade: f"g{min(max(grade, 6), 9)}")
    container.write(tables, target="level", kind="class", classes=("g6", "g7", "g8", "g9"))
    finished = container.run(objective="multi:softprob", num_round=15, max_depth=4)
    assert finished.status == 0, finished.output
    model = load_model(finished.model)
    test = tables["test"][0]
    predicted = model.predict(test)
    assert predicted.shape == (400, 4)
    assert predicted.sum(axis=1) == pytest.approx(np.ones(400), abs=1e-5)
    figures = evaluate(model.task, model.actual(test), predicted)
    assert figures["accuracy"] > 0.55
    assert finished.card["metrics"]["test"] == pytest.approx(figures)
    assert len(finished.card["golden_rows"][0]["prediction"]) == 4
    assert model.predict(test.slice(0, 0)).shape == (0, 4)


def test_categories_and_missing_values(container: Container) -> None:
    generator = np.random.default_rng(3)
    kinds = generator.choice(["a", "b", "c"], 1200)
    worth = np.select([kinds == "a", kinds == "b"], [1.0, 5.0], 9.0)
    kind = pa.array([None if i % 10 == 0 else str(k) for i, k in enumerate(kinds)])
    size = pa.array([None if i % 7 == 0 else float(i % 13) for i in range(1200)])
    price = pa.array(np.where(np.arange(1200) % 10 == 0, 20.0, worth))
    rows = pa.table({"kind": kind, "size": size, "price": price})
    tables: Tables = {
        "train": [rows.slice(0, 1000)],
        "validation": [rows.slice(1000, 100)],
        "test": [rows.slice(1100)],
    }
    container.write(tables, target="price")
    model = load_model(container.run(objective="reg:squarederror", num_round=40).model)

    def predict(kind: str | None, size: float | None = 1.0) -> float:
        table = pa.table(
            {"kind": pa.array([kind], pa.string()), "size": pa.array([size], pa.float64())}
        )
        return model.predict(table)[0]

    assert predict("a") == pytest.approx(1, abs=0.2)
    assert predict("b") == pytest.approx(5, abs=0.2)
    assert predict("c", None) == pytest.approx(9, abs=0.2)
    assert predict(None) == pytest.approx(20, abs=0.2)
    # A category that training never saw counts as missing.
    assert predict("zzz") == predict(None)
    assert predict("b", math.nan) == predict("b", None)


def test_prediction_takes_what_it_needs(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    model = load_model(container.run(**{**LOG_PRICE, "num_round": 5}).model)
    test = houses["test"][0]
    expected = model.predict(test)
    shuffled = test.select(sorted(test.column_names, reverse=True))
    assert (
        model.predict(shuffled.append_column("more", test["price"])).tolist() == expected.tolist()
    )
    with pytest.raises(MissingColumn, match="'grade'"):
        model.predict(test.drop_columns(["grade"]))
    text = test.set_column(3, "grade", test["grade"].cast(pa.string()))
    with pytest.raises(InvalidColumn, match="'grade' is string"):
        model.predict(text)


def test_a_dataset_without_test_rows(container: Container, houses: Tables) -> None:
    empty: Tables = {"train": houses["train"][:1], "validation": [], "test": []}
    container.write(empty, target="price", kind="positive")
    finished = container.run(**{**LOG_PRICE, "num_round": 5})
    assert finished.status == 0, finished.output
    assert finished.card["metrics"] == {}
    assert len(load_model(finished.model).card.golden_rows) == 8


def test_only_the_program_runs(container: Container, houses: Tables, code: Path) -> None:
    (code / "probe.py").write_text(
        "import json, sys\n"
        "import train_xgboost\n"
        "mine = {n: m.__file__ for n, m in sys.modules.items() if n.startswith('sf_sagemaker')}\n"
        "print(json.dumps(mine))\n"
        "print(json.dumps([n for n in ('pandas', 'dagster', 'pydantic', 'duckdb') if n in sys.modules]))\n"
    )
    out = subprocess.run(
        [sys.executable, "probe.py"], cwd=code, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    (code / "probe.py").unlink()
    mine = json.loads(out[0])
    assert all(Path(file).is_relative_to(code) for file in mine.values())
    assert all(
        name == "sf_sagemaker" or name.startswith("sf_sagemaker.containers") for name in mine
    )
    # xgboost imports pandas where it is installed; nothing of the rest belongs in the container.
    assert set(json.loads(out[1])) <= {"pandas"}
