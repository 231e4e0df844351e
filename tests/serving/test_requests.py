"""What a request may look like, what it is answered, and what is refused in so many words."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.models import ROW, houses, save_classifier, save_regression
from sf_sagemaker.containers.serving.golden import golden_request
from sf_sagemaker.containers.serving.loading import load
from sf_sagemaker.containers.serving.requests import (
    NotAcceptable,
    RequestRefused,
    UnsupportedMediaType,
)
from sf_sagemaker.containers.serving.xgboost_handler import XGBoostHandler
from sf_sagemaker.containers.xgboost.model import load_model

CLASSES = ("cheap", "dear", "middling")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_regression(tmp_path_factory.mktemp("regression"))


@pytest.fixture(scope="module")
def handler(folder: Path) -> XGBoostHandler:
    return XGBoostHandler(load_model(folder))


def answer(handler: XGBoostHandler, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    body, content_type = handler.answer(json.dumps({"instances": rows}).encode(), "", "")
    assert content_type == "application/json"
    return json.loads(body)["predictions"]


def refusal(handler: XGBoostHandler, body: bytes | str, content_type: str = "") -> str:
    content = body.encode() if isinstance(body, str) else body
    with pytest.raises(RequestRefused) as refused:
        handler.answer(content, content_type, "")
    return str(refused.value)


def test_rows_are_predicted_as_the_model_predicts_them(
    handler: XGBoostHandler, folder: Path
) -> None:
    table = houses().drop_columns(["price"])
    expected = load_model(folder).predict(table)
    found = [one["prediction"] for one in answer(handler, *table.to_pylist())]
    assert found == pytest.approx(expected.tolist(), rel=1e-6)
    lines = "".join(
        f"{'' if row['rooms'] is None else row['rooms']},{row['distance']},{row['area'] or ''}\n"
        for row in table.to_pylist()
    )
    body, content_type = handler.answer(lines.encode(), "text/csv", "")
    assert content_type.startswith("text/csv")
    assert [float(line) for line in body.decode().splitlines()] == pytest.approx(found)


def test_csv_with_names_may_have_its_columns_in_any_order(handler: XGBoostHandler) -> None:
    (expected,) = answer(handler, ROW)
    body, _ = handler.answer(b"area,rooms,distance\nsouth,3,0.5\n", "text/csv", "")
    assert float(body) == expected["prediction"]


def test_the_type_of_the_answer_is_the_clients_choice(handler: XGBoostHandler) -> None:
    body = json.dumps({"instances": [ROW]}).encode()
    as_csv, _ = handler.answer(body, "application/json; charset=utf-8", "text/csv, */*;q=0.1")
    as_json, _ = handler.answer(b"3,0.5,south", "text/csv", "application/json")
    assert float(as_csv) == json.loads(as_json)["predictions"][0]["prediction"]
    with pytest.raises(NotAcceptable, match=r"accepts 'image/png'.*application/json or text/csv"):
        handler.answer(body, "application/json", "image/png")
    with pytest.raises(UnsupportedMediaType, match="'text/html'"):
        handler.answer(body, "text/html", "")
    with pytest.raises(UnsupportedMediaType, match="UTF-8"):
        handler.answer(body, "application/json; charset=latin-1", "")


def test_missing_values_and_booleans_are_numbers_like_others(handler: XGBoostHandler) -> None:
    rows = [{**ROW, "rooms": None}, {**ROW, "area": None}, {**ROW, "rooms": True}]
    one = {**ROW, "rooms": 1}
    *missing, boolean = answer(handler, *rows)
    assert all(math.isfinite(prediction["prediction"]) for prediction in missing)
    assert [boolean] == answer(handler, one)


@pytest.mark.parametrize("classes", [("cheap", "dear"), CLASSES])
def test_classes_come_with_their_probabilities(classes: tuple[str, ...], tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, classes)
    handler = load(folder)
    body, _ = handler.answer(json.dumps({"instances": [ROW]}).encode(), "", "")
    (one,) = json.loads(body)["predictions"]
    assert tuple(one["probabilities"]) == classes
    assert sum(one["probabilities"].values()) == pytest.approx(1)
    assert one["probability"] == max(one["probabilities"].values())
    assert one["probabilities"][one["prediction"]] == one["probability"]
    row = pa.table({name: [value] for name, value in ROW.items()})
    predicted = load_model(folder).predict(row)
    expected = predicted.tolist() if len(classes) == 2 else predicted[0].tolist()
    found = list(one["probabilities"].values())
    assert found[-len(expected) :] == pytest.approx(expected, rel=1e-6)
    text, _ = handler.answer(b"3,0.5,south", "text/csv", "")
    assert text.decode().startswith(f"{one['prediction']},0.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rooms": "three"}, "row 1: 'rooms' is 'three': expected a number, or null"),
        ({"rooms": [3]}, r"'rooms' is \[3\]: expected a number"),
        ({"rooms": 1e39}, "'rooms' is 1e\\+39: expected a number within the range of float32"),
        ({"rooms": 10**400}, "within the range of float32"),
        ({"area": "east"}, "'area' is 'east': expected one of the model's categories, 'north'"),
        ({"area": 1}, "'area' is 1: expected one of"),
        ({"zip": 1}, "row 1 has 'zip', which the model doesn't know: it has rooms, distance, area"),
    ],
)
def test_values_that_the_model_doesnt_take(
    handler: XGBoostHandler, change: dict[str, Any], message: str
) -> None:
    body = json.dumps({"instances": [{**ROW, **change}]})
    with pytest.raises(RequestRefused, match=message):
        handler.answer(body.encode(), "", "")


def test_bodies_that_are_something_else(handler: XGBoostHandler) -> None:
    assert "not JSON" in refusal(handler, "{")
    assert "not JSON" in refusal(handler, "")
    assert "expected an object" in refusal(handler, "[1]")
    assert "the body is an object of ['rows']" in refusal(handler, '{"rows": []}')
    assert "at least one row" in refusal(handler, '{"instances": []}')
    assert "row 1 is a list" in refusal(handler, '{"instances": [[3, 0.5, "south"]]}')
    assert "has no 'rooms', and 1 more are missing" in refusal(
        handler, '{"instances": [{"area": "south"}]}'
    )
    assert "NaN is not a JSON number" in refusal(handler, '{"instances": [{"rooms": NaN}]}')
    assert "not UTF-8: byte 0 is 0xff" in refusal(handler, b"\xff\xfe")
    assert "nested too deeply" in refusal(handler, "[" * 100_000)
    assert "row 2 has 2 values: expected 3" in refusal(handler, "3,0.5,south\n3,1\n", "text/csv")
    assert "no rows" in refusal(handler, "rooms,distance,area\n", "text/csv")
    assert "'rooms' is 'x'" in refusal(handler, "x,0.5,south", "text/csv")
    assert "not CSV" in refusal(handler, '"3,0.5,south', "text/csv")


@settings(max_examples=200, deadline=None)
@given(
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())
    ),
    name=st.sampled_from(["rooms", "distance", "area"]),
)
def test_any_value_is_predicted_or_refused(
    handler: XGBoostHandler, value: object, name: str
) -> None:
    body = json.dumps({"instances": [{**ROW, name: value}]}).encode()
    try:
        found, _ = handler.answer(body, "application/json", "")
    except RequestRefused:
        return
    assert math.isfinite(json.loads(found)["predictions"][0]["prediction"])


def test_golden_rows_agree_only_with_what_the_card_says(
    folder: Path, handler: XGBoostHandler
) -> None:
    golden = golden_request(folder)
    assert golden is not None
    body, _ = handler.answer(golden.body, "", "")
    assert golden.difference(body) is None
    predictions = json.loads(body)["predictions"]
    predictions[2]["prediction"] *= 1.001
    changed = json.dumps({"predictions": predictions}).encode()
    assert "golden row 3 is predicted as" in (golden.difference(changed) or "")
    for odd in (b"", b"[]", b'{"predictions": 5}', b'{"predictions": [1, 2, 3, 4, 5]}'):
        assert golden.difference(odd) is not None
