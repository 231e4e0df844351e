"""Amazon Bedrock: Converse and batch inference jobs, answered by a function that a test gives.

The function reads the whole conversation, as a model would. Tokens are counted as `count_tokens` says:
one for each word and each mark, and three around each message. An answer that is longer than it may be is
cut there.

Sources: the API reference, and "Process multiple prompts with batch inference" in the user guide.
"""

import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from standins.sagemaker.aws_state import AwsState, S3Location
from standins.sagemaker.clients import Clients
from standins.sagemaker.faults import Faults
from standins.sagemaker.requests import ApiError, Operations, Request, ValidationError
from standins.sagemaker.shapes import check_request

_LEAST_RECORDS = 100
# Jobs that a page looks at before the filters: so a page may be empty, and others follow.
_LISTED = 2
_AROUND_A_MESSAGE = 3
_ANTHROPIC_VERSION = "bedrock-2023-05-31"
_TOKEN = re.compile(r"\w+|[^\w\s]")
# As the Messages API calls what Converse calls otherwise.
_NATIVE_REASONS = {"content_filtered": "refusal"}
_STEPS = ("Submitted", "Validating", "Scheduled")
_ENDED = ("Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired")


@dataclass(frozen=True)
class Conversation:
    """What a model is asked: `messages` are (role, text), the last one is the prompt."""

    model_id: str
    system: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float | None

    @property
    def prompt(self) -> str:
        return self.messages[-1][1]

    @property
    def examples(self) -> tuple[tuple[str, str], ...]:
        """Pairs of a prompt and an answer before the prompt."""
        texts = [text for _, text in self.messages[:-1]]
        return tuple(zip(texts[::2], texts[1::2], strict=True))

    @property
    def tokens(self) -> int:
        around = _AROUND_A_MESSAGE * len(self.messages)
        return around + count_tokens(self.system) + sum(count_tokens(t) for _, t in self.messages)


@dataclass(frozen=True)
class Written:
    """What a model writes, and why it stops, in Converse's words; None is an answer without text."""

    text: str | None
    stop_reason: str = "end_turn"


Model = Callable[[Conversation], Written]


def count_tokens(text: str) -> int:
    return len(_TOKEN.findall(text))


def knows(answers: Mapping[str, str], share: float, others: Sequence[str]) -> Model:
    """A model that is right about a share of these prompts, always the same ones, and of those that
    are among its examples; otherwise it says one of the others.

    It asks the conversation for nothing but its prompt and its examples.
    """

    def model(conversation: Conversation) -> Written:
        prompt = conversation.prompt
        shown = dict(conversation.examples)
        if prompt in shown:
            return Written(shown[prompt])
        number = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
        if number / 16**8 < share and prompt in answers:
            return Written(answers[prompt])
        wrong = [other for other in others if other != answers.get(prompt)]
        return Written(wrong[number % len(wrong)])

    return model


@dataclass(eq=False)
class BatchJob:
    """A batch inference job. `status` is the API's."""

    request: Mapping[str, Any]
    region: str
    arn: str
    tags: Mapping[str, str]
    status: str = "Submitted"
    message: str = ""
    submitted: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return self.request["jobName"]


class Bedrock:
    """`model` answers; `latency_ms` is what Converse says that an answer took.

    `enabled` are the models that the account may use (None: all). Batches go on from a step to the next
    after `step_seconds`, and wait in progress while `hold` is set. `record_error` may give the error
    of a record, as (code, message); a batch ends as Expired or PartiallyCompleted (`cut_status`) after
    `cut_after` records. `billed` are the tokens of all answers, in and out, also of those that were lost.

    A batch's token that comes again with other parameters is refused, also where its first request was.
    The API reference says only that the request is ignored; this is the stricter way.
    """

    def __init__(
        self, state: AwsState, faults: Faults, role_clients: Clients, closing: threading.Event
    ) -> None:
        self._state = state
        self._faults = faults
        self._clients = role_clients
        self._closing = closing
        self._lock = threading.Lock()
        self._jobs: dict[str, BatchJob] = {}
        self._threads: list[threading.Thread] = []
        self.reset()

    def reset(self) -> None:
        """Everything as in a new service, but for jobs, which stay."""
        self.model: Model = lambda conversation: Written("yes")
        self.latency_ms: Callable[[Conversation], int] = lambda conversation: (
            100 + 7 * (len(conversation.prompt) % 50)
        )
        self.seconds = 0.0
        self.enabled: set[str] | None = None
        self.most_input_tokens: int | None = None
        self.step_seconds = 0.0
        self.hold = threading.Event()
        self.record_error: Callable[[Conversation], tuple[int, str] | None] = lambda one: None
        self.cut_after: int | None = None
        self.cut_status = "PartiallyCompleted"
        self.fail_message: str | None = None
        self.billed = {"input": 0, "output": 0}
        self.asked: list[Conversation] = []
        self.most_at_once = 0
        self._at_once = 0
        self._requests: dict[str, Mapping[str, Any]] = {}  # by token, also those that were refused

    def operations(self) -> Operations:
        return {
            ("bedrock-runtime", "Converse"): self._converse,
            ("bedrock", "CreateModelInvocationJob"): self._create,
            ("bedrock", "GetModelInvocationJob"): self._get,
            ("bedrock", "StopModelInvocationJob"): self._stop,
            ("bedrock", "ListModelInvocationJobs"): self._list,
        }

    # For tests

    def batches(self) -> list[BatchJob]:
        """In the order of their creation."""
        with self._lock:
            return list(self._jobs.values())

    def close(self) -> None:
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    # Converse

    def _converse(self, request: Request) -> Mapping[str, Any]:
        check_request(request)
        wanted = request.parameters
        self._check_model(wanted["modelId"])
        conversation = _conversation(wanted)
        _check_turns(conversation)
        if self.most_input_tokens is not None and conversation.tokens > self.most_input_tokens:
            raise ValidationError("Input is too long for requested model.")
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.seconds)
            text, stop_reason, usage = self._answer(conversation)
        finally:
            with self._lock:
                self._at_once -= 1
        content = [] if text is None else [{"text": text}]
        return {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": stop_reason,
            "usage": {
                "inputTokens": usage[0],
                "outputTokens": usage[1],
                "totalTokens": sum(usage),
            },
            "metrics": {"latencyMs": self.latency_ms(conversation)},
        }

    def _answer(self, conversation: Conversation) -> tuple[str | None, str, tuple[int, int]]:
        written = self.model(conversation)
        text, stop_reason = written.text, written.stop_reason
        tokens = list(_TOKEN.finditer(text or ""))
        if text is not None and len(tokens) > conversation.max_tokens:
            text = text[: tokens[conversation.max_tokens - 1].end()]
            stop_reason, tokens = "max_tokens", tokens[: conversation.max_tokens]
        usage = (conversation.tokens, len(tokens))
        with self._lock:
            self.asked.append(conversation)
            self.billed["input"] += usage[0]
            self.billed["output"] += usage[1]
        return text, stop_reason, usage

    def _check_model(self, model_id: str) -> None:
        if self.enabled is not None and model_id not in self.enabled:
            raise ApiError(
                "AccessDeniedException",
                "You don't have access to the model with the specified model ID.",
                403,
            )

    # Batches

    def _create(self, request: Request) -> Mapping[str, Any]:
        check_request(request)
        wanted = request.parameters
        self._check_model(wanted["modelId"])
        token = wanted.get("clientRequestToken") or secrets.token_hex()
        with self._lock:
            of_token = [
                job for job in self._jobs.values() if job.request.get("clientRequestToken") == token
            ]
            first = of_token[0].request if of_token else self._requests.setdefault(token, wanted)
            if first != wanted:
                raise ApiError(
                    "ConflictException",
                    f"The client request token {token} was used with other parameters.",
                    409,
                )
            if of_token:
                return {"jobArn": of_token[0].arn}
        self._check_role(wanted["roleArn"])
        for name, config in (("input", "inputDataConfig"), ("output", "outputDataConfig")):
            location = next(iter(wanted[config].values()))["s3Uri"]
            if self._state.bucket_region(S3Location.parse(location).bucket) != request.region:
                raise ValidationError(f"The bucket of the {name} is not in {request.region}")
        arn = (
            f"arn:aws:bedrock:{request.region}:{self._state.account}:model-invocation-job/"
            f"{secrets.token_hex(6)}"
        )
        tags = {tag["key"]: tag["value"] for tag in wanted.get("tags", ())}
        job = BatchJob(dict(wanted), request.region, arn, tags)
        with self._lock:
            self._jobs[arn] = job
            thread = threading.Thread(target=self._run, args=(job,), name=job.name, daemon=True)
            self._threads = [old for old in self._threads if old.is_alive()] + [thread]
            thread.start()
        return {"jobArn": arn}

    def _check_role(self, arn: str) -> None:
        if not self._faults.may_pass(arn):
            raise ApiError(
                "AccessDeniedException",
                f"User: arn:aws:iam::{self._state.account}:user/caller is not authorized to perform: "
                f"iam:PassRole on resource: {arn} because no identity-based policy allows the "
                "iam:PassRole action",
                403,
            )
        policy = self._state.trust_policy(arn)
        if policy is None or "bedrock.amazonaws.com" not in unquote(policy):
            raise ValidationError(
                f"The role {arn} can't be used: Bedrock is not allowed to assume the role."
            )

    def _get(self, request: Request) -> Mapping[str, Any]:
        check_request(request)
        job = self._find(request)
        answer = {
            **_summary(job),
            "modelId": job.request["modelId"],
            "roleArn": job.request["roleArn"],
            "inputDataConfig": job.request["inputDataConfig"],
            "outputDataConfig": job.request["outputDataConfig"],
        }
        return answer | ({"message": job.message} if job.message else {})

    def _list(self, request: Request) -> Mapping[str, Any]:
        check_request(request)
        wanted = request.parameters
        jobs = self.batches()
        start = int(wanted.get("nextToken", 0))
        end = start + int(wanted.get("maxResults", _LISTED))
        found = [
            _summary(job)
            for job in jobs[start:end]
            if job.region == request.region
            and wanted.get("nameContains", "") in job.name
            and wanted.get("statusEquals", job.status) == job.status
        ]
        return {
            "invocationJobSummaries": found,
            **({"nextToken": str(end)} if end < len(jobs) else {}),
        }

    def _stop(self, request: Request) -> Mapping[str, Any]:
        check_request(request)
        job = self._find(request)
        if job.status in _ENDED:
            raise ApiError("ConflictException", f"The job is {job.status}.", 409)
        job.status = "Stopping"
        job.stopping.set()
        return {}

    def _find(self, request: Request) -> BatchJob:
        wanted = request.parameters["jobIdentifier"]
        for job in self.batches():
            if wanted in (job.arn, job.arn.rpartition("/")[2]) and job.region == request.region:
                return job
        raise ApiError("ResourceNotFoundException", f"No job {wanted} was found.", 404)

    def _run(self, job: BatchJob) -> None:
        for status in _STEPS:
            if not self._goes_on(job, status):
                self._end(job, "Stopped")
                return
        try:
            records = self._records(job)
        except ValidationError as error:
            self._end(job, "Failed", error.message)
            return
        if self.fail_message is not None:
            self._end(job, "Failed", self.fail_message)
            return
        while self._goes_on(job, "InProgress") and self.hold.is_set():
            time.sleep(0.02)
        lines = []
        status = "Completed"
        for record in records:
            if job.stopping.is_set() or self._closing.is_set():
                status = "Stopped"
                break
            if self.cut_after is not None and len(lines) == self.cut_after:
                status = self.cut_status
                break
            lines.append(json.dumps(self._processed(job, record)))
        if self._closing.is_set():
            return
        self._write(job, lines, len(records))
        self._end(job, status)

    def _goes_on(self, job: BatchJob, status: str) -> bool:
        if job.stopping.is_set() or self._closing.is_set():
            return False
        job.status = status
        job.stopping.wait(self.step_seconds)
        return not (job.stopping.is_set() or self._closing.is_set())

    def _end(self, job: BatchJob, status: str, message: str = "") -> None:
        job.message, job.ended = message, datetime.now(UTC)
        job.status = status
        job.finished.set()

    def _records(self, job: BatchJob) -> list[dict[str, Any]]:
        source = job.request["inputDataConfig"]["s3InputDataConfig"]["s3Uri"]
        if not source.endswith(".jsonl"):
            raise ValidationError(f"{source} is no JSONL file")
        where = S3Location.parse(source)
        body = self._s3(job).get_object(Bucket=where.bucket, Key=where.key)["Body"].read()
        records = [json.loads(line) for line in body.decode().splitlines()]
        if len(records) < _LEAST_RECORDS:
            raise ValidationError(
                f"Batch job {job.arn} contains less records ({len(records)}) than the required "
                f"minimum of: {_LEAST_RECORDS}"
            )
        identifiers = [record["recordId"] for record in records]
        if len(set(identifiers)) < len(identifiers):
            raise ValidationError("recordId must be unique")
        return records

    def _processed(self, job: BatchJob, record: Mapping[str, Any]) -> dict[str, Any]:
        body = record["modelInput"]
        conversation = _native_conversation(job.request["modelId"], body)
        line = {"recordId": record["recordId"], "modelInput": body}
        error = self.record_error(conversation)
        if body.get("anthropic_version") != _ANTHROPIC_VERSION:
            error = (400, "anthropic_version: Field required")
        if error is not None:
            return {**line, "error": {"errorCode": error[0], "errorMessage": error[1]}}
        text, stop_reason, usage = self._answer(conversation)
        output = {
            "model": job.request["modelId"],
            "id": f"msg_bdrk_{record['recordId']}",
            "type": "message",
            "role": "assistant",
            "content": [] if text is None else [{"type": "text", "text": text}],
            "stop_reason": _NATIVE_REASONS.get(stop_reason, stop_reason),
            "stop_sequence": None,
            "usage": {"input_tokens": usage[0], "output_tokens": usage[1]},
        }
        return {**line, "modelOutput": output}

    def _write(self, job: BatchJob, lines: Sequence[str], total: int) -> None:
        target = S3Location.parse(job.request["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"])
        source = job.request["inputDataConfig"]["s3InputDataConfig"]["s3Uri"]
        folder = target.under(job.arn.rpartition("/")[2])
        answers = folder.under(f"{source.rpartition('/')[2]}.out")
        body = "".join(f"{line}\n" for line in lines).encode()
        manifest = {"totalRecordCount": total, "processedRecordCount": len(lines)}
        for where, content in (
            (answers, body),
            (folder.under("manifest.json.out"), json.dumps(manifest).encode()),
        ):
            self._s3(job).put_object(Bucket=where.bucket, Key=where.key, Body=content)

    def _s3(self, job: BatchJob) -> Any:
        return self._clients.get("s3", job.region)


def _conversation(wanted: Mapping[str, Any]) -> Conversation:
    def text_of(blocks: Sequence[Mapping[str, Any]]) -> str:
        return "\n".join(block["text"] for block in blocks)

    inference = wanted.get("inferenceConfig", {})
    return Conversation(
        model_id=wanted["modelId"],
        system=text_of(wanted.get("system", ())),
        messages=tuple((one["role"], text_of(one["content"])) for one in wanted["messages"]),
        max_tokens=inference.get("maxTokens", 4096),
        temperature=inference.get("temperature"),
    )


def _native_conversation(model_id: str, body: Mapping[str, Any]) -> Conversation:
    return Conversation(
        model_id=model_id,
        system=body.get("system", ""),
        messages=tuple(
            (one["role"], "\n".join(block["text"] for block in one["content"]))
            for one in body["messages"]
        ),
        max_tokens=body["max_tokens"],
        temperature=body.get("temperature"),
    )


def _check_turns(conversation: Conversation) -> None:
    roles = [role for role, _ in conversation.messages]
    if roles != [("user", "assistant")[number % 2] for number in range(len(roles))]:
        raise ValidationError(
            "A conversation must start with a user message, and roles must alternate."
        )
    if not roles or roles[-1] != "user":
        raise ValidationError("The conversation must end with a user message.")
    if any(not text.strip() for _, text in conversation.messages):
        raise ValidationError("The text field in the ContentBlock object is blank.")


def _summary(job: BatchJob) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "jobArn": job.arn,
        "jobName": job.name,
        "modelId": job.request["modelId"],
        "roleArn": job.request["roleArn"],
        "status": job.status,
        "submitTime": _iso(job.submitted),
        "inputDataConfig": job.request["inputDataConfig"],
        "outputDataConfig": job.request["outputDataConfig"],
    }
    return summary | ({"endTime": _iso(job.ended)} if job.ended else {})


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
