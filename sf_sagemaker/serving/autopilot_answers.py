"""Asking the models that Autopilot fine-tuned, by batch transform jobs over their own containers.

The containers answer `{"inputs": prompt, "parameters": {…}}` with the text that they write. What was
answered stays in storage, and a job's name follows from the prompts and from the containers: the same
model isn't asked twice.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from sf_sagemaker.lifecycle.answers import Ask, CannotAsk, NotAnswered
from sf_sagemaker.serving.batch import JobHold, TransformOptions
from sf_sagemaker.serving.batch_files import FOLDER, Export, Part, output_keys
from sf_sagemaker.serving.errors import InvalidEndpoint
from sf_sagemaker.serving.sagemaker_model import Container, SageMakerModels
from sf_sagemaker.serving.sagemaker_transform import (
    TRANSFORM,
    SageMakerTransforms,
    TransformJob,
    TransformJobFailed,
)
from sf_sagemaker.storage import KeyExists
from sf_sagemaker.training.autopilot_candidate import Candidate
from sf_sagemaker.training.job import Limits, short_digest
from sf_sagemaker.training.platform import FailureKind
from sf_sagemaker.training.run import JobResult, run_job

_PARTITION = "answers"  # where a transform job's name and folder have a period
_PART = "part-00000"
# What the containers call the text that they wrote: text-generation-inference, DJL, JumpStart's own.
_TEXTS = ("generated_text", "generation", "generated_texts")


@dataclass(frozen=True)
class AskingOptions:
    """For which model, within which limits, and how many tokens it may write."""

    model: str
    limits: Limits
    max_new_tokens: int


class AutopilotAnswers:
    """Where a deployment asks the models of Autopilot."""

    def __init__(self, transforms: SageMakerTransforms, models: SageMakerModels) -> None:
        self._transforms = transforms
        self._models = models

    def on_behalf_of(self, hold: JobHold, options: AskingOptions) -> "AskedByTransform":
        """Asks for somebody who waits for it."""
        return AskedByTransform(self._transforms, self._models, hold, options)


class UnavailableAnswers:
    """What stands in their place in a deployment that can't ask; says so when it is to."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def on_behalf_of(self, hold: JobHold, options: AskingOptions) -> NoReturn:
        raise CannotAsk(self._reason)


@dataclass(frozen=True)
class AskedByTransform:
    """Asks models by batch transform jobs; the role Answers of sf_sagemaker.lifecycle.

    `jobs` are those that gave answers, by name.
    """

    transforms: SageMakerTransforms
    models: SageMakerModels
    hold: JobHold
    options: AskingOptions
    jobs: dict[str, JobResult] = field(default_factory=dict)

    def of(self, artifact: Path) -> Ask:
        """Asks the model of a candidate. Raises ArtifactCorrupt.

        Asking raises NotAnswered, PlatformUnavailable, and what creating a Model or a job raises.
        """
        candidate = Candidate.read(artifact)

        def ask(prompts: Sequence[str]) -> Sequence[str]:
            return self._ask(candidate, prompts)

        return ask

    def _ask(self, candidate: Candidate, prompts: Sequence[str]) -> Sequence[str]:
        # An empty one has an empty answer: a container may refuse it, and then the whole job fails.
        distinct = list(dict.fromkeys(filter(None, prompts)))
        if not distinct:
            return [""] * len(prompts)
        self.hold.check()
        job = TransformJob(
            self.options.model,
            _PARTITION,
            self._sagemaker_model(candidate),
            self._export(distinct),
            TransformOptions(min_rows=1, limits=self.options.limits),
            bodies=True,
            tags=self.hold.tags,
        )
        try:
            result = run_job(
                job,
                self.transforms,
                TRANSFORM,
                on_log=self.hold.log,
                on_attempt=self.hold.take,
                on_status=self.hold.report,
                should_stop=self.hold.nobody_wants,
                pause=self.hold.pause,
            )
        except TransformJobFailed as error:
            if error.description.failure_kind in (FailureKind.ALGORITHM, FailureKind.CONFIGURATION):
                raise NotAnswered(f"{candidate.job} gives no answers: {error}") from error
            raise
        self.jobs[result.name] = result
        answers = dict(
            zip(distinct, self._read(job.output_key(result.name), distinct), strict=True)
        )
        return [answers.get(prompt, "") for prompt in prompts]

    def _sagemaker_model(self, candidate: Candidate) -> str:
        containers = [
            Container(one.image, one.model_data_url, one.environment)
            for one in candidate.containers
        ]
        folders = [one.model_data_url for one in candidate.containers if one.is_folder]
        if folders:
            raise NotAnswered(
                f"{candidate.job} left its model as a folder ({', '.join(folders)}), and batch transform "
                "jobs read archives only: train another autopilot.base_model, or by method: training_job"
            )
        try:
            return self.models.ensure_containers(self.options.model, containers)
        except InvalidEndpoint as error:
            raise NotAnswered(f"{candidate.job} can't be served: {error}") from error

    def _export(self, prompts: Sequence[str]) -> Export:
        """The requests in storage, a line each."""
        lines = b"".join(_line(prompt, self.options.max_new_tokens) for prompt in prompts)
        digest = short_digest({"requests": lines.decode()})
        folder = f"{FOLDER}/{self.options.model}/{_PARTITION}/{digest}"
        export = Export(digest, folder, len(prompts), (Part(_PART, len(prompts)),))
        with suppress(KeyExists):  # asked before
            self.transforms.storage.create(f"{export.input_key}/{_PART}.jsonl", lines)
        return export

    def _read(self, folder: str, prompts: Sequence[str]) -> list[str]:
        storage = self.transforms.storage
        keys = output_keys(storage, folder)
        content = storage.read(keys[_PART]) if _PART in keys else b""
        lines = [line for line in content.split(b"\n") if line.strip()]
        if len(lines) != len(prompts):
            raise NotAnswered(
                f"{storage.uri(folder)} has {len(lines)} answers to {len(prompts)} prompts: delete "
                "that folder, and run again to ask anew"
            )
        pairs = zip(lines, prompts, strict=True)
        return [_text(line, prompt, storage.uri(folder)) for line, prompt in pairs]


def _line(prompt: str, max_new_tokens: int) -> bytes:
    """The body of a request; ASCII, so that no character can be taken for the end of a line."""
    body = {
        "inputs": prompt,
        "parameters": {"max_new_tokens": max_new_tokens, "do_sample": False},
    }
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def _text(line: bytes, prompt: str, uri: str) -> str:
    """The text that an answer has, without a prompt that is repeated before it. Raises NotAnswered."""
    try:
        found = next(_texts(json.loads(line)), None)
    except ValueError:
        found = None
    if found is None:
        raise NotAnswered(
            f"{uri} has an answer that is no text: {line[:200]!r}; expected JSON with one of "
            f"{', '.join(_TEXTS)}"
        )
    return found.removeprefix(prompt).strip()


def _texts(answer: Any) -> Iterator[str]:
    if isinstance(answer, list):
        for part in answer:
            yield from _texts(part)
    elif isinstance(answer, dict):
        for name in _TEXTS:
            value = answer.get(name)
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (text for text in value if isinstance(text, str))
