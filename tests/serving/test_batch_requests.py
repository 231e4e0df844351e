"""Requests as batch transform sends them: a row in each line, and categories that may be new."""

import json
from pathlib import Path

import pytest

from serving.models import ROW, houses, save_classifier, save_regression
from sf_sagemaker.containers.serving.loading import load
from sf_sagemaker.containers.serving.requests import RequestRefused
from sf_sagemaker.containers.serving.xgboost_handler import XGBoostHandler
from sf_sagemaker.containers.xgboost.model import load_model

LINES = "application/jsonlines"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_regression(tmp_path_factory.mktemp("regression"))


def answer(handler: XGBoostHandler, *rows: object) -> list[dict]:
    body = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    found, content_type = handler.answer(body, LINES, LINES)
    assert content_type == LINES
    return [json.loads(line) for line in found.splitlines()]


def test_each_line_is_answered_by_a_line(folder: Path) -> None:
    model = load_model(folder)
    table = houses(50).drop_columns(["price"])
    rows = table.to_pylist()
    found = answer(XGBoostHandler(model), *rows)
    assert [one["prediction"] for one in found] == pytest.approx(model.predict(table).tolist())


def test_classes_have_their_probabilities(tmp_path: Path) -> None:
    handler = XGBoostHandler(load_model(save_classifier(tmp_path, ("cheap", "dear"))))
    (one,) = answer(handler, ROW)
    assert one["prediction"] in ("cheap", "dear")
    assert one["probability"] == max(one["probabilities"].values())


def test_a_new_category_is_missing_in_a_batch_and_refused_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = load(folder)
    monkeypatch.setenv("SAGEMAKER_BATCH", "true")
    batch = load(folder)
    assert isinstance(endpoint, XGBoostHandler)
    assert isinstance(batch, XGBoostHandler)
    new, missing = answer(batch, {**ROW, "area": "east"}, {**ROW, "area": None})
    assert new == missing
    with pytest.raises(RequestRefused, match=r"'area' is 'east': expected one of"):
        answer(endpoint, {**ROW, "area": "east"})
    with pytest.raises(RequestRefused, match="'area' is 5: expected one of"):
        answer(batch, {**ROW, "area": 5})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty: expected a row in each line"),
        (b"\n", "the body is empty"),
        (b'{"rooms": 1}\n\n', "line 2 is not JSON"),
        (b"[1, 2]\n", "row 1 is a list: expected an object"),
        (b'{"rooms": NaN}', "line 1 is not JSON: NaN is not a JSON number"),
        (b"\xff", "the body is not UTF-8"),
        (b'{"rooms": 1}', "row 1 has no 'distance'"),
    ],
)
def test_lines_that_are_no_rows(folder: Path, body: bytes, said: str) -> None:
    with pytest.raises(RequestRefused, match=said):
        XGBoostHandler(load_model(folder)).answer(body, LINES, "")
