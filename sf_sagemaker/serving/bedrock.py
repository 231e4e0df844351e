"""Claude through Amazon Bedrock: a question, what comes back, and Converse, which asks one at a time.

`bedrock_batch.py` asks many at once, `bedrock_answers.py` keeps answers, and `bedrock_questions.py`
asks for a list of prompts within a budget. From a notebook:

    question = Conversation("eu.anthropic.claude-haiku-4-5-20251001-v1:0", "Name the animal's sound.")
    Bedrock(Aws("eu-central-1")).converse(question, "cow")
"""

import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sf_sagemaker.aws import AccessDenied, Aws, AwsError, AwsUnavailable, translated
from sf_sagemaker.serving.errors import ServingError

if TYPE_CHECKING:
    from sf_sagemaker.serving.bedrock_batch import BatchJobs

REFUSALS = frozenset({"content_filtered", "guardrail_intervened", "refusal"})
TRUNCATIONS = frozenset({"max_tokens", "model_context_window_exceeded"})
_WHOLE = frozenset({"end_turn", "stop_sequence"})

# Of the Messages API, as Bedrock's InvokeModel and its batches take it.
_MESSAGES_VERSION = "bedrock-2023-05-31"

# One prompt's own trouble, which another prompt may not have.
_PASSING = frozenset({"ModelTimeoutException", "ModelErrorException"})
_TOO_LONG = re.compile(r"too long|too many (input )?tokens|context (window|length)", re.IGNORECASE)
_TRIES = 3
_PATIENCE = 600.0  # seconds of throttling, for one prompt
_LONGEST_PAUSE = 60.0


class ModelNotUsable(ServingError):
    """A model that Bedrock doesn't let this caller ask, or not in this way."""

    permanent = True


class NoAnswer(ServingError):
    """A prompt that Bedrock gave no answer to, several times, while it answers others."""


@dataclass(frozen=True)
class Conversation:
    """What comes before a prompt, the same for all prompts, and how the answer is sampled.

    `model_id` is a model's id or ARN, or an inference profile's. `examples` are pairs of a prompt and
    its right answer, which become messages before the prompt. `temperature` None leaves it out, for
    models that take none.
    """

    model_id: str
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    max_tokens: int = 64
    temperature: float | None = 0.0

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with anything that may change an answer."""
        content = [self.model_id, self.system, self.examples, self.max_tokens, self.temperature]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def messages(self, prompt: str) -> list[tuple[str, str]]:
        """(role, text), by turns, the prompt last."""
        turns = [
            turn
            for question, answer in self.examples
            for turn in (("user", question), ("assistant", answer))
        ]
        return [*turns, ("user", prompt)]

    def converse_request(self, prompt: str) -> dict[str, Any]:
        """The request of Converse."""
        request: dict[str, Any] = {
            "modelId": self.model_id,
            "messages": [
                {"role": role, "content": [{"text": text}]} for role, text in self.messages(prompt)
            ],
            "inferenceConfig": {"maxTokens": self.max_tokens},
        }
        if self.system:
            request["system"] = [{"text": self.system}]
        if self.temperature is not None:
            request["inferenceConfig"]["temperature"] = self.temperature
        return request

    def native_request(self, prompt: str) -> dict[str, Any]:
        """The body of InvokeModel in Claude's own format."""
        body: dict[str, Any] = {
            "anthropic_version": _MESSAGES_VERSION,
            "max_tokens": self.max_tokens,
            "messages": [
                {"role": role, "content": [{"type": "text", "text": text}]}
                for role, text in self.messages(prompt)
            ],
        }
        if self.system:
            body["system"] = self.system
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return body

    def bytes_sent(self, prompt: str) -> int:
        """Bytes of all texts of a request, in UTF-8."""
        texts = [self.system, *(text for _, text in self.messages(prompt))]
        return sum(len(text.encode()) for text in texts)

    def most_input_tokens(self, prompt: str) -> int:
        """More tokens than a request has, as long as none stands for less than a byte."""
        return self.bytes_sent(prompt) + _AROUND_A_MESSAGE * (2 + 2 * len(self.examples))


_AROUND_A_MESSAGE = 16  # tokens that say where a message begins, and whose it is


@dataclass(frozen=True)
class Reply:
    """What came back for a prompt, which is named by its digest.

    `stop_reason` is the model's: end_turn, max_tokens, refusal and others. `latency_ms` is what
    Bedrock measured for one call, and None for a record of a batch.
    """

    prompt: str
    text: str
    stop_reason: str
    input_tokens: int
    output_tokens: int
    latency_ms: float | None = None
    batch: bool = False

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def refused(self) -> bool:
        """The model, a filter or a guardrail didn't let the question be answered."""
        return self.stop_reason in REFUSALS

    @property
    def truncated(self) -> bool:
        """The answer, or the question, was longer than allowed."""
        return self.stop_reason in TRUNCATIONS

    @property
    def whole(self) -> bool:
        """An answer that ended by itself and has a text."""
        return self.stop_reason in _WHOLE and bool(self.text.strip())


def prompt_digest(prompt: str) -> str:
    """Sixteen hex digits that stand for a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Bedrock:
    """Asks models of Bedrock. `batches` is there where batches are possible: with S3 and a role.

    A prompt is tried for `patience` seconds while Bedrock throttles, for the second time after
    `first_pause` seconds or less.
    """

    aws: Aws
    batches: "BatchJobs | None" = None
    patience: float = field(default=_PATIENCE, kw_only=True)
    first_pause: float = field(default=1.0, kw_only=True)

    def converse(
        self,
        conversation: Conversation,
        prompt: str,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> Reply:
        """Asks one prompt. A question that is too long for the model is a reply that says so.

        Throttling is waited out for `patience` seconds, longer each time; an error of the model on
        this prompt is tried three times. `pause` waits for some seconds, and may raise to end that.
        Raises NoAnswer, ModelNotUsable, AwsUnavailable, CredentialsRefused.
        """
        deadline = time.monotonic() + self.patience
        tries, seconds = 0, self.first_pause
        while True:
            try:
                return self._converse(conversation, prompt)
            except AwsUnavailable:
                if time.monotonic() + seconds > deadline:
                    raise
            except AwsError as error:
                if error.code == "ValidationException" and _TOO_LONG.search(str(error)):
                    return Reply(prompt_digest(prompt), "", "model_context_window_exceeded", 0, 0)
                if error.code not in _PASSING:
                    raise not_usable(error, conversation.model_id, self.aws.region) from error
                tries += 1
                if tries == _TRIES:
                    raise NoAnswer(f"{error}. It was tried {tries} times") from error
            pause(seconds * random.uniform(0.5, 1.0))
            seconds = min(2 * seconds, _LONGEST_PAUSE)

    def _converse(self, conversation: Conversation, prompt: str) -> Reply:
        client = self.aws.client("bedrock-runtime")
        with translated(f"ask {conversation.model_id}"):
            answer = client.converse(**conversation.converse_request(prompt))
        usage = answer["usage"]
        blocks = answer["output"].get("message", {}).get("content", [])
        return Reply(
            prompt=prompt_digest(prompt),
            text=joined_text(blocks),
            stop_reason=answer["stopReason"],
            input_tokens=usage["inputTokens"],
            output_tokens=usage["outputTokens"],
            latency_ms=float(answer["metrics"]["latencyMs"]),
        )


def joined_text(blocks: Sequence[Any]) -> str:
    """The text of an answer's blocks; blocks of other kinds have none."""
    return "".join(
        str(block["text"]) for block in blocks if isinstance(block, Mapping) and "text" in block
    )


def not_usable(error: AwsError, model_id: str, region: str) -> Exception:
    """What a refused request for a model means to the caller; other errors as they are."""
    if isinstance(error, AccessDenied):
        return ModelNotUsable(
            f"{error}. Enable access to {model_id} in Bedrock's console in {region} (Model access), "
            "and attach deploy/iam/caller-bedrock-policy.json"
        )
    if error.code == "ValidationException" and "temperature" in str(error).lower():
        return ModelNotUsable(f"{error}. Set bedrock.temperature to null for {model_id}")
    if error.code in ("ResourceNotFoundException", "ValidationException", "ParamValidation"):
        return ModelNotUsable(
            f"{error}. bedrock.model_id is {model_id}: expected the id of a model that {region} has, "
            "or of an inference profile, such as eu.anthropic.claude-haiku-4-5-20251001-v1:0"
        )
    return error
