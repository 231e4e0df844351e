"""What a script reports: to the log, and to Dagster where Dagster listens."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from containers.training_container import Container, Finished, Tables, one_shard
from sf_sagemaker.containers.reporter import open_reporter

SETTINGS = {"objective": "reg:squarederror", "num_round": 40}


def test_without_dagster_it_is_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_PIPES_CONTEXT", raising=False)
    with open_reporter() as reporter:
        reporter.info("hello")
        for done in range(1, 201):
            reporter.progress(done, 200, **{"train-rmse": 1 / done, "validation-rmse": 0.5})
        reporter.progress(7, 200, loss=0.25)
        reporter.metrics(mae=1234567.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "hello"
    assert lines[1] == "[1/200] train-rmse=1 validation-rmse=0.5"
    assert lines[2] == "[10/200] train-rmse=0.1 validation-rmse=0.5"
    assert lines[-3:] == [
        "[200/200] train-rmse=0.005 validation-rmse=0.5",
        "[7/200] loss=0.25",
        "mae=1.23457e+06",
    ]
    assert len(lines) == 24


def test_the_last_step_is_reported_when_the_training_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train() -> None:
        with open_reporter() as reporter:
            reporter.progress(33, 200, loss=0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert capsys.readouterr().out == "[33/200] loss=0.5\n"


def train_under_dagster(container: Container, path: Path, **settings: object):
    """Runs the script in a real Pipes session; gives the run, and what the script left."""
    left: list[Finished] = []
    custom: list[Any] = []

    @dg.op
    def train(context: dg.OpExecutionContext) -> None:
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesFileMessageReader(str(path)),
        ) as session:
            container.environment.update(session.get_bootstrap_env_vars())
            left.extend(container.run_all(**settings).values())
        custom.extend(session.get_custom_messages())

    @dg.job
    def training() -> None:
        train()

    with dg.DagsterInstance.ephemeral() as instance:
        result = training.execute_in_process(instance=instance, raise_on_error=False)
        lines = [record.message for record in instance.all_logs(result.run_id)]
    return result, lines, custom, left


def test_under_dagster_it_reaches_the_run(
    container: Container, houses: Tables, tmp_path: Path
) -> None:
    container.write(one_shard(houses), target="price", kind="positive")
    result, lines, custom, left = train_under_dagster(container, tmp_path / "messages", **SETTINGS)
    assert result.success
    assert left[0].status == 0, left[0].output
    progress = [line for line in lines if "[40/40] train-rmse=" in line]
    assert len(progress) == 1
    assert any("rows: 3200 train, 400 validation, 400 test" in line for line in lines)
    steps = [message["progress"] for message in custom if "progress" in message]
    assert [step["done"] for step in steps] == [1, *range(2, 41, 2)]
    assert steps[-1]["total"] == 40
    curve = left[0].card["learning_curve"]
    assert steps[-1]["train-rmse"] == curve["train"]["rmse"][-1]
    (figures,) = [message["metrics"] for message in custom if "metrics" in message]
    assert figures["test:bias"] == left[0].card["metrics"]["test"]["bias"]
    # CloudWatch reads the same lines from stdout.
    assert "[40/40] train-rmse=" in left[0].output


@pytest.mark.slow
def test_of_several_hosts_one_reports(container: Container, houses: Tables, tmp_path: Path) -> None:
    container.hosts = ["algo-1", "algo-2"]
    container.write(houses, target="price", kind="positive")
    result, lines, _, left = train_under_dagster(container, tmp_path / "messages", **SETTINGS)
    assert result.success
    assert [each.status for each in left] == [0, 0]
    assert len([line for line in lines if "[40/40] train-rmse=" in line]) == 1
    assert "[40/40] train-rmse=" in left[1].output


def test_a_failure_reaches_the_run(container: Container, houses: Tables, tmp_path: Path) -> None:
    tables = one_shard(houses)
    container.write(tables, target="price", kind="positive")
    # Checks of the data come before Dagster hears of anything; this one fails afterwards.
    (container.root() / "checkpoints").parent.mkdir(parents=True, exist_ok=True)
    (container.root() / "checkpoints").write_text("in the way")
    _, lines, _, left = train_under_dagster(container, tmp_path / "messages", **SETTINGS)
    assert left[0].status == 1
    assert any("pipes closed with exception" in line for line in lines), lines
