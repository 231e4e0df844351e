"""`make demo`, as its user sees it: what it prints, what it returns, what a second run does again."""

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
        [sys.executable, "-m", "sf_sagemaker.demo", "--without-llm"],
        cwd=REPOSITORY,
        env={**os.environ, "SF_SAGEMAKER_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")},
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_the_demo_ends_with_a_table_and_reuses_what_it_built(tmp_path: Path) -> None:
    first = demo(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    rows = [line.split() for line in first.stdout.splitlines() if line.startswith("2014-12-")]
    assert [row[0] for row in rows] == ["2014-12-08", "2014-12-15", "2014-12-22", "2014-12-29"]
    for row in rows:
        test_error, next_week_error, baseline = float(row[2]), float(row[4]), float(row[6])
        assert 5 < test_error < 12
        assert 5 < next_week_error < 12 < baseline
        assert "trained" in row

    second = demo(tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    again = [line for line in second.stdout.splitlines() if line.startswith("2014-12-")]
    assert all("adopted" in line for line in again)


def test_a_demo_that_fails_says_why_and_returns_non_zero(tmp_path: Path) -> None:
    (tmp_path / "warehouse.duckdb").write_bytes(b"this is not a database" * 100)
    failed = demo(tmp_path)
    assert failed.returncode == 1
    assert "warehouse.duckdb" in failed.stderr
    assert "2014-12-29" not in failed.stdout
