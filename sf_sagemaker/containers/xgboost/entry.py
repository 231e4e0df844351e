"""The script that SageMaker starts: it lies at the root of the code folder, as train_xgboost.py."""

from sf_sagemaker.containers.environment import run
from sf_sagemaker.containers.xgboost.train import main

if __name__ == "__main__":
    run(main)
