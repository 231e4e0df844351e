"""The script that SageMaker starts: it lies at the root of the code folder, as train_llm.py."""

import os

from sf_sagemaker.containers.environment import Environment, StopSignal, run
from sf_sagemaker.containers.llm.base_model import is_local
from sf_sagemaker.containers.llm.libraries import explain_missing_libraries


def main(environment: Environment, stop: StopSignal) -> None:
    """The training, in an image that has its libraries. Raises ContainerError."""
    if is_local(environment.hyperparameters.get("base_model", "")):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported
    os.environ["TQDM_DISABLE"] = "1"  # progress goes through the reporter
    with explain_missing_libraries():
        from sf_sagemaker.containers.llm.train import train
    train(environment, stop)


if __name__ == "__main__":
    run(main)
