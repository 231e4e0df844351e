"""The script in a process of its own, from a code folder that holds nothing else."""

import signal
from pathlib import Path

import pytest

from sf_sagemaker.containers import program_files

# Makes imports of torch fail as they do where it isn't installed.
WITHOUT_TORCH = """
import sys

class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, WithoutTorch())
"""


def test_the_program_holds_its_own_modules_and_the_shared_ones():
    entry_point, files = program_files("llm")
    assert entry_point == "train_llm.py"
    assert "sf_sagemaker/containers/llm/train.py" in files
    assert "sf_sagemaker/containers/reporter.py" in files
    assert not any("xgboost" in name or "warehouse" in name for name in files)


def test_without_torch_the_failure_says_how_to_install_it(
    container, tiny_base, reports, tmp_path: Path
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_TORCH)
    container.environment["PYTHONPATH"] = str(tmp_path / "site")
    container.write(reports, target="completion", kind="class", classes=["?"])
    finished = container.run(base_model=tiny_base)
    assert finished.status == 1
    assert finished.failure is not None
    assert finished.failure.startswith("torch is not installed, and language models need")
    assert "pip install 'sf_sagemaker[llm]'" in finished.failure


@pytest.mark.slow
def test_sigterm_saves_what_was_trained_and_another_start_goes_on(container, tiny_base, reports):
    container.write(reports, target="completion", kind="class", classes=["?"])
    settings = {"base_model": tiny_base, "epochs": 12, "learning_rate": 0.02}
    running = container.start(**settings)
    running.wait_for_line("[36/360]")
    running.process.send_signal(signal.SIGTERM)
    stopped = running.wait()
    assert stopped.status == 1
    assert stopped.failure is not None
    assert stopped.failure.startswith("stopped by SIGTERM after step ")
    step = int(stopped.failure.split("step ")[1].split(":")[0])
    assert not list(stopped.model.iterdir())

    finished = container.run(**settings)
    assert finished.status == 0, finished.output
    assert f"resuming after step {step}" in finished.output
    assert finished.failure is None
    assert finished.card["steps"] == 360
    assert "[360/360] train-loss=" in finished.output
    assert "test:completion_loss=" in finished.output
