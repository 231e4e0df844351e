"""`make demo` as its user sees it: what it prints, what it returns, what a second run does again."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locations import REPOSITORY

pytestmark = pytest.mark.slow


def demo(home: Path) -> subprocess.CompletedProcess[str]:
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "dagster.yaml", home / "dagster")
    return command(home, "demo", "--without-llm")


def command(home: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"sf_sagemaker.commands.{name}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "SF_SAGEMAKER_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing goes on answering after the test."""
    yield tmp_path
    command(tmp_path, "stop")


def test_the_demo_ends_with_a_promotion_and_reuses_what_it_built(home: Path) -> None:
    first = demo(home)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "leaked" not in first.stderr  # as DuckDB says of itself where Python doesn't clean up
    lines = first.stdout.splitlines()
    models = [line.split() for line in lines if "house-prices-20" in line and " %" in line]
    assert [row[0] for row in models] == ["2014-09-01", "2015-03-02"]
    for row in models:
        test_error, next_week_error, baseline = float(row[2]), float(row[4]), float(row[6])
        assert 5 < test_error < 12
        assert 5 < next_week_error < 12 < baseline
        assert "trained" in row
    states = [line.split()[-1] for line in lines if line.endswith(("healthy", "decayed"))]
    assert states[0] == "healthy"
    assert states[-1] == "decayed"
    assert any(line.startswith("champion: version 2, house-prices-2015-03-02") for line in lines)

    assert "rows, by version 2" in first.stdout
    asked = question(first.stdout)
    predicted, paid = re.findall(r"answered: ([\d,]+) dollars   \(paid: ([\d,]+)\)", first.stdout)[
        0
    ]
    assert 0.5 < amount(predicted) / amount(paid) < 2
    if shutil.which("curl"):
        answer = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        (prediction,) = json.loads(answer.stdout)["predictions"]
        assert round(prediction["prediction"]) == amount(predicted)

    second = demo(home)
    assert second.returncode == 0, second.stdout + second.stderr
    lines = second.stdout.splitlines()
    again = [line for line in lines if "house-prices-20" in line and " %" in line]
    assert len(again) == 2
    assert all("adopted" in line for line in again)
    # Nothing was promoted a second time, or moved elsewhere.
    assert any(line.startswith("champion: version 2, house-prices-2015-03-02") for line in lines)
    assert question(second.stdout) == asked

    assert command(home, "stop").stdout == "house-prices has ended\n"
    assert not subprocess.run(["pgrep", "-f", str(home)], capture_output=True, text=True).stdout


def question(printed: str) -> list[str]:
    """The arguments of the curl line."""
    (line,) = [line for line in printed.splitlines() if line.startswith("curl ")]
    return [shlex.split(line)[0], "--silent", "--fail", *shlex.split(line)[1:]]


def amount(written: str) -> int:
    return int(written.replace(",", ""))


def test_a_demo_that_fails_says_why_and_returns_non_zero(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_bytes(b"this is not a database" * 100)
    failed = demo(tmp_path)
    assert failed.returncode == 1
    assert "warehouse.duckdb" in failed.stderr
    assert "champion" not in failed.stdout
