"""Rows on their way to a transform job: what the model reads is what the warehouse holds."""

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_sagemaker.serving.batch_files import UnsendableValue, json_lines

texts = st.text(st.characters(exclude_categories=("Cs",)))
rows = st.lists(
    st.tuples(
        st.none() | st.floats(width=32, allow_infinity=False),
        st.none() | st.floats(allow_infinity=False),
        st.none() | st.integers(-(2**62), 2**62),
        st.none() | texts,
    ),
    min_size=1,
    max_size=20,
)


def batch(values: list[tuple[Any, ...]], *, first: str = "narrow") -> pa.RecordBatch:
    narrow, wide, whole, text = (list(column) for column in zip(*values, strict=True))
    return pa.RecordBatch.from_arrays(
        [
            pa.array(narrow, pa.float32()),
            pa.array(wide, pa.float64()),
            pa.array(whole, pa.int64()),
            pa.array(text, pa.string()),
        ],
        names=[first, "wide", "whole", 'a "text"'],
    )


def same(found: Any, value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return found is None
    return found == value


@settings(max_examples=200, deadline=None)
@given(rows)
def test_every_value_arrives_as_it_is(values: list[tuple[Any, ...]]) -> None:
    made = batch(values)
    lines = bytes(json_lines(made, made.schema.names)).split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(values)
    for number, (line, (narrow, wide, whole, text)) in enumerate(zip(lines, values, strict=True)):
        content = json.loads(line)
        assert content["row"] == number
        found = content["features"]
        assert list(found) == ["narrow", "wide", "whole", 'a "text"']
        assert same(found["wide"], wide)
        assert same(found["whole"], whole)
        assert same(found['a "text"'], text)
        # In the 32 bits that the model has, it is the same number.
        arrived = None if found["narrow"] is None else float(np.float32(found["narrow"]))
        assert same(arrived, narrow)


def test_some_features_in_their_order_and_a_slice_of_rows() -> None:
    made = batch([(1.0, 2.0, 3, "x"), (4.0, 5.0, 6, "y"), (7.0, 8.0, 9, "z")]).slice(1, 2)
    lines = bytes(json_lines(made, ["whole", "narrow"])).decode().splitlines()
    assert lines == [
        '{"row":0,"features":{"whole":6,"narrow":4}}',
        '{"row":1,"features":{"whole":9,"narrow":7}}',
    ]


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_number_is_refused(value: float) -> None:
    with pytest.raises(UnsendableValue, match="column 'narrow' has infinite values"):
        json_lines(batch([(value, 1.0, 1, "x")]), ["narrow"])
