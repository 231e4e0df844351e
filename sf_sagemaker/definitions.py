"""The code location: what defs/ describes, bound to the deployment's resources."""

from pathlib import Path

import dagster as dg

from sf_sagemaker import deployment
from sf_sagemaker.components.model_component import check_partitions


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions. Steps run inside the run's own process: the heavy work is a training job's.

    The folder is built by its path: `dg.load_from_defs_folder` also imports every installed
    integration to document its components, which would make each run worker wait for Snowflake's.
    """
    here = Path(__file__).parent
    definitions = dg.Definitions.merge(
        dg.ComponentTree.for_project(here).build_defs(here / "defs"),
        dg.Definitions(resources=deployment.resources(), executor=dg.in_process_executor),
    )
    check_partitions(definitions)
    return definitions
