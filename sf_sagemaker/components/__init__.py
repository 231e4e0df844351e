"""What a defs.yaml may name: each component turns its attributes into assets, checks and jobs.

Thin on purpose: the work is done by the rooms that they call. `dg list components` shows them,
`dg docs serve` and `dg utils inspect-component TYPE` show their attributes.
"""

from sf_sagemaker.components.dbt_models import DbtModels
from sf_sagemaker.components.fine_tuned_llm import FineTunedLLM
from sf_sagemaker.components.landed_table import LandedTable
from sf_sagemaker.components.run_failure_alerts import RunFailureAlerts
from sf_sagemaker.components.xgboost_model import XGBoostModel

__all__ = ["DbtModels", "FineTunedLLM", "LandedTable", "RunFailureAlerts", "XGBoostModel"]
