"""Asking Bedrock for many answers within a budget, keeping each, and never paying for one twice.

Several conversations share a budget (without and with examples, say) and take turns, so that when the
budget runs out they have answered the same prompts. Prompts are asked in their order, which is taken to
be random: a prompt that the budget has no room for ends the asking, since passing over long ones would
leave a sample of short ones.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Event

from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.bedrock import Bedrock, Conversation, NoAnswer, Reply, prompt_digest
from sf_sagemaker.serving.bedrock_answers import Answers, AskedElsewhere
from sf_sagemaker.serving.bedrock_batch import (
    LEAST_RECORDS,
    MOST_RECORDS,
    Batch,
    BatchFailed,
    BatchJobs,
)
from sf_sagemaker.serving.bedrock_budget import Account, Budget, Expected
from sf_sagemaker.serving.errors import ServingError

_WAIT_SECONDS = 1.0
_KEEP_SECONDS, _KEEP_REPLIES = 2.0, 50  # an interrupted run loses no more than came in meanwhile
_FAILURES_IN_A_ROW = 5
_FIRST = 20  # prompts that are asked one by one before a batch
_MARGIN = 1.1  # over the tokens that a batch is expected to take, by its first prompts

logger = logging.getLogger(__name__)


class AskingInterrupted(ServingError):
    """Questions that were given up because their run was interrupted. What was answered is kept."""


@dataclass(frozen=True)
class Ask:
    """Prompts for one conversation; `answers` is where its answers are kept."""

    answers: Answers
    prompts: Sequence[str]

    @property
    def conversation(self) -> Conversation:
        return self.answers.conversation


@dataclass(frozen=True)
class Answered:
    """What is known of an ask's prompts, by their digests.

    `new` counts replies that this call paid for. `failures` say why a prompt that was asked has no
    answer. `left` counts prompts that weren't asked.
    """

    replies: Mapping[str, Reply]
    new: int
    failures: Mapping[str, str]
    left: int


@dataclass(frozen=True)
class Asked:
    """All of `asks`, in their order. `tokens` and `cost` are of all answers that are kept of them.

    `out_of_budget` says that the budget ended the asking.
    """

    asks: tuple[Answered, ...]
    tokens: float
    cost: float | None
    out_of_budget: bool


def ask_all(
    bedrock: Bedrock,
    asks: Sequence[Ask],
    budget: Budget,
    *,
    parallel: int = 4,
    batch_from: int | None = None,
    interrupted: Event | None = None,
    on_batch: Callable[[str], None] = lambda name: None,
    should_stop: Callable[[str], bool] = lambda name: False,
    on_progress: Callable[[str], None] = logger.info,
) -> Asked:
    """Asks what has no answer yet, up to `parallel` prompts at a time, while the budget lasts.

    The budget is for all answers that are kept, also those of earlier calls: the same call with a
    larger one goes on with the rest. With `batch_from`, and where batches are possible, so many
    prompts or more are asked as a batch, after their first ones, which show that the model answers,
    how many tokens it takes and how fast it is. A batch that an earlier call left is waited for first,
    also where none is possible any more. `on_batch` is called with the name of a batch as soon as it is
    started or found, and `should_stop` says whether the batch of a name is to be stopped when the wait
    for it is interrupted, or when the next one can't be started.

    Raises AskingInterrupted where `interrupted` is set, AskedElsewhere where another run asks the same at
    the same time, ModelNotUsable, NoAnswer where one prompt after the other has none, BatchFailed,
    BatchRefused, CorruptAnswers, and what AWS's clients raise. What was answered until then is kept.
    """
    asking = _Asking(
        bedrock, asks, budget, parallel, interrupted or Event(), on_batch, should_stop, on_progress
    )
    left_alone: set[int] = set()
    asking.finish_batches()
    if bedrock.batches is not None and batch_from is not None:
        large = {i for i, _ in enumerate(asks) if len(asking.rest(i)) >= batch_from}
        first = [asking.first(i) if i in large else [] for i, _ in enumerate(asks)]
        if large and asking.converse(first):
            asked = asking.ask_batches(bedrock.batches, large)
            # What a batch leaves, and is a batch's again, waits for the next call.
            left_alone = {i for i in asked if len(asking.rest(i)) >= batch_from}
    asking.converse([asking.rest(i) if i not in left_alone else [] for i, _ in enumerate(asks)])
    return asking.result()


@dataclass
class _Asking:
    """One call of ask_all."""

    bedrock: Bedrock
    asks: Sequence[Ask]
    budget: Budget
    parallel: int
    interrupted: Event
    on_batch: Callable[[str], None]
    should_stop: Callable[[str], bool]
    on_progress: Callable[[str], None]
    replies: list[dict[str, Reply]] = field(init=False)
    before: list[int] = field(init=False)
    failures: list[dict[str, str]] = field(init=False)
    out_of_budget: bool = False

    def __post_init__(self) -> None:
        self.replies = [ask.answers.read() for ask in self.asks]
        self.before = [len(known) for known in self.replies]
        self.failures = [{} for _ in self.asks]
        self._places = [
            {
                digest: place
                for place, digest in enumerate(dict.fromkeys(map(prompt_digest, ask.prompts)))
            }
            for ask in self.asks
        ]
        spent = (reply for known in self.replies for reply in known.values())
        self.account = Account(self.budget, spent)

    def rest(self, i: int) -> list[str]:
        """The prompts without an answer that weren't tried either; equal ones once."""
        prompts = {prompt_digest(prompt): prompt for prompt in self.asks[i].prompts}
        known = {*self.replies[i], *self.failures[i]}
        return [prompt for digest, prompt in prompts.items() if digest not in known]

    def first(self, i: int) -> list[str]:
        """The prompts that are asked one by one before a batch, unless that was done before."""
        done = sum(not reply.batch for reply in self.replies[i].values())
        return self.rest(i)[: max(0, _FIRST - done)]

    def result(self) -> Asked:
        answered = []
        for i, ask in enumerate(self.asks):
            wanted = {prompt_digest(prompt) for prompt in ask.prompts}
            replies = {d: reply for d, reply in self.replies[i].items() if d in wanted}
            new = len(self.replies[i]) - self.before[i]
            answered.append(Answered(replies, new, self.failures[i], len(self.rest(i))))
        priced = self.budget.prices is not None
        return Asked(
            tuple(answered),
            self.account.tokens,
            self.account.cost if priced else None,
            self.out_of_budget and any(one.left for one in answered),
        )

    def _by_turns(self, prompts: Iterable[Sequence[str]]) -> list[tuple[int, str]]:
        """(ask, prompt), in the order of the prompts, and for each the asks in theirs."""
        turns = [
            (self._places[i][prompt_digest(prompt)], i, prompt)
            for i, chosen in enumerate(prompts)
            for prompt in chosen
        ]
        return [(i, prompt) for _, i, prompt in sorted(turns)]

    # One by one

    def converse(self, prompts: Sequence[Sequence[str]]) -> bool:
        """Asks prompts of each ask, by turns; False where the budget ended it."""
        todo = self._by_turns(prompts)
        if not todo:
            return True
        stopping = Event()

        def pause(seconds: float) -> None:
            if stopping.wait(seconds):
                raise AskingInterrupted("the questions were given up")

        kept = _Kept(self)
        pending: dict[Future[Reply], tuple[int, str, Expected]] = {}
        in_a_row = 0
        questions = iter(todo)
        question = next(questions, None)
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="bedrock") as pool:
            try:
                while question is not None or pending:
                    while question is not None and len(pending) < self.parallel:
                        i, prompt = question
                        conversation = self.asks[i].conversation
                        expected = Expected(
                            conversation.most_input_tokens(prompt), conversation.max_tokens
                        )
                        if not self.account.set_aside(expected):
                            break
                        ask = partial(self.bedrock.converse, conversation, prompt, pause=pause)
                        pending[pool.submit(ask)] = (i, prompt, expected)
                        question = next(questions, None)
                    if not pending:  # not even what is under way stands in the way of the next
                        self.out_of_budget = True
                        return False
                    done, _ = wait(pending, timeout=_WAIT_SECONDS, return_when=FIRST_COMPLETED)
                    for future in done:
                        i, prompt, expected = pending.pop(future)
                        self.account.release(expected)
                        try:
                            kept.add(i, future.result())
                            in_a_row = 0
                        except NoAnswer as error:
                            self.failures[i][prompt_digest(prompt)] = str(error)
                            in_a_row += 1
                            if in_a_row == _FAILURES_IN_A_ROW:
                                raise
                    kept.write_if_due()
                    self._check()
            finally:
                stopping.set()
                for future in wait(pending).done if pending else ():
                    if not future.cancelled() and future.exception() is None:
                        kept.add(pending[future][0], future.result())
                kept.write()
        return True

    # Many at once

    def finish_batches(self) -> None:
        """Waits for what earlier calls left."""
        left = (
            (batches, i, batch)
            for i, ask in enumerate(self.asks)
            if (batches := self._batches_of(ask)) is not None
            for batch in batches.unfinished(ask.answers)
        )
        for message in self._wait(left):
            self.on_progress(f"a batch of an earlier run: {message}")

    def _batches_of(self, ask: Ask) -> BatchJobs | None:
        """What finds an ask's batches: storage in S3 may have some that were started with a role."""
        storage = ask.answers.storage
        if self.bedrock.batches is None and isinstance(storage, S3Storage):
            return BatchJobs(self.bedrock.aws, storage, None)
        return self.bedrock.batches

    def ask_batches(self, batches: BatchJobs, chosen: Collection[int]) -> set[int]:
        """Asks as many of the prompts of some asks as the budget has room for, a batch for each.

        Gives the asks that a batch was made for.
        """
        prompts: list[list[str]] = [[] for _ in self.asks]
        rates = {i: self._tokens_per_byte(i) for i in chosen}
        expected = Expected(0, 0, batch=True)
        for i, prompt in self._by_turns(
            [self.rest(i) if i in chosen else [] for i in range(len(self.asks))]
        ):
            if len(prompts[i]) == MOST_RECORDS:
                continue
            conversation = self.asks[i].conversation
            more = Expected(
                expected.input_tokens + rates[i] * conversation.bytes_sent(prompt) * _MARGIN,
                expected.output_tokens + conversation.max_tokens,
                batch=True,
            )
            if not self.account.allows(more):
                self.out_of_budget = True
                break
            expected = more
            prompts[i].append(prompt)
        large = {i: these for i, these in enumerate(prompts) if len(these) >= LEAST_RECORDS}
        failed = self._wait(self._started(batches, large))
        if failed:
            raise BatchFailed(
                "; ".join(failed) + ". What was answered is kept; materialize again for the rest"
            )
        return set(large)

    def _started(
        self, batches: BatchJobs, prompts: Mapping[int, Sequence[str]]
    ) -> Iterator[tuple[BatchJobs, int, Batch]]:
        for i, these in prompts.items():
            batch = batches.start(self.asks[i].answers, these)
            yield batches, i, batch
            self.on_progress(f"batch {batch.arn}: {len(these):,} prompts")

    def _tokens_per_byte(self, i: int) -> float:
        """The most input tokens by byte that an answer so far has shown; 1 before there is any."""
        conversation = self.asks[i].conversation
        sizes = {prompt_digest(p): conversation.bytes_sent(p) for p in self.asks[i].prompts}
        rates = [
            reply.input_tokens / sizes[digest]
            for digest, reply in self.replies[i].items()
            if digest in sizes and reply.input_tokens
        ]
        return max(rates, default=1.0)

    def _wait(self, started: Iterable[tuple[BatchJobs, int, Batch]]) -> list[str]:
        """Waits for batches and keeps what they brought; says which of them failed.

        `started` may start them one after the other: those before one that can't be started are told
        to `on_batch`, and stopped where nobody wants them.
        """

        def pause(seconds: float) -> None:
            self.interrupted.wait(seconds)
            self._check()

        failed: list[str] = []
        waiting: list[tuple[BatchJobs, int, Batch]] = []
        try:
            for batches, i, batch in started:
                waiting.append((batches, i, batch))
                self.on_batch(batch.name)
            for batches, i, batch in tuple(waiting):
                status = partial(self._on_status, batch)
                harvest = batches.wait(batch, pause=pause, on_status=status)
                waiting.remove((batches, i, batch))
                batches.harvested(self.asks[i].answers, batch, harvest)
                for reply in harvest.replies:
                    self.take(i, reply)
                told = f"batch {batch.arn}: {harvest.status}, {len(harvest.replies):,} answers"
                if harvest.errors:
                    told += f", {len(harvest.errors):,} records without one ({harvest.errors[0]})"
                self.on_progress(told)
                if harvest.status in ("Failed", "Stopped") or not harvest.replies:
                    failed.append(f"{told}. {harvest.message}".rstrip(". "))
        finally:
            for batches, _, batch in waiting:
                if self.should_stop(batch.name):
                    batches.stop(batch)
        return failed

    def _on_status(self, batch: Batch, status: str) -> None:
        self.on_progress(f"batch {batch.arn}: {status}")

    def take(self, i: int, reply: Reply) -> None:
        if reply.prompt not in self.replies[i]:
            self.replies[i][reply.prompt] = reply
            self.account.spend(reply)

    def _check(self) -> None:
        if self.interrupted.is_set():
            raise AskingInterrupted("the run was interrupted; what was answered is kept")


class _Kept:
    """Replies on their way into storage, written every other second."""

    def __init__(self, asking: _Asking) -> None:
        self._asking = asking
        self._waiting: list[list[Reply]] = [[] for _ in asking.asks]
        self._elsewhere: AskedElsewhere | None = None
        self._written = time.monotonic()

    def add(self, i: int, reply: Reply) -> None:
        self._asking.take(i, reply)
        self._waiting[i].append(reply)

    def write_if_due(self) -> None:
        due = time.monotonic() - self._written > _KEEP_SECONDS
        if due or sum(map(len, self._waiting)) >= _KEEP_REPLIES:
            self.write()

    def write(self) -> None:
        for ask, replies in zip(self._asking.asks, self._waiting, strict=True):
            if self._elsewhere is not None:  # the other run goes on: its numbers are left to it
                ask.answers.add_apart(replies)
            else:
                try:
                    ask.answers.add(replies)
                except AskedElsewhere as error:
                    self._elsewhere = error
            replies.clear()
        self._written = time.monotonic()
        done = sum(map(len, self._asking.replies))
        self._asking.on_progress(f"{done:,} answers are kept")
        if self._elsewhere is not None:
            raise self._elsewhere
