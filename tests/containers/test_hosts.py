"""Several hosts that train one model together."""

import time
from pathlib import Path

import numpy as np
import pytest

from containers.training_container import Container, Finished, Tables, one_shard
from sf_sagemaker.containers.metrics import evaluate
from sf_sagemaker.containers.xgboost.model import load_model

SETTINGS = {"objective": "reg:squarederror", "target_transform": "log", "num_round": 30}


def files(finished: Finished) -> list[str]:
    return sorted(path.name for path in finished.model.iterdir())


@pytest.mark.slow
def test_two_hosts_make_one_model_of_all_rows(container: Container, houses: Tables) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.write(houses, target="price", kind="positive")
    ended = container.run_all(**SETTINGS)
    assert [each.status for each in ended.values()] == [0, 0], ended
    assert files(ended["algo-1"]) == ["model-card.json", "model.ubj"]
    assert files(ended["algo-2"]) == []
    assert ended["algo-2"].failure is None

    model = load_model(ended["algo-1"].model)
    assert model.card.instance_count == 2
    assert model.card.dataset["rows"]["train"] == 3200
    test = houses["test"][0]
    figures = evaluate("regression", model.actual(test), model.predict(test), positive=True)
    assert figures["median_absolute_percentage_error"] < 17

    alone = Container(container.folder / "alone", container.code)
    alone.write(one_shard(houses), target="price", kind="positive")
    single = load_model(alone.run(**SETTINGS).model)
    # Nearly the model that one host makes of all rows; half of them give another one.
    difference = np.abs(np.log(model.predict(test) / single.predict(test)))
    assert np.median(difference) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "objective"),
    [
        ("algo-1", "reg:absoluteerror"),  # its leaves need the rows of every host
        ("algo-2", "reg:squarederror"),
        ("algo-3", "reg:absoluteerror"),
    ],
)
def test_a_host_without_rows_is_left_out(
    container: Container, houses: Tables, without: str, objective: str
) -> None:
    settings = {**SETTINGS, "objective": objective, "num_round": 10}
    container.hosts = ["algo-1", "algo-2", "algo-3"]
    shards = list(houses["train"])
    shards.insert(container.hosts.index(without), shards[0].slice(0, 0))
    container.write({**houses, "train": shards}, target="price", kind="positive")
    ended = container.run_all(**settings)
    assert [each.status for each in ended.values()] == [0, 0, 0], ended
    assert f"{without} has no training rows" in ended[without].output
    writers = [host for host in container.hosts if files(ended[host])]
    assert writers == [next(host for host in container.hosts if host != without)]

    pair = Container(container.folder / "pair", container.code, ["algo-1", "algo-2"])
    pair.write(houses, target="price", kind="positive")
    expected = pair.run_all(**settings)["algo-1"].model / "model.ubj"
    assert (ended[writers[0]].model / "model.ubj").read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_one_host_of_two_has_all_rows(container: Container, houses: Tables) -> None:
    container.hosts = ["algo-1", "algo-2"]
    tables = one_shard(houses)
    container.write(
        {**tables, "train": [tables["train"][0].slice(0, 0), tables["train"][0]]},
        target="price",
        kind="positive",
    )
    ended = container.run_all(**SETTINGS)
    assert [each.status for each in ended.values()] == [0, 0], ended
    alone = Container(container.folder / "alone", container.code)
    alone.write(tables, target="price", kind="positive")
    expected = alone.run(**SETTINGS).model / "model.ubj"
    assert (ended["algo-2"].model / "model.ubj").read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_no_rows_anywhere(container: Container, houses: Tables) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.write({**houses, "train": [houses["train"][0].slice(0, 0)]}, target="price")
    for ended in container.run_all(**SETTINGS).values():
        assert ended.status == 1
        assert ended.failure is not None
        assert "no training rows" in ended.failure


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["algo-1", "algo-2"])
def test_a_dying_host_takes_the_others_along(
    container: Container, houses: Tables, victim: str
) -> None:
    container.hosts = ["algo-1", "algo-2", "algo-3"]
    # What ends the others is the broken connection, not a timeout.
    container.environment["SF_SAGEMAKER_PEER_TIMEOUT"] = "600"
    thirds = [houses["train"][0], houses["train"][1].slice(0, 800), houses["train"][1].slice(800)]
    container.write({**houses, "train": thirds}, target="price", kind="positive")
    slow = {**SETTINGS, "num_round": 5000, "max_depth": 8}
    running = container.start_all(**slow)
    running["algo-1"].wait_for_line("[1/5000]")
    running[victim].kill()
    began = time.monotonic()
    for host in container.hosts:
        ended = running[host].wait(timeout=60)
        assert files(ended) == []
        if host != victim:
            assert ended.status != 0
            assert ended.failure is not None
            assert "another host" in ended.failure
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_host_that_never_comes(container: Container, houses: Tables) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.environment["SF_SAGEMAKER_PEER_TIMEOUT"] = "3"
    container.write(houses, target="price", kind="positive")
    ended = container.start("algo-1", **SETTINGS).wait(timeout=60)
    assert ended.status == 1
    assert ended.failure is not None
    assert "algo-1 waited for algo-1, algo-2" in ended.failure
    ended = container.start("algo-2", **SETTINGS).wait(timeout=60)
    assert ended.status == 1
    assert ended.failure is not None
    assert "did not all come within 3 seconds" in ended.failure


@pytest.mark.slow
def test_bad_data_on_one_host_fails_all(container: Container, houses: Tables) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.write(houses, target="price", kind="positive")
    shard = next(container.data("train", "algo-2").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:1000])
    ended = container.run_all(**SETTINGS)
    assert [each.status != 0 for each in ended.values()] == [True, True]
    assert ended["algo-2"].failure is not None
    assert str(shard) in ended["algo-2"].failure
    assert ended["algo-1"].failure is not None
    assert "another host" in ended["algo-1"].failure


@pytest.mark.slow
def test_a_replicated_train_channel_is_refused(container: Container, houses: Tables) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.write(houses, target="price", kind="positive")
    source = next(container.data("train", "algo-2").rglob("*.parquet"))
    (container.data("train", "algo-1") / "too.parquet").write_bytes(source.read_bytes())
    for ended in container.run_all(**SETTINGS).values():
        assert ended.failure is not None
        assert "hold 4800 train" in ended.failure


@pytest.mark.slow
def test_one_host_is_stopped(container: Container, houses: Tables, tmp_path: Path) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.write(houses, target="price", kind="positive")
    slow = {**SETTINGS, "num_round": 300, "max_depth": 7}
    expected = container.run_all(**slow)["algo-1"].model / "model.ubj"
    content = expected.read_bytes()
    for path in [*expected.parent.iterdir(), *(container.root() / "checkpoints").iterdir()]:
        path.unlink()
    running = container.start_all(**slow)
    running["algo-1"].wait_for_line("[45/300]")
    running["algo-2"].process.terminate()
    for each in running.values():
        ended = each.wait(timeout=30)
        assert ended.status == 1
        assert ended.failure is not None
        assert ended.failure.startswith("stopped by SIGTERM after round")
    resumed = container.run_all(**slow)
    assert "resuming after round" in resumed["algo-1"].output
    assert expected.read_bytes() == content
