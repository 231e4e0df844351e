"""Steps over a range of partitions: each partition stands or falls alone."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Any

import dagster as dg

from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.errors import SfSagemakerError

_WAIT_SECONDS = 1.0


class PartitionsFailed(SfSagemakerError):
    """Some partitions of a range failed, and the others were materialized.

    It is permanent where all of the failures are.
    """

    def __init__(self, message: str, failures: Collection[Exception]) -> None:
        super().__init__(message)
        self.permanent = all(getattr(failure, "permanent", False) for failure in failures)


@dataclass(frozen=True)
class Materialized:
    """What came of one partition."""

    metadata: Mapping[str, Any]
    data_version: str | None = None
    checks: Sequence[dg.AssetCheckResult] = ()


def materialize_each(
    context: dg.AssetExecutionContext,
    build: Callable[[str, Event], Materialized],
    *,
    parallel: int = 1,
) -> dg.MaterializeResult:
    """Builds every partition of a run, up to `parallel` at once, and gives the step's result.

    `build` gets a partition key, and an event that is set when the run is interrupted. In a range, a
    partition that fails doesn't stop the others: what succeeded is recorded, then PartitionsFailed
    names the rest. The checks of a range are those of its newest partition.
    """
    keys = list(context.partition_keys)
    if len(keys) == 1:
        only = build(keys[0], Event())
        return dg.MaterializeResult(
            metadata=only.metadata,
            data_version=dg.DataVersion(only.data_version) if only.data_version else None,
            check_results=only.checks,
        )
    built: dict[str, Materialized] = {}
    failed: dict[str, SfSagemakerError | ContainerError] = {}
    complete = False
    try:
        with closing(_futures(keys, build, parallel)) as futures:
            for key, future in futures:
                try:
                    built[key] = future.result()
                except (SfSagemakerError, ContainerError) as error:
                    failed[key] = error
                    context.log.error(f"{key} failed: {error}")
                done = len(built) + len(failed)
                context.log.info(f"{done} of {len(keys)} partitions are done, {key} the last")
        complete = not failed
    finally:
        if not complete:
            # The step will fail, and these partitions are materialized all the same.
            for key, one in built.items():
                context.log_event(_materialization(context, key, one))
    if failed:
        reasons = "\n".join(f"{key}: {error}" for key, error in sorted(failed.items()))
        raise PartitionsFailed(
            f"{len(failed)} of {len(keys)} partitions of {context.asset_key.to_user_string()} failed, "
            f"and the others were materialized. Launch these again:\n{reasons}",
            failed.values(),
        ) from next(iter(failed.values()))
    for key, one in built.items():
        context.add_asset_metadata(one.metadata, partition_key=key)
    return dg.MaterializeResult(check_results=built[max(keys)].checks)


def _materialization(
    context: dg.AssetExecutionContext, partition: str, one: Materialized
) -> dg.AssetMaterialization:
    """With the versions that Dagster gives to what a step that succeeds has materialized."""
    code = context.assets_def.get_asset_spec(context.asset_key).code_version
    versions = {"dagster/code_version": code, "dagster/data_version": one.data_version}
    return dg.AssetMaterialization(
        context.asset_key,
        partition=partition,
        metadata=one.metadata,
        tags={name: version for name, version in versions.items() if version is not None},
    )


def _futures(
    keys: Sequence[str], build: Callable[[str, Event], Materialized], parallel: int
) -> Generator[tuple[str, Future[Materialized]]]:
    """(key, finished future), as they finish. Leaving early interrupts what hasn't finished."""
    interrupted = Event()
    with ThreadPoolExecutor(parallel, thread_name_prefix="partition") as pool:
        pending: dict[Future[Materialized], str] = {}
        remaining = iter(keys)
        try:
            while True:
                while len(pending) < parallel and (key := next(remaining, None)) is not None:
                    pending[pool.submit(build, key, interrupted)] = key
                if not pending:
                    return
                # A signal that arrives just before a wait doesn't end it, so none waits for long.
                done, _ = wait(pending, timeout=_WAIT_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future
        finally:
            interrupted.set()
