"""A tiny random language model, and bird-strike reports as its examples."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from containers.training_container import Container, Tables
from locations import REPOSITORY
from sf_sagemaker.containers import program_files
from sf_sagemaker.containers.environment import Environment, StopSignal
from tiny_language_model import make_tiny_language_model

if find_spec("torch") is None:  # installed without the extra llm
    collect_ignore_glob = ["test_*.py"]

REPORTS = REPOSITORY / "data" / "faa_bird_strike_reports.parquet"
WORDS = {
    "Precautionary Landing": "landing",
    "Aborted Take-off": "abort",
    "Engine Shut Down": "shutdown",
    "Other": "other",
}


def examples_of(table: pa.Table) -> pa.Table:
    """Prompts and completions of reports, as the dbt model makes them but for the length."""
    prompts = [
        f"Phase: {(phase or 'unknown').lower()}. Remark: {_normalized(remark)[:60]}. Effect:"
        for phase, remark in zip(
            table["phase_of_flt"].to_pylist(), table["remarks"].to_pylist(), strict=True
        )
    ]
    return pa.table(
        {
            "report_id": table["report_id"],
            "prompt": prompts,
            "completion": [WORDS[effect] for effect in table["effect"].to_pylist()],
        }
    )


def _normalized(text: str) -> str:
    return re.sub("[^a-z0-9]+", " ", text.lower()).strip()


@pytest.fixture(scope="session")
def reports() -> Tables:
    """Reports with an effect: 240 to train on, 40 to validate, 40 later ones to test."""
    table = pq.read_table(REPORTS)
    table = examples_of(table.filter(table["effect"].is_valid()).sort_by("incident_date"))
    return {
        "train": [table.slice(900, 240)],
        "validation": [table.slice(1140, 40)],
        "test": [table.slice(1300, 40)],
    }


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, reports: Tables) -> Path:
    """A tiny language model with a tokenizer trained on the reports."""
    texts = [text for part in reports["train"] for text in part["prompt"].to_pylist()]
    texts += [f" {word}" for word in WORDS.values()] * 20
    return make_tiny_language_model(tmp_path_factory.mktemp("base") / "tiny", texts)


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A code folder that holds the program's files and nothing else."""
    folder = tmp_path_factory.mktemp("code")
    for name, source in program_files("llm")[1].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def container(tmp_path: Path, code: Path) -> Iterator[Container]:
    """A container of one host."""
    made = Container(tmp_path / "job", code, entry_point="train_llm.py")
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


class StopAfter(StopSignal):
    """A stop that is asked for once training has looked for one so many times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def requested(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.looks -= 1
        return self.looks < 0


@dataclass
class Job:
    """A training in this process. The hyperparameters are quick ones for the tiny base."""

    container: Container
    base: Path
    hosts: list[str] = field(default_factory=lambda: ["algo-1"])

    def write(self, tables: Tables) -> None:
        self.container.write(tables, target="completion", kind="class", classes=["?"])

    def hyperparameters(self, **changed: object) -> dict[str, str]:
        values: Mapping[str, object] = {
            "base_model": self.base,
            "epochs": 2,
            "learning_rate": 0.02,
            "seed": 1,
            **changed,
        }
        return {name: str(value) for name, value in values.items()}

    def train(self, stop: StopSignal | None = None, **hyperparameters: object) -> Path:
        """Trains, and gives the model's folder."""
        from sf_sagemaker.containers.llm.train import train

        root = self.container.root()
        channels = ("train", "validation", "test", "manifest")
        environment = Environment(
            model_dir=root / "model",
            output_data_dir=root / "output" / "data",
            channels={channel: self.container.data(channel) for channel in channels},
            hyperparameters=self.hyperparameters(**hyperparameters),
            hosts=tuple(self.hosts),
            current_host="algo-1",
            num_cpus=1,
        )
        train(environment, stop or StopSignal())
        return environment.model_dir


@pytest.fixture
def new_job(tmp_path: Path, code: Path, tiny_base: Path) -> Callable[..., Job]:
    """Makes jobs, each in a folder of its own, over the tables given."""
    made: list[Job] = []

    def new(tables: Tables) -> Job:
        folder = tmp_path / f"job-{len(made)}"
        job = Job(Container(folder, code, entry_point="train_llm.py"), tiny_base)
        job.write(tables)
        made.append(job)
        return job

    return new


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, code: Path, tiny_base: Path, reports: Tables
) -> Path:
    """The folder of a model trained on the reports. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("trained")
    job = Job(Container(folder, code, entry_point="train_llm.py"), tiny_base)
    job.write(reports)
    return job.train()


def with_column(tables: Tables, split: str, name: str, values: list[Any]) -> dict[str, Any]:
    """The tables with one column of the first table of a split replaced."""
    table = tables[split][0]  # pyright: ignore[reportArgumentType]
    changed = table.set_column(table.column_names.index(name), name, pa.array(values))
    return {**tables, split: [changed, *tables[split][1:]]}  # pyright: ignore
