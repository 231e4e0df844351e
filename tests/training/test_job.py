import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.training.job import (
    Channel,
    InvalidTrainingJob,
    Limits,
    Program,
    TrainingJob,
)

# TrainingJobName of CreateTrainingJob
ALLOWED_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")

models = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
partitions = st.dates().map(lambda date: date.isoformat())
attempts = st.integers(1, 100)


def a_job(**changes: object) -> TrainingJob:
    job = TrainingJob(
        model="house_prices",
        partition="2015-04-27",
        program=Program(Path(__file__).name, {Path(__file__).name: Path(__file__)}),
        image="sha256:1",
        dataset_fingerprint="abc",
        channels=(Channel("train", "data/train"),),
        hyperparameters={"eta": "0.1"},
        seed=7,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


@given(models, partitions, attempts)
def test_any_model_has_a_name_that_sagemaker_takes(
    model: str, partition: str, attempt: int
) -> None:
    name = a_job(model=model, partition=partition).name(attempt)
    assert ALLOWED_NAME.fullmatch(name)
    assert len(name) <= 63
    assert partition in name


@given(st.lists(st.tuples(models, partitions, attempts), min_size=2, unique=True))
def test_different_jobs_and_attempts_have_different_names(
    identities: list[tuple[str, str, int]],
) -> None:
    names = {
        a_job(model=model, partition=partition).name(attempt)
        for model, partition, attempt in identities
    }
    assert len(names) == len(identities)


def test_models_that_differ_only_after_the_cut_have_different_names() -> None:
    long = "a" * 62
    assert a_job(model=long + "b").name(1) != a_job(model=long + "c").name(1)


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_count_from_one(attempt: int) -> None:
    with pytest.raises(InvalidTrainingJob, match="attempts count from 1"):
        a_job().name(attempt)


def test_entry_point_must_be_among_the_files() -> None:
    with pytest.raises(InvalidTrainingJob, match=r"train\.py.*other\.py"):
        Program("train.py", {"other.py": Path(__file__)})


@pytest.mark.parametrize(
    "change",
    [
        {"model": "flat_prices"},
        {"partition": "2015-05-04"},
        {"image": "sha256:2"},
        {"dataset_fingerprint": "abd"},
        {"hyperparameters": {"eta": "0.2"}},
        {"seed": 8},
        {"instance_count": 2},
        {"channels": (Channel("train", "data/train", "sharded"),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_the_result_changes_the_digest(change: dict[str, object]) -> None:
    assert a_job(**change).digest != a_job().digest


@pytest.mark.parametrize(
    "change",
    [
        {"limits": Limits("ml.c5.large", timedelta(days=1), spot=True)},
        {"tags": {"team": "analytics"}},
        {"channels": (Channel("train", "elsewhere/train"),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_decide_it_leaves_the_digest(change: dict[str, object]) -> None:
    assert a_job(**change).digest == a_job().digest


def test_code_changes_the_digest(tmp_path: Path) -> None:
    def digest(content: str, *, path: str = "lib.py") -> str:
        (tmp_path / "file").write_text(content)
        files = {"train.py": Path(__file__), path: tmp_path / "file"}
        return a_job(program=Program("train.py", files)).digest

    assert digest("a = 1") == digest("a = 1")
    assert len({digest("a = 1"), digest("a = 2"), digest("a = 1", path="other.py")}) == 3


def test_attempts_share_their_checkpoints() -> None:
    job = a_job()
    assert job.digest in job.checkpoint_key
    assert job.checkpoint_key != a_job(seed=8).checkpoint_key
