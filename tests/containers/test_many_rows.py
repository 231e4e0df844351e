"""Training on more rows than are binned in memory: cuts from a sample, matrices on disk."""

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from containers.training_container import Container, Tables
from sf_sagemaker.containers.metrics import root_mean_squared_error
from sf_sagemaker.containers.xgboost.features import encode_features
from sf_sagemaker.containers.xgboost.model import load_model

pytestmark = pytest.mark.slow

SETTINGS = {"objective": "reg:squarederror", "num_round": 8, "max_depth": 4}
TRAIN, HELD_OUT = 600_000, 530_000


@pytest.fixture(scope="module")
def many() -> Tables:
    """Rows of which every thousandth, never an even one, has the last category, and a high price.

    A tenth of the sizes is missing, and they are the cheap ones.
    """
    generator = np.random.default_rng(5)
    rows = TRAIN + HELD_OUT + 2000
    number = np.arange(rows)
    kinds = np.where(number % 1000 == 501, "z", generator.choice(["a", "b", "c"], rows))
    size, place = generator.random((2, rows))
    missing = number % 10 == 3
    price = 2 * size + np.sin(5 * place) + (kinds == "b") + 20.0 * (kinds == "z")
    price += generator.normal(0, 0.2, rows)
    price[missing] = -3
    table = pa.table(
        {
            "kind": pa.array(kinds.tolist(), pa.string()),
            "size": pa.array(size, pa.float32(), mask=missing),
            "place": pa.array(place, pa.float32()),
            "price": price,
        }
    )
    return {
        "train": [table.slice(0, TRAIN // 3), table.slice(TRAIN // 3, TRAIN - TRAIN // 3)],
        "validation": [table.slice(TRAIN, HELD_OUT)],
        "test": [table.slice(TRAIN + HELD_OUT)],
    }


@pytest.fixture(scope="module")
def expected_error(many: Tables) -> float:
    """The error on the test split of a model with cuts from all rows, binned in memory."""
    train = pa.concat_tables(many["train"])
    test = many["test"][0]
    levels = {"a": 0, "b": 1, "c": 2, "z": 3}

    def matrix(table: pa.Table) -> xgb.DMatrix:
        kind = np.array([levels[value] for value in table["kind"].to_pylist()], np.float32)
        values = [kind, table["size"].to_numpy(), table["place"].to_numpy()]
        return xgb.DMatrix(
            np.column_stack(values),
            table["price"].to_numpy(),
            feature_types=["c", "q", "q"],
            enable_categorical=True,
        )

    parameters = {"objective": "reg:squarederror", "max_depth": 4, "nthread": 1}
    booster = xgb.train(parameters, matrix(train), SETTINGS["num_round"])
    return root_mean_squared_error(test["price"].to_numpy(), booster.predict(matrix(test)))


def test_one_host(container: Container, many: Tables, expected_error: float) -> None:
    one: Tables = {**many, "train": [pa.concat_tables(many["train"])]}
    container.write(one, target="price")
    first = container.run(**SETTINGS)
    assert first.status == 0, first.output
    assert first.card["metrics"]["test"]["root_mean_squared_error"] == pytest.approx(
        expected_error, rel=0.02
    )
    assert not list(first.model.parent.glob("scratch-*"))
    model = load_model(first.model)
    # XGBoost says of rows on disk what the loaded model predicts for them.
    validation = many["validation"][0]
    predicted = model.predict_encoded(encode_features(validation, model.card.features).T)
    error = root_mean_squared_error(validation["price"].to_numpy(), predicted)
    assert first.card["learning_curve"]["validation"]["rmse"][-1] == pytest.approx(error, rel=1e-4)

    again = Container(container.folder / "again", container.code)
    again.write(one, target="price")
    second = again.run(**SETTINGS)
    assert (second.model / "model.ubj").read_bytes() == (first.model / "model.ubj").read_bytes()


def test_two_hosts(container: Container, many: Tables, expected_error: float) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.write(many, target="price")
    ended = container.run_all(**SETTINGS)
    assert [each.status for each in ended.values()] == [0, 0], ended
    figures = ended["algo-1"].card["metrics"]["test"]
    assert figures["root_mean_squared_error"] == pytest.approx(expected_error, rel=0.02)


def test_max_bin_bounds_the_cuts(container: Container, many: Tables) -> None:
    test = many["test"][0]
    small: Tables = {"train": [test], "validation": [test], "test": [test]}
    container.write(small, target="price")
    finished = container.run(**SETTINGS, max_bin=5)
    assert finished.status == 0, finished.output
    splits = load_model(finished.model).booster.trees_to_dataframe()
    assert 1 < splits[splits["Feature"] == "place"]["Split"].nunique() <= 5
