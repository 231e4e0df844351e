"""Many questions at once: batch inference of Bedrock, from a JSONL file in S3 into another.

A batch lies in `<folder of the answers>/batches/<digest of its prompts>/<attempt>/`: `request.json`,
written before the job is created, `input/questions.jsonl`, and `output/`, which Bedrock writes. When its
answers are kept, `harvested.json` follows. A job whose request is without that is under way, or was
when a run was killed: the next run waits for it before it asks anything itself. A request that Bedrock
refused is sent again with the settings of the next run; the file keeps those of the first.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sf_sagemaker.aws import AccessDenied, Aws, AwsError, AwsUnavailable, translated
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.bedrock import (
    Conversation,
    ModelNotUsable,
    Reply,
    joined_text,
    not_usable,
    prompt_digest,
)
from sf_sagemaker.serving.bedrock_answers import Answers
from sf_sagemaker.serving.errors import ServingError
from sf_sagemaker.storage import KeyExists, KeyMissing
from sf_sagemaker.training.run import jittered
from sf_sagemaker.training.sagemaker_request import project_tag

# Bedrock's default quotas: "Minimum number of records per batch inference job", "Records per job".
LEAST_RECORDS = 100
MOST_RECORDS = 50_000

_INPUT = "input/questions.jsonl"
_REQUEST = "request.json"
_HARVESTED = "harvested.json"
_HOURS = 24  # the least that a job may be given
_ATTEMPTS = 20
_ENDED = frozenset({"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"})
_POLL, _LONGEST_POLL, _SLOWER = 15.0, 120.0, 1.2
_PATIENCE = 1800.0  # seconds in which Bedrock may not answer

logger = logging.getLogger(__name__)


class BatchFailed(ServingError):
    """A batch that ended without an answer."""


class BatchRefused(ServingError):
    """A batch that Bedrock doesn't take."""

    permanent = True


@dataclass(frozen=True)
class Batch:
    """A batch inference job: its folder in storage, its name, and its ARN."""

    folder: str
    name: str
    arn: str


@dataclass(frozen=True)
class Harvest:
    """What an ended batch brought. `errors` are Bedrock's messages for records without an answer."""

    status: str
    replies: tuple[Reply, ...]
    errors: tuple[str, ...]
    message: str = ""


class BatchJobs:
    """Batches under the role `role_arn`; questions and answers lie in `storage`.

    Without a role, none is started; those that are there are found, waited for and stopped all the same.
    `kms_key` encrypts what Bedrock writes. Jobs are asked for every `poll` seconds, and less often up
    to `longest_poll` while nothing changes.
    """

    def __init__(
        self,
        aws: Aws,
        storage: S3Storage,
        role_arn: str | None,
        *,
        kms_key: str | None = None,
        poll: float = _POLL,
        longest_poll: float = _LONGEST_POLL,
        patience: float = _PATIENCE,
    ) -> None:
        self.storage = storage
        self._aws = aws
        self._role_arn = role_arn
        self._kms_key = kms_key
        self._poll = poll
        self._longest_poll = longest_poll
        self._patience = patience

    def start(self, answers: Answers, prompts: Sequence[str]) -> Batch:
        """Creates the job that asks these prompts, or finds the one that a run has created before.

        Raises BatchRefused, ModelNotUsable, and what AWS's clients raise.
        """
        if self._role_arn is None:
            raise BatchRefused(
                "a batch needs a role that Bedrock can assume: set SF_SAGEMAKER_BEDROCK_ROLE_ARN"
            )
        if not LEAST_RECORDS <= len(prompts) <= MOST_RECORDS:
            raise BatchRefused(
                f"a batch has {LEAST_RECORDS} to {MOST_RECORDS:,} records, and this one would have "
                f"{len(prompts):,}"
            )
        asked = hashlib.sha256("\n".join(sorted(map(prompt_digest, prompts))).encode()).hexdigest()
        for attempt in range(1, _ATTEMPTS + 1):
            folder = f"{answers.folder}/batches/{asked[:16]}/{attempt}"
            if self._has(f"{folder}/{_HARVESTED}"):
                continue  # it left some of these prompts without an answer
            self._prepare(answers.conversation, folder, prompts)
            return self._job(answers.conversation, folder)
        raise BatchRefused(
            f"{_ATTEMPTS} batches of the same prompts have left them without an answer: look at "
            f"{self.storage.uri(f'{answers.folder}/batches/{asked[:16]}')}"
        )

    def unfinished(self, answers: Answers) -> Iterator[Batch]:
        """The batches that earlier runs created and nobody has harvested.

        A request that no job came of stays one: its prompts may be barred by now, or cost too much.
        """
        prefix = f"{answers.folder}/batches"
        keys = set(self.storage.list(prefix))
        for key in sorted(keys):
            folder, _, name = key.rpartition("/")
            if name == _REQUEST and f"{folder}/{_HARVESTED}" not in keys:
                batch = self._found(folder, self._name(folder))
                if batch is not None:
                    yield batch

    def wait(
        self,
        batch: Batch,
        *,
        pause: Callable[[float], None] = time.sleep,
        on_status: Callable[[str], None] = lambda status: None,
    ) -> Harvest:
        """Waits until a batch has ended, and reads what it wrote. Raises AwsUnavailable.

        Where something interrupts the wait, the batch goes on, for a later run to find.
        """
        job = self._ended(batch, pause, on_status)
        replies, errors = self._read(batch)
        return Harvest(job["status"], replies, errors, job.get("message", ""))

    def harvested(self, answers: Answers, batch: Batch, harvest: Harvest) -> None:
        """Keeps the answers of a batch; after that, no run waits for it again."""
        asked, attempt = batch.folder.split("/")[-2:]
        answers.add_apart(harvest.replies, f"batch-{asked}-{attempt}")
        content = {"job": batch.arn, "status": harvest.status, "answers": len(harvest.replies)}
        try:
            self.storage.create(f"{batch.folder}/{_HARVESTED}", json.dumps(content).encode())
        except KeyExists:
            return

    def stop(self, batch: Batch) -> None:
        """Asks a batch to stop; one that has ended is left as it is."""
        try:
            with translated(f"stop batch {batch.arn}"):
                self._client.stop_model_invocation_job(jobIdentifier=batch.arn)
        except AwsUnavailable as error:
            # Why the wait ended matters more to the caller.
            logger.warning("batch %s may go on, although nobody wants it: %s", batch.arn, error)
        except AwsError as error:
            if error.code not in ("ConflictException", "ValidationException"):  # it has ended
                raise

    def _prepare(self, conversation: Conversation, folder: str, prompts: Sequence[str]) -> None:
        """Questions first, then the request: what has a request has all of its questions."""
        if self._has(f"{folder}/{_REQUEST}"):
            return
        try:
            with self.storage.write(f"{folder}/{_INPUT}") as file:
                for number, prompt in enumerate(prompts):
                    record = {
                        "recordId": f"{number:011d}",
                        "modelInput": conversation.native_request(prompt),
                    }
                    file.write(json.dumps(record).encode() + b"\n")
        except KeyExists:
            pass  # of a run that was killed; the folder's name says that the prompts are the same
        try:
            request = json.dumps(self._request(conversation, folder), indent=1)
            self.storage.create(f"{folder}/{_REQUEST}", request.encode())
        except KeyExists:
            return

    def _request(self, conversation: Conversation, folder: str) -> dict[str, Any]:
        place = hashlib.sha256(self.storage.uri(folder).encode()).hexdigest()
        output: dict[str, Any] = {"s3Uri": self.storage.uri(f"{folder}/output") + "/"}
        if self._kms_key is not None:
            output["s3EncryptionKeyId"] = self._kms_key
        tags = project_tag(self.storage.project)
        request = {
            "jobName": f"sf-sagemaker-{place[:32]}",
            "roleArn": self._role_arn,
            "modelId": conversation.model_id,
            "inputDataConfig": {
                "s3InputDataConfig": {
                    "s3InputFormat": "JSONL",
                    "s3Uri": self.storage.uri(f"{folder}/{_INPUT}"),
                }
            },
            "outputDataConfig": {"s3OutputDataConfig": output},
            "timeoutDurationInHours": _HOURS,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        # A token that Bedrock knows may be refused with another role or key.
        token = hashlib.sha256(json.dumps(request).encode()).hexdigest()
        return {**request, "clientRequestToken": token}

    def _job(self, conversation: Conversation, folder: str) -> Batch:
        """The job of a folder's request, created unless Bedrock knows it.

        Bedrock knows a request again by its token; how long is not documented, so the name is looked
        for first.
        """
        name = self._name(folder)
        found = self._found(folder, name)
        if found is not None:
            return found
        request = {**self._request(conversation, folder), "jobName": name}
        try:
            with translated(f"create batch {name}"):
                created = self._client.create_model_invocation_job(**request)
        except AwsError as error:
            raise self._refused(error, conversation.model_id) from error
        return Batch(folder, name, created["jobArn"])

    def _name(self, folder: str) -> str:
        return json.loads(self.storage.read(f"{folder}/{_REQUEST}"))["jobName"]

    def _found(self, folder: str, name: str) -> Batch | None:
        pages = self._client.get_paginator("list_model_invocation_jobs").paginate(nameContains=name)
        with translated(f"look for batch {name}"):
            for job in chain.from_iterable(page["invocationJobSummaries"] for page in pages):
                if job["jobName"] == name:
                    return Batch(folder, name, job["jobArn"])
        return None

    def _refused(self, error: AwsError, model_id: str) -> Exception:
        text = str(error)
        about_role = "iam:PassRole" in text or ("role" in text.lower() and "assume" in text.lower())
        if about_role and (isinstance(error, AccessDenied) or error.code == "ValidationException"):
            return BatchRefused(
                f"{text}. The caller needs iam:PassRole for {self._role_arn}, and that role must trust "
                "bedrock.amazonaws.com: see deploy/iam, and SF_SAGEMAKER_BEDROCK_ROLE_ARN"
            )
        told = not_usable(error, model_id, self._aws.region)
        if isinstance(told, ModelNotUsable):
            return BatchRefused(
                f"{told}. Where the model takes no batches, leave bedrock.batch_from out"
            )
        return told

    def _ended(
        self, batch: Batch, pause: Callable[[float], None], on_status: Callable[[str], None]
    ) -> Mapping[str, Any]:
        seconds, seen = self._poll, ""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                with translated(f"ask for batch {batch.arn}"):
                    job = self._client.get_model_invocation_job(jobIdentifier=batch.arn)
            except AwsUnavailable:
                if time.monotonic() > deadline:
                    raise
            else:
                deadline = time.monotonic() + self._patience
                if job["status"] != seen:
                    seen, seconds = job["status"], self._poll
                    on_status(seen)
                if seen in _ENDED:
                    return job
            pause(jittered(seconds))
            seconds = min(_SLOWER * seconds, self._longest_poll)

    def _read(self, batch: Batch) -> tuple[tuple[Reply, ...], tuple[str, ...]]:
        questions = map(json.loads, self._lines(batch, _INPUT))
        asked = {record["recordId"]: _prompt(record) for record in questions}
        replies, errors = [], []
        for key in self.storage.list(f"{batch.folder}/output"):
            if not key.endswith(".jsonl.out"):
                continue
            for line in self._lines(batch, key.removeprefix(f"{batch.folder}/")):
                record = _record(line)
                if record is None:
                    errors.append("a line that is no record")
                    continue
                prompt = asked.get(record.get("recordId", ""))
                if prompt is None:
                    errors.append("a record that was not asked for")
                elif isinstance(record.get("modelOutput"), Mapping):
                    replies.append(_reply(prompt, record["modelOutput"]))
                else:
                    error = record.get("error") or {}
                    errors.append(f"{error.get('errorCode')}: {error.get('errorMessage')}")
        return tuple(replies), tuple(errors)

    def _lines(self, batch: Batch, name: str) -> Iterator[bytes]:
        with self.storage.open(f"{batch.folder}/{name}") as file:
            yield from file

    def _has(self, key: str) -> bool:
        try:
            self.storage.size(key)
        except KeyMissing:
            return False
        return True

    @property
    def _client(self) -> Any:
        return self._aws.client("bedrock")


def _prompt(record: Mapping[str, Any]) -> str:
    return record["modelInput"]["messages"][-1]["content"][0]["text"]


def _record(line: bytes) -> Mapping[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, Mapping) else None


def _reply(prompt: str, output: Mapping[str, Any]) -> Reply:
    usage = output.get("usage") or {}
    return Reply(
        prompt=prompt_digest(prompt),
        text=joined_text(output.get("content") or ()),
        stop_reason=str(output.get("stop_reason") or "malformed_model_output"),
        input_tokens=int(usage.get("input_tokens") or 0),
        output_tokens=int(usage.get("output_tokens") or 0),
        batch=True,
    )
