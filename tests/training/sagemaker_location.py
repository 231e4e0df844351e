"""A code location whose assets each train one job on SageMaker; $STEPS says where, as JSON."""

import json
import os
from dataclasses import replace
from pathlib import Path

import dagster as dg

from training.sagemaker_steps import Steps


@dg.definitions
def defs() -> dg.Definitions:
    told = json.loads(os.environ["STEPS"])
    steps = Steps(Path(told.pop("folder")), **told)
    assets = []
    for name in ("waiting", "failing", "unlucky"):
        one = replace(steps, model=f"{steps.model}_{name}")
        job = one.job(fails=name == "failing")
        assets.append(one.asset(job, one.platform(), name=name))
    return dg.Definitions(assets=assets, executor=dg.in_process_executor)
