"""`make demo` as its user sees it: what it prints, what it returns, what a second run does again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from locations import REPOSITORY

pytestmark = pytest.mark.slow


def demo(home: Path) -> subprocess.CompletedProcess[str]:
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "dagster.yaml", home / "dagster")
    return subprocess.run(
        [sys.executable, "-m", "sf_sagemaker.commands.demo", "--without-llm"],
        cwd=REPOSITORY,
        env={**os.environ, "SF_SAGEMAKER_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")},
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_the_demo_ends_with_a_promotion_and_reuses_what_it_built(tmp_path: Path) -> None:
    first = demo(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
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

    second = demo(tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    lines = second.stdout.splitlines()
    again = [line for line in lines if "house-prices-20" in line and " %" in line]
    assert len(again) == 2
    assert all("adopted" in line for line in again)
    # Nothing was promoted a second time.
    assert any(line.startswith("champion: version 2, house-prices-2015-03-02") for line in lines)


def test_a_demo_that_fails_says_why_and_returns_non_zero(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_bytes(b"this is not a database" * 100)
    failed = demo(tmp_path)
    assert failed.returncode == 1
    assert "warehouse.duckdb" in failed.stderr
    assert "champion" not in failed.stdout
