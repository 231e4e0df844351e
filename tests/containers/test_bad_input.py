"""Input that no model can come of: a message in the failure file, and no model."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from containers.training_container import Container, Finished, Tables, one_shard, with_target

SETTINGS = {"objective": "reg:squarederror", "num_round": 5}


def failure(finished: Finished) -> str:
    assert finished.status == 1, finished.output
    assert list(finished.model.iterdir()) == []
    assert finished.failure is not None
    assert "Traceback" not in finished.failure
    assert "Traceback" in finished.output
    return finished.failure


@pytest.fixture
def prepared(container: Container, houses: Tables) -> Container:
    container.write(one_shard(houses), target="price", kind="positive")
    return container


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"objective": "reg:squarederorr"}, "did you mean 'reg:squarederror'?"),
        ({"objective": "rank:ndcg"}, "expected one of reg:squarederror"),
        ({"max_dept": 3}, "no hyperparameter 'max_dept': did you mean 'max_depth'?"),
        ({"max_depth": "deep"}, "max_depth is 'deep': expected a whole number"),
        ({"eta": 0}, "eta is '0': expected a number in (0, 1]"),
        ({"num_round": 0}, "num_round is '0': expected a whole number from 1"),
        ({"eval_metric": "auc"}, "eval_metric is 'auc': for reg:squarederror expected one of rmse"),
        (
            {"objective": "count:poisson", "target_transform": "log"},
            "does not go with count:poisson",
        ),
        ({"objective": "binary:logistic"}, "needs classes"),
        ({"eta": 0.1, "learning_rate": 0.1}, "both given"),
    ],
)
def test_hyperparameters(prepared: Container, settings: dict, expected: str) -> None:
    assert expected in failure(prepared.run(**{**SETTINGS, **settings}))


def test_truncated_shard(prepared: Container) -> None:
    shard = next(prepared.data("train").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-500])
    text = failure(prepared.run(**SETTINGS))
    assert str(shard) in text
    assert "not a whole Parquet file" in text


def test_corrupt_shard(prepared: Container) -> None:
    shard = next(prepared.data("validation").rglob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[4:400] = bytes(396)
    shard.write_bytes(content)
    assert str(shard) in failure(prepared.run(**SETTINGS))


def test_missing_shard(prepared: Container) -> None:
    next(prepared.data("test").rglob("*.parquet")).unlink()
    text = failure(prepared.run(**SETTINGS))
    assert "hold 3200 train, 400 validation, 0 test rows" in text
    assert "counts 3200 train, 400 validation, 400 test" in text


def test_missing_manifest(prepared: Container) -> None:
    (prepared.data("manifest") / "manifest.json").unlink()
    assert "manifest.json is missing" in failure(prepared.run(**SETTINGS))


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 2}'])
def test_unreadable_manifest(prepared: Container, text: str) -> None:
    (prepared.data("manifest") / "manifest.json").write_text(text)
    assert "manifest" in failure(prepared.run(**SETTINGS))


def test_features_that_have_no_numbers(prepared: Container) -> None:
    path = prepared.data("manifest") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["columns"][1]["kind"] = "text"
    path.write_text(json.dumps(manifest))
    assert "not bedrooms (text): exclude them" in failure(prepared.run(**SETTINGS))


def rewrite(container: Container, change: Callable[[pa.Table], pa.Table]) -> Path:
    shard = next(container.data("train").rglob("*.parquet"))
    with pq.ParquetFile(shard) as file:
        table = file.read()
    pq.write_table(change(table), shard)
    return shard


def with_column(name: str, values: Callable[[pa.ChunkedArray], object]) -> Callable:
    def change(table: pa.Table) -> pa.Table:
        at = table.column_names.index(name)
        return table.set_column(at, name, values(table[name]))

    return change


def test_a_column_that_is_gone(prepared: Container) -> None:
    shard = rewrite(prepared, lambda table: table.drop_columns(["lat"]))
    text = failure(prepared.run(**SETTINGS))
    assert f"{shard} lacks the columns lat" in text


def test_a_column_that_changed_its_type(prepared: Container) -> None:
    shard = rewrite(prepared, with_column("grade", lambda column: column.cast(pa.string())))
    text = failure(prepared.run(**SETTINGS))
    assert str(shard) in text
    assert "'grade' is string: expected numbers" in text


@pytest.mark.parametrize("value", [float("inf"), 1e300])
def test_an_infinite_value(prepared: Container, value: float) -> None:
    change = with_column("lat", lambda column: pa.array([value, *column.to_pylist()[1:]]))
    rewrite(prepared, change)
    assert "'lat' has infinite values" in failure(prepared.run(**SETTINGS))


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_missing_target(prepared: Container, value: float | None) -> None:
    rewrite(
        prepared,
        with_column("price", lambda column: pa.array([value, *map(float, column.to_pylist()[1:])])),
    )
    text = failure(prepared.run(**SETTINGS))
    assert "target 'price'" in text
    assert "wrong in 1 of 3200" in text


def test_a_constant_target(prepared: Container) -> None:
    rewrite(prepared, with_column("price", lambda column: pa.array([5.0] * len(column))))
    assert "'price' is 5 in every training row" in failure(prepared.run(**SETTINGS))


def test_a_target_without_a_logarithm(prepared: Container) -> None:
    rewrite(prepared, with_column("price", lambda column: pa.array([0, *column.to_pylist()[1:]])))
    text = failure(prepared.run(**SETTINGS, target_transform="log"))
    assert "'price' is 0 in a row: target_transform log needs values above 0" in text


def test_a_target_outside_the_objective(prepared: Container) -> None:
    rewrite(prepared, with_column("price", lambda column: pa.array([-1, *column.to_pylist()[1:]])))
    text = failure(prepared.run(**{**SETTINGS, "objective": "reg:gamma"}))
    assert "reg:gamma needs values in (0, inf]" in text


def test_an_unknown_class(container: Container, houses: Tables) -> None:
    container.write(one_shard(houses), target="zipcode", kind="class", classes=("98001", "98002"))
    text = failure(container.run(objective="multi:softprob", num_round=5))
    assert "expected one of 98001, 98002 in every row" in text


def test_early_stopping_without_validation_rows(container: Container, houses: Tables) -> None:
    container.write({**one_shard(houses), "validation": []}, target="price")
    text = failure(container.run(**SETTINGS, early_stopping_rounds=5))
    assert "early_stopping_rounds needs a validation split" in text


def test_early_stopping_by_an_undefined_metric(container: Container, houses: Tables) -> None:
    tables = with_target(
        houses,
        "price",
        "dear",
        lambda split, price: int(price > 450_000 and split != "validation"),
    )
    container.write(tables, target="dear")
    settings = {"objective": "binary:logistic", "eval_metric": "auc", "num_round": 5}
    text = failure(container.run(**settings, early_stopping_rounds=2))
    assert "needs auc of the validation split" in text
    # Without early stopping the model is made, and its card leaves out what is undefined.
    finished = container.run(**settings)
    assert finished.status == 0, finished.output
    assert "auc" not in finished.card["metrics"]["validation"]
    assert finished.card["learning_curve"]["validation"]["auc"] == [None] * 5


def test_an_unexpected_error(prepared: Container) -> None:
    path = prepared.data("manifest") / "manifest.json"
    path.unlink()
    path.mkdir()
    assert failure(prepared.run(**SETTINGS)).startswith("IsADirectoryError: ")


def test_the_failure_file_of_an_earlier_attempt_goes(prepared: Container) -> None:
    assert failure(prepared.run(**{**SETTINGS, "eta": 7}))
    assert prepared.run(**SETTINGS).failure is None


def test_environment_mistakes(prepared: Container) -> None:
    prepared.environment = {"SM_CURRENT_HOST": "algo-9"}
    assert "'algo-9', which is not among SM_HOSTS: algo-1" in failure(prepared.run(**SETTINGS))
    prepared.environment = {"SM_HPS": "{"}
    assert "SM_HPS is not JSON" in failure(prepared.run(**SETTINGS))
    prepared.environment = {"SM_NUM_CPUS": "many"}
    assert "SM_NUM_CPUS is 'many'" in failure(prepared.run(**SETTINGS))
