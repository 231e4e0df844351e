"""The log of trained models: registered once, newest of each partition, corrupt entries named."""

import threading
from pathlib import Path
from typing import Any

import pytest

from sf_sagemaker.lifecycle.log import CorruptEntry
from sf_sagemaker.lifecycle.registry import (
    RegisteredModel,
    models_of,
    newest_models,
    register_model,
    registered_models,
    split_digest,
)
from sf_sagemaker.storage import LocalStorage
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation, SplitFractions


def entry(partition: str = "2024-01-15", job: str = "job-1", **changes: Any) -> RegisteredModel:
    values: dict[str, Any] = {
        "model": "house_prices",
        "partition": partition,
        "training_job": job,
        "artifact_uri": "file:///model.tar.gz",
        "trained_at": "2024-01-22T01:02:03+00:00",
        "dataset": f"datasets/house_prices/{partition}/abc/run",
        "dataset_fingerprint": "f1",
        "spec_digest": "abc",
        "target": "price",
        "target_kind": "positive",
        "split": "0123456789ab",
        "features": (("rooms", "numeric"), ("area", "categorical")),
        "warm_up": False,
    }
    return RegisteredModel(**(values | changes))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_what_was_registered_is_read_back(storage: LocalStorage):
    models = [entry("2024-01-22", "b"), entry("2024-01-15", "a"), entry("2024-01-22", "c")]
    for model in models:
        assert register_model(storage, model) == model
    assert registered_models(storage, "house_prices") == [models[1], models[0], models[2]]
    assert models_of(storage, "house_prices", "2024-01-22") == [models[0], models[2]]
    newest = newest_models(storage, "house_prices")
    assert newest == {"2024-01-15": models[1], "2024-01-22": models[2]}


def test_a_training_job_is_registered_once(storage: LocalStorage):
    first = register_model(storage, entry(artifact_uri="file:///first.tar.gz"))
    again = register_model(storage, entry(artifact_uri="file:///adopted.tar.gz"))
    assert again == first
    assert registered_models(storage, "house_prices") == [first]


def test_models_whose_names_begin_alike_are_kept_apart(storage: LocalStorage):
    register_model(storage, entry(model="house"))
    register_model(storage, entry(model="house_prices"))
    assert [its.model for its in registered_models(storage, "house")] == ["house"]
    assert registered_models(storage, "hou") == []


def test_registrations_at_once_are_all_kept(storage: LocalStorage):
    jobs = [f"job-{number}" for number in range(8)]
    threads = [
        threading.Thread(target=register_model, args=(storage, entry(job=job)))
        for job in [*jobs, *jobs]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registered = registered_models(storage, "house_prices")
    assert sorted(its.training_job for its in registered) == jobs


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json", "is not JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"model": "house_prices"}', "partition: Field required"),
        (entry("2024-02-05").model_dump_json().encode(), "of 2024-02-05"),
    ],
)
def test_a_corrupt_entry_is_named(storage: LocalStorage, content: bytes, said: str):
    register_model(storage, entry())
    storage.create("models/house_prices/2024-01-15/000002.json", content)
    with pytest.raises(CorruptEntry, match=r"000002\.json") as raised:
        newest_models(storage, "house_prices")
    assert said in str(raised.value)


def test_the_split_is_the_same_where_rows_fall_alike():
    def spec(**changes: Any) -> DatasetSpec:
        values: dict[str, Any] = {
            "model": "m",
            "source": Relation(name="sales"),
            "row_key": ("sale_id",),
            "split_key": ("parcel_id",),
            "event_time": "sold_on",
            "target": "price",
            "window": "3 weeks",
        }
        return DatasetSpec(**(values | changes))

    same = split_digest(spec())
    assert split_digest(spec(seed=3, window="9 weeks", split_key=("PARCEL_ID",))) == same
    others = [
        spec(salt="other"),
        spec(split_key=("sale_id",)),
        spec(splits=SplitFractions(train=0.7, validation=0.2, test=0.1)),
    ]
    assert len({same, *map(split_digest, others)}) == 4
