"""Dagster Pipes for training jobs on SageMaker: the context comes in as a file, messages go out in
the log, so that a container needs no network."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import dagster as dg
from dagster_pipes import PipesContextData, PipesDefaultContextLoader

from sf_sagemaker.storage import KeyExists, Storage
from sf_sagemaker.training.pipes import JobLogMessageReader, JobMessageReader
from sf_sagemaker.training.sagemaker_request import CONTEXT_PATH, context_key


class SageMakerMessages:
    """The messages of jobs whose platform keeps its files in `storage`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def context_injector(self, name: str) -> dg.PipesContextInjector:
        return _ChannelContextInjector(self._storage, name)

    def message_reader(self, name: str) -> JobMessageReader:
        return JobLogMessageReader()


class _ChannelContextInjector(dg.PipesContextInjector):
    """Leaves the context where the job's own input channel takes it from.

    CreateTrainingJob takes 512 characters of a variable, which are too few for it.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._key = context_key(name)

    @contextmanager
    def inject_context(self, context: PipesContextData) -> Iterator[Mapping[str, object]]:
        # Whoever comes first writes it: to its program, all runs of a job are alike.
        with suppress(KeyExists):
            self._storage.create(self._key, json.dumps(context).encode())
        yield {PipesDefaultContextLoader.FILE_PATH_KEY: CONTEXT_PATH}

    def no_messages_debug_text(self) -> str:
        return f"Attempted to give the context as {self._storage.uri(self._key)}."
