"""The code location: what defs/ describes, bound to the deployment's resources."""

import gc
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dagster as dg

if TYPE_CHECKING:
    from sf_sagemaker.training.platform import TrainingPlatform

# Which of Dagster's features are young is known here; each start would say it dozens of times.
for notice in (dg.BetaWarning, dg.PreviewWarning):
    warnings.filterwarnings("ignore", category=notice)

# Nearly all that is loaded stays, and Python's garbage collector would walk all of it again and again.
gc.set_threshold(20_000, 20, 20)


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions. Steps run inside the run's own process: the heavy work is a training job's.

    The folder is built by its path: `dg.load_from_defs_folder` also imports every installed
    integration to document its components, which would make each run worker wait for Snowflake's.
    """
    from sf_sagemaker import deployment
    from sf_sagemaker.components.model_component import check_sources
    from sf_sagemaker.components.orphaned_jobs import orphaned_jobs_sensor

    here = Path(__file__).parent
    resources = deployment.resources()
    platform = cast("TrainingPlatform", resources["training_platform"])
    definitions = dg.Definitions.merge(
        dg.ComponentTree.for_project(here).build_defs(here / "defs"),
        dg.Definitions(
            resources=resources,
            executor=dg.in_process_executor,
            # A job that nobody waits for costs nothing on this machine but time.
            sensors=[orphaned_jobs_sensor()] if platform.bills else [],
        ),
    )
    check_sources(definitions)
    # The end of a process walks everything, too, but for what is frozen. DuckDB must not be: it isn't
    # imported yet, and would take what outlives it for leaks and print that.
    gc.freeze()
    return definitions
