"""The script that SageMaker starts: it lies at the root of the code folder, as train_llm.py."""

import os
import tempfile
from pathlib import Path

from sf_sagemaker.containers.environment import Environment, StopSignal, run
from sf_sagemaker.containers.llm.base_model import is_local
from sf_sagemaker.containers.llm.libraries import explain_missing_libraries


def main(environment: Environment, stop: StopSignal) -> None:
    """The training, in an image that has its libraries: a process for each GPU. Raises ContainerError."""
    name = environment.hyperparameters.get("base_model")
    if name and is_local(name):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported
    if "TRAINING_JOB_NAME" in os.environ:  # on SageMaker, whose disk for data has /tmp and no home
        scratch = Path(tempfile.gettempdir())
        os.environ.setdefault("HF_HOME", str(scratch / "huggingface"))
        os.environ.setdefault("SF_SAGEMAKER_CACHE", str(scratch / "sf_sagemaker"))
    os.environ["TQDM_DISABLE"] = "1"  # progress goes through the reporter
    with explain_missing_libraries():
        from sf_sagemaker.containers.llm.processes import (
            count_processes,
            is_member,
            join_group,
            run_processes,
        )
        from sf_sagemaker.containers.llm.train import train
    count = count_processes(environment)
    if count > 1 and not is_member():
        run_processes(count, stop)
        return
    train(environment, stop, join_group())


if __name__ == "__main__":
    run(main)
