"""Several processes that train one model: two of them without GPUs, which meet as those with GPUs do.

The script finds as many GPUs as SM_NUM_GPUS says, and here none of them is real.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from containers.llm.conftest import Job
from containers.training_container import Container, Tables
from sf_sagemaker.containers.environment import Environment, InvalidEnvironment, StopSignal
from sf_sagemaker.containers.llm.processes import (
    Group,
    ProcessFailed,
    count_processes,
    run_processes,
)

# With a tenth of the other tests' learning rate: theirs makes much of the order of sums.
SETTINGS = {"epochs": 2, "learning_rate": 0.002, "seed": 1}
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def two(container: Container, reports) -> Container:
    """A container on whose host two processes train."""
    container.environment["SM_NUM_GPUS"] = "2"
    container.write(reports, target="completion", kind="class", classes=["?"])
    return container


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, code: Path, tiny_base: Path, reports: Tables
) -> Path:
    """The folder of the model that one process trains."""
    folder = tmp_path_factory.mktemp("alone")
    job = Job(Container(folder, code, entry_point="train_llm.py"), tiny_base)
    job.write(reports)
    return job.train(**SETTINGS)


def curve_of(model: Path, split: str) -> list[float]:
    card: dict[str, Any] = json.loads((model / "model-card.json").read_text())
    return card["learning_curve"][split]["loss"]


def same_model(one: Path, other: Path) -> None:
    """That two models were trained alike, step by step, but for the order of sums."""
    for split in ("train", "validation"):
        np.testing.assert_allclose(curve_of(one, split), curve_of(other, split), rtol=2e-3)
    tensors, others = load_file(one / ADAPTER), load_file(other / ADAPTER)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor, others[name], atol=2e-3, err_msg=name)
    cards = [json.loads((model / "model-card.json").read_text()) for model in (one, other)]
    for key in ("steps", "answers", "trainable_parameters", "base_model", "precision"):
        assert cards[0][key] == cards[1][key], key
    metrics = [card["metrics"]["test"]["completion_loss"] for card in cards]
    assert metrics[0] == pytest.approx(metrics[1], rel=2e-3)


@pytest.mark.slow
def test_two_processes_train_what_one_does(two: Container, alone: Path, tiny_base) -> None:
    finished = two.run(base_model=tiny_base, **SETTINGS)
    assert finished.status == 0, finished.output
    assert "training on 2 x cpu in float32" in finished.output
    # one of them reports, and writes checkpoints
    assert finished.output.count("[60/60] train-loss=") == 1
    assert len(list((two.root() / "checkpoints").iterdir())) == 2
    same_model(finished.model, alone)


@pytest.mark.slow
def test_a_stop_is_passed_on_and_two_processes_resume(
    two: Container, alone: Path, tiny_base
) -> None:
    running = two.start(base_model=tiny_base, **SETTINGS)
    running.wait_for_line("[9/60]")
    running.process.send_signal(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.status == 1
    assert stopped.failure is not None
    assert stopped.failure.startswith("stopped by SIGTERM after step ")
    step = int(stopped.failure.split("step ")[1].split(":")[0])
    assert 9 <= step < 60
    assert not list(stopped.model.iterdir())

    finished = two.run(base_model=tiny_base, **SETTINGS)
    assert finished.status == 0, finished.output
    assert f"resuming after step {step}" in finished.output
    same_model(finished.model, alone)


@pytest.mark.slow
def test_a_failure_of_the_processes_is_the_job_s(two: Container, tiny_base) -> None:
    finished = two.run(base_model=tiny_base, learning_rate=1, lora_alpha=1e30)
    assert finished.status == 1
    assert finished.failure is not None
    assert "has the loss" in finished.failure
    assert "lower learning_rate" in finished.failure


@pytest.mark.slow
def test_batches_smaller_than_the_group_leave_some_without_a_row(
    two: Container, new_job, reports, tiny_base
) -> None:
    settings = {"epochs": 0.05, "batch_size": 1, "seed": 1}
    finished = two.run(base_model=tiny_base, **settings)
    assert finished.status == 0, finished.output
    one = new_job(reports).train(**{**settings, "learning_rate": 2e-3})
    same_model(finished.model, one)


# ------------------------------------------------------------------------ looking after processes

FAILING = """
import json, os, pathlib, sys, time
place = json.loads(os.environ["SF_SAGEMAKER_PROCESS"])
failure = pathlib.Path(os.environ["SF_SAGEMAKER_FAILURE_FILE"])
if place["rank"] == 1:
    failure.write_text("the second one has no memory left")
    sys.exit(1)
while not failure.with_name("failure-1").exists():
    time.sleep(0.01)
time.sleep(0.2)
failure.write_text("connection closed by peer")
sys.exit(1)
"""
DYING = """
import json, os, signal, time
if json.loads(os.environ["SF_SAGEMAKER_PROCESS"])["rank"] == 2:
    os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED = """
import json, os, pathlib, signal, sys, time
place = json.loads(os.environ["SF_SAGEMAKER_PROCESS"])
if place["rank"] == 1:
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path(os.environ["SF_SAGEMAKER_FAILURE_FILE"]).write_text("connection closed by peer")
sys.exit(1)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def use(text: str) -> None:
        path = tmp_path / "script.py"
        path.write_text(text)
        monkeypatch.setattr(sys, "argv", [str(path)])

    return use


def test_the_first_that_fails_gives_the_reason(script) -> None:
    script(FAILING)
    with pytest.raises(ProcessFailed, match=r"^the second one has no memory left$"):
        run_processes(2, StopSignal())


def test_a_killed_process_is_told_of(script) -> None:
    script(DYING)
    with pytest.raises(ProcessFailed, match="process 3 of 3 was killed by signal 9"):
        run_processes(3, StopSignal())


def test_what_others_say_of_a_killed_process_is_not_the_reason(script) -> None:
    script(KILLED)
    with pytest.raises(ProcessFailed, match="process 2 of 2 was killed by signal 9"):
        run_processes(2, StopSignal())


def test_nobody_is_left_behind(script, tmp_path: Path) -> None:
    script(f"import os, time; open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w'); time.sleep(60)")

    class StopWhenStarted(StopSignal):
        @property
        def requested(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
            return sum(path.name.isdigit() for path in tmp_path.iterdir()) == 2

        @requested.setter
        def requested(self, value: bool) -> None: ...

    started = time.monotonic()
    with pytest.raises(ProcessFailed, match="stopped by SIGTERM before the training was done"):
        run_processes(2, StopWhenStarted())
    assert time.monotonic() - started < 30
    for path in tmp_path.iterdir():
        if path.name.isdigit():
            with pytest.raises(ProcessLookupError):
                os.kill(int(path.name), 0)


def test_as_many_processes_as_gpus(tmp_path: Path) -> None:
    def environment(**variables: str) -> Environment:
        return Environment.read({"SM_MODEL_DIR": str(tmp_path), **variables})

    assert count_processes(environment(SM_NUM_GPUS="8")) == 8
    assert count_processes(environment(SM_NUM_GPUS="0")) == 1
    assert environment().num_gpus is None
    with pytest.raises(InvalidEnvironment, match="SM_NUM_GPUS is 'four'"):
        environment(SM_NUM_GPUS="four")


def test_parts_are_disjoint_and_complete() -> None:
    for size in range(1, 5):
        parts = [Group(rank, size).part(range(11)) for rank in range(size)]
        assert sorted(item for part in parts for item in part) == list(range(11))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
