"""Datasets as Autopilot reads them: what is written, and what is refused before anything is."""

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.training.autopilot_data import AutopilotData, DatasetUnfit, Rows, prepare_data
from sf_sagemaker.training.autopilot_models import BASE_MODELS, needs_eula

Row = tuple[str | None, str | None]


def batches(rows: Sequence[Row], size: int = 3) -> Rows:
    def read() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows), size):
            prompts, completions = zip(*rows[start : start + size], strict=True)
            yield pa.RecordBatch.from_arrays(
                [pa.array(prompts, pa.string()), pa.array(completions, pa.string())],
                ["prompt", "completion"],
            )

    return read


def prepare(
    folder: Path, training: Sequence[Row], validation: Sequence[Row] = (), name: str | None = None
) -> AutopilotData:
    return prepare_data(
        LocalStorage(folder),
        "autopilot-data/m/1",
        {"training": batches(training), "validation": batches(validation)},
        base_model=name,
    )


def written(folder: Path, key: str) -> list[Row]:
    storage = LocalStorage(folder)
    rows: list[Row] = []
    for path in storage.list(key):
        table = pq.read_table(storage.path(path))
        assert table.column_names == ["input", "output"]
        rows += zip(table["input"].to_pylist(), table["output"].to_pylist(), strict=True)
    return rows


text = st.text(min_size=1).filter(lambda value: value.strip() != "" and "\x00" not in value)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(text, text), min_size=1, max_size=12))
def test_rows_are_written_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    try:
        [list(map(str.encode, row)) for row in rows]
    except UnicodeEncodeError:
        return
    folder = tmp_path_factory.mktemp("data")
    data = prepare(folder, rows, rows[:2])
    found = written(folder, data.training)
    assert [tuple(cell.strip() for cell in row) for row in rows] == [
        tuple((cell or "").strip() for cell in row) for row in found
    ]
    assert data.validation is not None
    assert len(written(folder, data.validation)) == len(rows[:2])


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    first = prepare(tmp_path, [("a", "b")], [("c", "d")])
    [path] = list(LocalStorage(tmp_path).list(first.training))
    before = (tmp_path / path).stat().st_mtime_ns
    assert prepare(tmp_path, [("a", "b")], [("c", "d")]) == first
    assert (tmp_path / path).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("training", "validation", "name", "says"),
    [
        ([], [("a", "b")], None, "no training rows"),
        ([("a", "b")] * 900, [("a", "b")] * 101, None, "1,001 rows of training and validation"),
        ([("a", "b")] * 7001, [], "Llama2-13B", "the 7,000 that"),
        ([("a", "b")] * 10_001, [], "Mistral7B", "the 10,000 that"),
        ([("x" * 6145, "b")] * 61 + [("a", "b")] * 39, [], "Falcon40B", "61% of the rows"),
        ([("a", "y" * 6145)] * 61 + [("a", "b")] * 39, [], "Dolly3B", "61% of the rows"),
    ],
)  # fmt: skip
def test_what_autopilot_would_fail_on_is_refused(
    tmp_path: Path, training: list[Row], validation: list[Row], name: str | None, says: str
) -> None:
    with pytest.raises(DatasetUnfit) as raised:
        prepare(tmp_path, training, validation, name)
    assert says in str(raised.value)
    assert raised.value.permanent
    assert list(LocalStorage(tmp_path).list("autopilot-data")) == []


def test_what_may_be_wrong_is_a_notice(tmp_path: Path) -> None:
    def notices(rows: Sequence[Row], held_out: Sequence[Row], name: str | None) -> list[str]:
        return list(prepare(tmp_path / str(len(rows)), rows, held_out, name).notices)

    enough: list[Row] = [("a", "b")] * 1000
    assert notices(enough, [("a", "b")], "Mistral7B") == []
    assert notices([("a", "b")] * 1001, [("a", "b")], "Newer") == [
        said for said in notices([("a", "b")] * 1002, [("a", "b")], "Newer") if "documented" in said
    ]
    [few, no_validation] = notices([("a", "b")], [], None)
    assert "1 rows are fewer than the 1,000" in few
    assert "takes a fifth" in no_validation
    [long] = notices([("x" * 5000, "b")] * 999, [("a", "b")], "Mistral7BInstruct")
    assert "between 0% and 100% of the rows" in long
    at_most = [("x" * 5000, "b")] * 600 + [("a", "b")] * 403
    assert notices(at_most, [("a", "b")], "Mistral7BInstruct") == []  # 60 %, and no more


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def many() -> Iterator[pa.RecordBatch]:
        for number in range(90):
            texts = pa.array([f"{number} {row} " + "word " * 500 for row in range(100)])
            yield pa.RecordBatch.from_arrays([texts, texts], ["prompt", "completion"])

    pool = pa.default_memory_pool()
    tracemalloc.start()
    before = pool.bytes_allocated()
    prepare_data(
        LocalStorage(tmp_path), "autopilot-data/m/1", {"training": many}, base_model="Mistral7B"
    )
    assert tracemalloc.get_traced_memory()[1] < 20e6  # the rows are 45 MB
    tracemalloc.stop()
    assert pool.bytes_allocated() - before < 5e6


def test_the_documented_models() -> None:
    assert len(BASE_MODELS) == 18
    assert needs_eula("Llama2-7B")
    assert needs_eula("Llama3-8B")  # which isn't listed, and of the same maker
    assert not needs_eula("Falcon7B")
    assert not needs_eula("Something-Newer")
