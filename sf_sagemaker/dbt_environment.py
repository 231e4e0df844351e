"""What dbt's process needs beyond the surrounding environment, for as long as dbt is started."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

_changing = Lock()  # the environment of a process is one for all its threads


def _nothing() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class DbtEnvironment:
    """The secrets in dbt's profile, read when dbt is started.

    The target needs nothing from here: dbt_project/profiles.yml follows SF_SAGEMAKER_DEPLOYMENT.
    """

    environment: Callable[[], Mapping[str, str]] = _nothing

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Has the variables in the environment of this process while the block runs.

        dagster-dbt hands the process's environment to dbt when it starts dbt, and takes no other: it
        is enough to start dbt in the block, and to wait for it outside.
        """
        variables = self.environment()
        with _changing:
            before = {name: os.environ.get(name) for name in variables}
            os.environ.update(variables)
            try:
                yield
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
