"""The promotion log: who is champion, since when, and who may not become it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sf_sagemaker.lifecycle.champions import (
    Champion,
    IncompatibleChallenger,
    ModelMissing,
    OlderChallenger,
    UnknownVersion,
    candidate,
    champion_model,
    champion_of,
    promote,
    read_champions,
    roll_back,
    withdraw,
)
from sf_sagemaker.lifecycle.log import CorruptEntry, EntryTaken
from sf_sagemaker.lifecycle.registry import RegisteredModel, register_model, registered_models
from sf_sagemaker.storage import LocalStorage

WEEKS = [f"2015-{month:02}-{day:02}" for month in range(1, 7) for day in (1, 8, 15, 22)]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def registered(week: int, job: str | None = None, **changes: Any) -> RegisteredModel:
    fields = {
        "model": "prices",
        "partition": WEEKS[week],
        "training_job": job or f"job-{week}",
        "artifact_uri": "file:///model.tar.gz",
        "trained_at": "2026-01-01T00:00:00+00:00",
        "dataset": "datasets/prices/1",
        "dataset_fingerprint": "f",
        "spec_digest": "s",
        "target": "price",
        "target_kind": "number",
        "split": "split",
        "features": (("area", "number"),),
        "warm_up": False,
    }
    return RegisteredModel.model_validate({**fields, **changes})


def champion(version: int, week: int, job: str | None = None, **changes: Any) -> Champion:
    fields = {
        "version": version,
        "model": "prices",
        "partition": WEEKS[week],
        "training_job": job or f"job-{week}",
        "in_force_from": WEEKS[week + 1],
        "promoted_at": "2026-01-01T00:00:00+00:00",
        "kind": "promotion",
        "reason": "no worse",
        "figures": {"difference": -0.01},
        "run_id": None,
    }
    return Champion.model_validate({**fields, **changes})


def back(storage: LocalStorage, version: int, week: int) -> Champion:
    return roll_back(
        storage,
        "prices",
        version,
        in_force_from=WEEKS[week],
        promoted_at="2026-01-02T00:00:00+00:00",
        reason="asked for",
    )


def test_what_is_promoted_is_read_back_in_order(storage: LocalStorage) -> None:
    assert read_champions(storage, "prices") == []
    for week in (1, 4):
        register_model(storage, registered(week))
    first = promote(storage, champion(1, 1, kind="first", figures={"rows": 9, "share": 0.5}))
    second = promote(storage, champion(2, 4))
    assert read_champions(storage, "prices") == [first, second]
    assert champion_model(storage, second) == registered(4)


def test_a_figure_that_is_not_finite_is_kept_as_none(storage: LocalStorage) -> None:
    register_model(storage, registered(1))
    promote(storage, champion(1, 1, figures={"error": float("nan"), "bias": 0.1}))
    assert read_champions(storage, "prices")[0].figures == {"error": None, "bias": 0.1}
    assert "NaN" not in storage.read("champions/prices/000001.json").decode()


def test_the_champion_of_a_period_is_the_one_in_force_when_it_began() -> None:
    log = [champion(1, 1), champion(2, 4)]
    found = [champion_of(log, WEEKS[week]) for week in (1, 2, 4, 5, 20)]
    assert [one and one.version for one in found] == [None, 1, 1, 2, 2]


def test_versions_decide_and_no_clock(storage: LocalStorage) -> None:
    for week in (1, 4):
        register_model(storage, registered(week))
    promote(storage, champion(1, 1, promoted_at="2026-06-01T00:00:00+00:00"))
    promote(storage, champion(2, 4, promoted_at="1999-01-01T00:00:00+00:00"))
    log = read_champions(storage, "prices")
    assert [one.version for one in log] == [1, 2]
    assert champion_of(log, WEEKS[5]) == log[1]
    assert champion_of(log, WEEKS[4]) == log[0]


@given(st.lists(st.integers(2, 20), min_size=1, max_size=8), st.integers(0, 22))
def test_of_those_that_had_started_the_highest_version_is_in_force(
    starts: list[int], week: int
) -> None:
    log = [champion(n + 1, 0, in_force_from=WEEKS[start]) for n, start in enumerate(starts)]
    found = champion_of(log, WEEKS[week])
    started = [one.version for one in log if one.in_force_from <= WEEKS[week]]
    assert (found.version if found else None) == max(started, default=None)


def test_a_model_is_never_in_force_in_the_period_that_it_was_trained_on() -> None:
    with pytest.raises(ValidationError, match="must be later than the partition 2015-01-08"):
        champion(1, 1, in_force_from=WEEKS[1])


def test_an_older_challenger_is_refused_and_so_is_the_champion_itself(
    storage: LocalStorage,
) -> None:
    for week in (1, 4):
        register_model(storage, registered(week))
    promote(storage, champion(1, 4))
    with pytest.raises(OlderChallenger, match="job-1 of 2015-01-08 is not newer than"):
        promote(storage, champion(2, 1))
    with pytest.raises(OlderChallenger):
        promote(storage, champion(2, 4))
    assert len(read_champions(storage, "prices")) == 1


def test_a_model_trained_again_for_the_same_period_is_newer(storage: LocalStorage) -> None:
    # Named so that the order of names is not the order of registration.
    for job in ("job-b", "job-a"):
        register_model(storage, registered(4, job))
    promote(storage, champion(1, 4, "job-b"))
    promote(storage, champion(2, 4, "job-a"))
    with pytest.raises(OlderChallenger):
        promote(storage, champion(3, 4, "job-b"))


def test_a_challenger_that_is_not_registered_is_refused(storage: LocalStorage) -> None:
    register_model(storage, registered(1))
    with pytest.raises(ModelMissing, match="job-2 of 2015-01-15, which is not registered"):
        promote(storage, champion(1, 2))
    assert read_champions(storage, "prices") == []


@pytest.mark.parametrize("change", [{"target": "rent"}, {"target_kind": "category"}])
def test_a_challenger_of_another_target_is_refused(
    storage: LocalStorage, change: dict[str, str]
) -> None:
    register_model(storage, registered(1))
    register_model(storage, registered(2, **change))
    promote(storage, champion(1, 1))
    with pytest.raises(IncompatibleChallenger, match="give the new target a model of another name"):
        promote(storage, champion(2, 2))


def test_a_challenger_of_other_features_or_another_split_is_not(storage: LocalStorage) -> None:
    register_model(storage, registered(1))
    register_model(storage, registered(2, features=(("rooms", "number"),), split="another"))
    promote(storage, champion(1, 1))
    promote(storage, champion(2, 2))
    assert len(read_champions(storage, "prices")) == 2


def test_a_champion_that_is_missing_is_named_and_can_be_followed(storage: LocalStorage) -> None:
    for week in (1, 2):
        register_model(storage, registered(week))
    lost = promote(storage, champion(1, 1))
    storage.delete(f"models/prices/{WEEKS[1]}")
    with pytest.raises(ModelMissing, match="version 1 of the champions of prices is training job"):
        champion_model(storage, lost)
    assert candidate([lost], registered_models(storage, "prices")) == registered(2)
    promote(storage, champion(2, 2))
    # A model trained again for the lost one's period would have done as well.
    assert candidate([lost], [registered(1, "again")]) == registered(1, "again")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b"[]", "expected a JSON object"),
        (b'{"version": 1}', "is not a promotion"),
        (champion(1, 1).model_copy(update={"figures": {}}).model_dump_json().encode()[:-1] + b', "x": 1}',
         "is not a promotion"),
        (champion(7, 1).model_dump_json().encode(), "version 7 of prices: expected version 1"),
        (champion(1, 1, model="rents").model_dump_json().encode(), "version 1 of rents"),
    ],
)  # fmt: skip
def test_a_corrupt_entry_is_named(storage: LocalStorage, content: bytes, said: str) -> None:
    storage.create("champions/prices/000001.json", content)
    with pytest.raises(CorruptEntry, match=said) as caught:
        read_champions(storage, "prices")
    assert "champions/prices/000001.json" in str(caught.value)


def test_a_gap_in_the_log_is_an_error(storage: LocalStorage) -> None:
    for week in (1, 2):
        register_model(storage, registered(week))
        promote(storage, champion(week, week))
    storage.delete("champions/prices/000001.json")
    with pytest.raises(CorruptEntry, match="lacks entry 000001"):
        promote(storage, champion(3, 2))


def test_what_a_rollback_deposed_does_not_come_back_by_itself(storage: LocalStorage) -> None:
    for week in (1, 4):
        register_model(storage, registered(week))
    promote(storage, champion(1, 1))
    promote(storage, champion(2, 4))
    rolled = back(storage, 1, week=6)
    assert (rolled.version, rolled.kind, rolled.training_job) == (3, "rollback", "job-1")
    log = read_champions(storage, "prices")
    assert [champion_of(log, WEEKS[week]) for week in (3, 5, 6)] == log
    assert candidate(log, registered_models(storage, "prices")) is None

    register_model(storage, registered(3))  # newer than the champion, older than the deposed one
    assert candidate(log, registered_models(storage, "prices")) is None
    register_model(storage, registered(5))
    assert candidate(log, registered_models(storage, "prices")) == registered(5)


def take_back(storage: LocalStorage, job: str, serving: str) -> Champion | None:
    return withdraw(
        storage,
        "prices",
        job,
        serving=serving,
        promoted_at="2026-01-02T00:00:00+00:00",
        reason="an alarm rang",
    )


def test_a_promotion_that_is_withdrawn_never_was_in_force(storage: LocalStorage) -> None:
    for week in (1, 4, 6):
        register_model(storage, registered(week))
    promote(storage, champion(1, 1))
    promote(storage, champion(2, 4))
    promote(storage, champion(3, 6))  # neither of the two came to answer
    withdrawn = take_back(storage, "job-6", serving="job-1")
    assert withdrawn is not None
    assert (withdrawn.version, withdrawn.kind, withdrawn.training_job) == (4, "rollback", "job-1")
    log = read_champions(storage, "prices")
    assert all(champion_of(log, WEEKS[week]) == withdrawn for week in (5, 6, 7, 20))
    assert champion_of(log, WEEKS[3]) == log[0]
    assert candidate(log, registered_models(storage, "prices")) is None


def test_what_has_changed_meanwhile_is_not_withdrawn(storage: LocalStorage) -> None:
    for week in (1, 4):
        register_model(storage, registered(week))
    promote(storage, champion(1, 1))
    promote(storage, champion(2, 4))
    assert take_back(storage, "job-1", serving="job-4") is None  # no longer champion
    assert take_back(storage, "job-4", serving="job-9") is None  # never was
    assert take_back(storage, "job-4", serving="job-4") is None  # answers
    assert len(read_champions(storage, "prices")) == 2


def test_a_rollback_needs_a_version_of_another_model_that_is_there(storage: LocalStorage) -> None:
    with pytest.raises(UnknownVersion, match="its log has 0 of them"):
        back(storage, 1, week=6)
    for week in (1, 4):
        register_model(storage, registered(week))
    promote(storage, champion(1, 1))
    promote(storage, champion(2, 4))
    for version in (0, 3):
        with pytest.raises(UnknownVersion, match="its log has 2 of them"):
            back(storage, version, week=6)
    with pytest.raises(UnknownVersion, match="the champion already"):
        back(storage, 2, week=6)
    storage.delete(f"models/prices/{WEEKS[1]}")
    with pytest.raises(ModelMissing):
        back(storage, 1, week=6)
    assert len(read_champions(storage, "prices")) == 2


def test_a_rollback_that_is_asked_for_again_adds_no_second_entry(storage: LocalStorage) -> None:
    for week in (1, 4):
        register_model(storage, registered(week))
    promote(storage, champion(1, 1))
    promote(storage, champion(2, 4))
    rolled = back(storage, 1, week=6)
    assert back(storage, 1, week=7) == rolled
    assert read_champions(storage, "prices")[2:] == [rolled]
    with pytest.raises(UnknownVersion, match="the champion already"):
        back(storage, 3, week=7)
    again = back(storage, 2, week=7)
    assert (again.version, again.training_job) == (4, "job-4")
    assert back(storage, 1, week=8).version == 5, "which is another rollback than the first"


def test_the_candidate_is_the_newest_whose_window_was_full() -> None:
    assert candidate([], []) is None
    assert candidate([], [registered(1, warm_up=True)]) is None
    models = [registered(1), registered(2, "b"), registered(2, "a"), registered(3, warm_up=True)]
    assert candidate([], models) == registered(2, "a")
    assert candidate([champion(1, 2, "b")], models) == registered(2, "a")
    assert candidate([champion(1, 2, "a")], models) is None


def test_a_promotion_that_another_one_overtook_is_told_to_decide_again(
    storage: LocalStorage,
) -> None:
    for week in (1, 2, 3):
        register_model(storage, registered(week))
    promote(storage, champion(1, 1))
    promote(storage, champion(2, 3))
    with pytest.raises(EntryTaken, match="has 2 entries now"):
        promote(storage, champion(2, 2))
    with pytest.raises(EntryTaken):
        promote(storage, champion(4, 3))


PROMOTER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("champions_test", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from sf_sagemaker.storage import LocalStorage

storage, done, refused = LocalStorage(Path({root!r})), [], []
print("ready", flush=True)
sys.stdin.readline()
for week in {weeks!r}:
    while True:
        version = len(module.read_champions(storage, "prices")) + 1
        try:
            module.promote(storage, module.champion(version, week, run_id={name!r}))
            done.append(version)
        except module.EntryTaken:
            continue
        except module.OlderChallenger:
            refused.append(week)
        break
print(done, refused)
"""


def test_processes_that_promote_at_once_lose_nothing(storage: LocalStorage) -> None:
    for week in range(20):
        register_model(storage, registered(week))
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", PROMOTER.format(
                tests=str(Path(__file__).parent.parent), file=__file__, root=str(storage.root),
                weeks=list(weeks), name=name,
            )],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, weeks in {"odd": range(1, 20, 2), "even": range(0, 20, 2)}.items()
    }  # fmt: skip
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = {}
    for process in processes.values():
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for name, process in processes.items():
        output, _ = process.communicate(timeout=60)
        done, refused = output.strip().split("] ")
        said[name] = (json.loads(f"{done}]"), json.loads(refused))
    log = read_champions(storage, "prices")
    for name, (done, refused) in said.items():
        assert [one.version for one in log if one.run_id == name] == done
        assert len(done) + len(refused) == 10
    partitions = [one.partition for one in log]
    assert partitions == sorted(set(partitions))
    assert partitions[-1] == WEEKS[19]
