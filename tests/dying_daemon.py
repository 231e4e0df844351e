"""Dagster's daemon, killed with -9 at the first request to retrain: `dying_daemon.py POINT -- ...`.

POINT is `before_creation` (the run's id is reserved), `before_launch` (the run is created) or
`after_launch` (the tick has not noted so yet). What follows `--` are arguments of dagster-daemon.
"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg

from sf_sagemaker.components.retraining import CAUSE_TAG


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    point, _, *arguments = sys.argv[1:]
    create, submit = dg.DagsterInstance.create_run, dg.DagsterInstance.submit_run

    def create_run(instance: dg.DagsterInstance, **run: Any) -> dg.DagsterRun:
        if point == "before_creation" and CAUSE_TAG in run["tags"]:
            die()
        return create(instance, **run)

    def submit_run(instance: dg.DagsterInstance, run_id: str, workspace: Any) -> dg.DagsterRun:
        run = instance.get_run_by_id(run_id)
        retraining = run is not None and CAUSE_TAG in run.tags
        if point == "before_launch" and retraining:
            die()
        submitted = submit(instance, run_id, workspace)
        if point == "after_launch" and retraining:
            die()
        return submitted

    program = Path(sys.executable).with_name("dagster-daemon")
    sys.argv = [str(program), *arguments]
    with (
        patch.object(dg.DagsterInstance, "create_run", create_run),
        patch.object(dg.DagsterInstance, "submit_run", submit_run),
    ):
        runpy.run_path(str(program), run_name="__main__")


main()
