"""Batch inference: created once, found again after a kill, stopped when cancelled, read to the end."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest

from sf_sagemaker.aws import Aws, AwsError, AwsUnavailable
from sf_sagemaker.s3 import S3Storage
from sf_sagemaker.serving.bedrock import Bedrock, Conversation, prompt_digest
from sf_sagemaker.serving.bedrock_answers import Answers, answers_folder
from sf_sagemaker.serving.bedrock_batch import BatchFailed, BatchJobs, BatchRefused
from sf_sagemaker.serving.bedrock_budget import Budget, Prices
from sf_sagemaker.serving.bedrock_questions import Ask, AskingInterrupted, ask_all
from standins.sagemaker.bedrock import Written, knows
from standins.sagemaker.service import SageMakerService

HAIKU = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
BUCKET = "answers"
PROMPTS = [f"prompt number {number}, which asks for a sound" for number in range(180)]
PRICES = Prices(1.0, 5.0)
PLENTY = Budget(tokens=10**9, cost=1e6, prices=PRICES)
FIRST = 20  # prompts that are asked by Converse before a batch


class Killed(BaseException):
    """What ends a run at once."""


@pytest.fixture
def batches(service: SageMakerService, monkeypatch: pytest.MonkeyPatch) -> BatchJobs:
    """Batches with a prefix of the bucket of the test's own."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    if service.state.bucket_region(BUCKET) is None:
        service.create_bucket(BUCKET)
        service.create_role("bedrock-batches", "bedrock.amazonaws.com")
    service.calls.clear()
    service.bedrock.model = knows(dict.fromkeys(PROMPTS, "moo"), 0.7, ["moo", "meow", "woof"])
    return batch_jobs(service, S3Storage(Aws(attempts=2), BUCKET, uuid4().hex))


def batch_jobs(service: SageMakerService, storage: S3Storage, **kwargs: Any) -> BatchJobs:
    role = f"arn:aws:iam::{service.account}:role/bedrock-batches"
    return BatchJobs(
        Aws(attempts=2),
        storage,
        kwargs.pop("role_arn", role),
        poll=0.05,
        longest_poll=0.1,
        **kwargs,
    )


@pytest.fixture
def ask(batches: BatchJobs) -> Callable[..., Ask]:
    def make(examples: int = 0, prompts: list[str] = PROMPTS) -> Ask:
        shots = tuple((f"beast {n}", "moo") for n in range(examples))
        conversation = Conversation(HAIKU, "Name the sound.", shots, max_tokens=8)
        folder = answers_folder("m", "2015-04-27", conversation)
        return Ask(Answers(batches.storage, folder, conversation), prompts)

    return make


def bedrock(batches: BatchJobs) -> Bedrock:
    return Bedrock(Aws(attempts=2), batches, patience=5.0, first_pause=0.01)


def started(service: SageMakerService) -> Iterator[str]:
    return (call.parameters["jobName"] for call in service.calls.of("CreateModelInvocationJob"))


def test_a_batch_from_its_first_prompts_to_its_last(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    told: list[str] = []
    asked = ask_all(
        bedrock(batches), [ask(), ask(2)], PLENTY, batch_from=120, on_progress=told.append
    )
    for one in asked.asks:
        assert len(one.replies) == len(PROMPTS)
        assert one.left == 0
        kinds = [reply.batch for reply in one.replies.values()]
        assert kinds.count(False) == FIRST
        assert all(r.latency_ms is None for r in one.replies.values() if r.batch)
    assert service.calls.count("Converse") == 2 * FIRST
    assert service.calls.count("CreateModelInvocationJob") == 2
    asked_of = [(heard.prompt, heard.examples) for heard in service.bedrock.asked]
    assert len(asked_of) == len(set(asked_of)) == 2 * len(PROMPTS)
    # The batch reads what Converse would have been told, and is told cheaper.
    replies = list(asked.asks[1].replies.values())
    assert {reply.text for reply in replies} == {"moo", "meow", "woof"}
    assert asked.cost == pytest.approx(
        sum(PRICES.cost_of(r) for one in asked.asks for r in one.replies.values())
    )
    billed = service.bedrock.billed
    assert asked.cost is not None
    assert asked.cost < 0.7 * PRICES.cost(billed["input"], billed["output"])
    assert any("Completed, 160 answers" in line for line in told)
    (job, _) = service.bedrock.batches()[-2:]
    assert job.tags == {"sf_sagemaker:project": f"s3://{BUCKET}/{batches.storage.prefix}"}
    again = ask_all(bedrock(batches), [ask(), ask(2)], PLENTY, batch_from=120)
    assert again.asks[0].replies == asked.asks[0].replies
    assert service.calls.count("CreateModelInvocationJob") == 2


def test_few_prompts_are_no_batch(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    ask_all(bedrock(batches), [ask(prompts=PROMPTS[:119])], PLENTY, batch_from=120)
    assert service.calls.count("Converse") == 119
    with pytest.raises(BatchRefused, match="100 to 50,000 records, and this one would have 99"):
        batches.start(ask().answers, PROMPTS[:99])
    assert service.calls.count("CreateModelInvocationJob") == 0


def kill(line: str) -> None:
    """Ends the run that reports it when its batch is under way."""
    if line.endswith("InProgress"):
        raise Killed


def test_a_killed_run_leaves_its_batch_to_the_next(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.bedrock.hold.set()
    with pytest.raises(Killed):
        ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120, on_progress=kill)
    assert service.bedrock.batches()[-1].status == "InProgress"
    assert service.calls.count("StopModelInvocationJob") == 0
    service.bedrock.hold.clear()
    # Fewer rows, and a budget that another batch would not fit: the paid one is adopted all the same.
    small = Budget(tokens=1)
    asked = ask_all(bedrock(batches), [ask(prompts=PROMPTS[:150])], small, batch_from=120)
    assert service.calls.count("CreateModelInvocationJob") == 1
    assert len(asked.asks[0].replies) == 150
    assert len(service.bedrock.asked) == len(PROMPTS)


def test_a_batch_is_taken_when_there_is_no_role_for_batches_any_more(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.bedrock.hold.set()
    with pytest.raises(Killed):
        ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120, on_progress=kill)
    service.bedrock.hold.clear()
    job = service.bedrock.batches()[-1]
    assert job.finished.wait(10)
    held: list[str] = []
    asked = ask_all(Bedrock(Aws(attempts=2)), [ask()], PLENTY, batch_from=120, on_batch=held.append)
    assert service.calls.count("Converse") == FIRST
    assert len(asked.asks[0].replies) == len(PROMPTS)
    assert held == [job.name]
    assert service.calls.count("CreateModelInvocationJob") == 1


@pytest.mark.parametrize("moment", ["before the job", "after the job"])
def test_a_kill_around_the_creation_makes_no_second_job(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask], moment: str
) -> None:
    # The client dies with the answer to its last try: what it created, it never heard of.
    if moment == "before the job":
        service.faults.lose_request("CreateModelInvocationJob", times=2)
    else:
        service.faults.lose_answer("CreateModelInvocationJob", times=2)
    jobs_before = len(service.bedrock.batches())
    with pytest.raises(AwsUnavailable):
        ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    asked = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    assert len(service.bedrock.batches()) == jobs_before + 1
    assert len(asked.asks[0].replies) == len(PROMPTS)
    assert len(service.bedrock.asked) == len(PROMPTS)


def test_a_request_without_a_job_asks_nothing_by_itself(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.faults.lose_request("CreateModelInvocationJob", times=2)
    with pytest.raises(AwsUnavailable):
        ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    # Some prompts may not be sent any more, and the budget has no room for a batch.
    asked = ask_all(
        bedrock(batches), [ask(prompts=PROMPTS[:150])], Budget(tokens=1), batch_from=120
    )
    assert asked.out_of_budget
    assert len(service.bedrock.asked) == FIRST


def test_a_batch_is_found_when_none_is_wanted_any_more(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    batches.start(ask().answers, PROMPTS)
    asked = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=None)
    assert len(asked.asks[0].replies) == len(PROMPTS)
    assert service.calls.count("Converse") == 0


def test_two_runs_that_wait_for_one_batch_keep_its_answers_once(
    batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    batch = batches.start(ask().answers, PROMPTS)
    for one in (ask(), ask()):
        one.answers.read()
        batches.harvested(one.answers, batch, batches.wait(batch))
    parts = [key for key in batches.storage.list(ask().answers.folder) if key.endswith(".jsonl")]
    assert [key.rpartition("/")[2].split("-")[0] for key in parts] == ["batch", "questions.jsonl"]


def test_lines_that_are_no_records_cost_only_themselves(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    batch = batches.start(ask().answers, PROMPTS)
    assert batches.wait(batch).status == "Completed"
    (key,) = [k for k in batches.storage.list(batch.folder) if k.endswith(".jsonl.out")]
    lines = batches.storage.read(key).splitlines()
    lines[3], lines[7], lines[-1] = b"[1]", b"", lines[-1][:40]
    batches.storage.delete(key)
    batches.storage.create(key, b"\n".join(lines))
    harvest = batches.wait(batch)
    assert len(harvest.replies) == len(PROMPTS) - 3
    assert harvest.errors == ("a line that is no record",) * 3


def test_a_cancelled_run_stops_its_batches_and_the_next_goes_on(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.bedrock.hold.set()
    held: list[str] = []
    interrupted = threading.Event()

    def on_status(line: str) -> None:
        if line.endswith("InProgress"):
            interrupted.set()

    with pytest.raises(AskingInterrupted):
        ask_all(
            bedrock(batches),
            [ask(), ask(1)],
            PLENTY,
            batch_from=120,
            interrupted=interrupted,
            on_batch=held.append,
            should_stop=lambda name: name in held,
            on_progress=on_status,
        )
    jobs = service.bedrock.batches()[-2:]
    assert held == [job.name for job in jobs]
    for job in jobs:
        assert job.finished.wait(10)
        assert job.status == "Stopped"
    service.bedrock.hold.clear()
    asked = ask_all(bedrock(batches), [ask(), ask(1)], PLENTY, batch_from=120)
    assert [len(one.replies) for one in asked.asks] == [len(PROMPTS)] * 2
    assert len({*started(service)}) == 4


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_batch_whose_successor_is_refused_is_held_and_stopped_if_nobody_wants_it(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask], is_cancelled: bool
) -> None:
    service.bedrock.hold.set()
    service.faults.fail(
        "CreateModelInvocationJob",
        "ServiceQuotaExceededException",
        "Too many jobs in progress.",
        where=lambda request: service.calls.count("CreateModelInvocationJob") > 1,
    )
    held: list[str] = []
    with pytest.raises(AwsError, match="Too many jobs in progress"):
        ask_all(
            bedrock(batches),
            [ask(), ask(1)],
            PLENTY,
            batch_from=120,
            on_batch=held.append,
            should_stop=lambda name: is_cancelled,
        )
    job = service.bedrock.batches()[-1]
    assert held == [job.name]
    assert service.calls.count("StopModelInvocationJob") == is_cancelled
    service.bedrock.hold.clear()
    assert job.finished.wait(10)
    assert job.status == ("Stopped" if is_cancelled else "Completed")


def test_an_interruption_that_is_no_cancellation_stops_nothing(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.bedrock.hold.set()
    interrupted = threading.Event()
    with pytest.raises(AskingInterrupted):
        ask_all(
            bedrock(batches),
            [ask()],
            PLENTY,
            batch_from=120,
            interrupted=interrupted,
            on_progress=lambda line: interrupted.set() if line.endswith("InProgress") else None,
        )
    assert service.calls.count("StopModelInvocationJob") == 0


def test_records_that_fail_are_told_and_asked_one_by_one(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.bedrock.record_error = lambda heard: (
        (500, "Internal error") if heard.prompt in PROMPTS[60:70] else None
    )
    told: list[str] = []
    asked = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120, on_progress=told.append)
    assert any("10 records without one (500: Internal error)" in line for line in told)
    assert len(asked.asks[0].replies) == len(PROMPTS)
    assert service.calls.count("Converse") == FIRST + 10


@pytest.mark.parametrize("status", ["PartiallyCompleted", "Expired"])
def test_a_batch_that_is_cut_short_keeps_what_it_has(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask], status: str
) -> None:
    service.bedrock.cut_after, service.bedrock.cut_status = 30, status
    first = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    # 130 prompts are a batch's again: they wait for the next run, at half the price.
    assert len(first.asks[0].replies) == FIRST + 30
    assert first.asks[0].left == 130
    assert not first.out_of_budget
    service.bedrock.cut_after = None
    second = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    assert len(second.asks[0].replies) == len(PROMPTS)
    assert len(service.bedrock.asked) == len(PROMPTS)


def test_refusals_and_cut_answers_of_a_batch_are_told_apart(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    special = {
        PROMPTS[100]: Written("I can't.", "content_filtered"),
        PROMPTS[101]: Written("moo " * 30),
        PROMPTS[102]: Written(None),
    }
    service.bedrock.model = lambda heard: special.get(heard.prompt, Written("moo"))
    asked = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    replies = [asked.asks[0].replies[prompt_digest(prompt)] for prompt in special]
    assert [(r.refused, r.truncated, r.whole) for r in replies] == [
        (True, False, False), (False, True, False), (False, False, False),
    ]  # fmt: skip
    assert all(reply.batch and reply.input_tokens for reply in replies)


def test_a_failed_batch_is_told_and_followed_by_another(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.bedrock.fail_message = "The model has no capacity for batches"
    with pytest.raises(BatchFailed, match=r"Failed, 0 answers\. The model has no capacity"):
        ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    service.bedrock.fail_message = None
    asked = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    assert len(asked.asks[0].replies) == len(PROMPTS)
    assert len({*started(service)}) == 2
    assert service.calls.count("Converse") == FIRST


def test_a_role_that_cant_be_used(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    with pytest.raises(BatchRefused, match="set SF_SAGEMAKER_BEDROCK_ROLE_ARN"):
        batch_jobs(service, batches.storage, role_arn=None).start(ask().answers, PROMPTS)
    wrong = batch_jobs(service, batches.storage, role_arn=service.role_arn)
    with pytest.raises(BatchRefused, match=r"trust bedrock\.amazonaws\.com.*BEDROCK_ROLE_ARN"):
        wrong.start(ask().answers, PROMPTS)
    service.faults.forbid_passing(service.role_arn)
    with pytest.raises(BatchRefused, match="iam:PassRole for"):
        wrong.start(ask(1).answers, PROMPTS)


def test_a_refused_batch_is_started_with_the_role_of_the_next_run(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    wrong = batch_jobs(service, batches.storage, role_arn=service.role_arn)
    with pytest.raises(BatchRefused, match="BEDROCK_ROLE_ARN"):
        wrong.start(ask().answers, PROMPTS)
    batch = batches.start(ask().answers, PROMPTS)
    assert batches.wait(batch).status == "Completed"
    refused, taken = [call.parameters for call in service.calls.of("CreateModelInvocationJob")]
    assert refused["roleArn"] == service.role_arn
    assert taken["roleArn"] == f"arn:aws:iam::{service.account}:role/bedrock-batches"
    # Found by the name that it had before, whatever the role.
    assert taken["jobName"] == refused["jobName"] == batch.name
    assert wrong.start(ask().answers, PROMPTS) == batch
    assert service.calls.count("CreateModelInvocationJob") == 2


def test_a_refused_batch_is_started_with_the_key_of_the_next_run(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    wrong, right = (f"arn:aws:kms:us-east-1:{service.account}:key/{uuid4()}" for _ in "12")

    def key_of(parameters: Mapping[str, Any]) -> str:
        return parameters["outputDataConfig"]["s3OutputDataConfig"]["s3EncryptionKeyId"]

    service.faults.fail(
        "CreateModelInvocationJob",
        "ValidationException",
        "The KMS key doesn't exist.",
        where=lambda request: key_of(request.parameters) == wrong,
    )
    with pytest.raises(BatchRefused, match="The KMS key doesn't exist"):
        batch_jobs(service, batches.storage, kms_key=wrong).start(ask().answers, PROMPTS)
    corrected = batch_jobs(service, batches.storage, kms_key=right)
    batch = corrected.start(ask().answers, PROMPTS)
    assert corrected.wait(batch).status == "Completed"
    refused, taken = [call.parameters for call in service.calls.of("CreateModelInvocationJob")]
    assert [key_of(refused), key_of(taken)] == [wrong, right]
    assert refused["clientRequestToken"] != taken["clientRequestToken"]


def test_a_batch_asks_no_more_than_the_budget_has_room_for(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    service.bedrock.model = lambda heard: Written("moo")
    # 4 tokens of the system prompt, 8 of the prompt with its mark, 3 around: at most 14 or so, and 8 out.
    budget = Budget(tokens=3000)
    asked = ask_all(bedrock(batches), [ask()], budget, batch_from=120)
    assert asked.out_of_budget
    assert FIRST + 100 <= len(asked.asks[0].replies) < len(PROMPTS)
    billed = service.bedrock.billed
    assert billed["input"] + billed["output"] <= 3000
    whole = ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    assert len(whole.asks[0].replies) == len(PROMPTS)
    assert len(service.bedrock.asked) == len(PROMPTS)


def test_a_service_that_doesnt_answer_is_asked_again(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    patient = batch_jobs(service, batches.storage)
    batch = patient.start(ask().answers, PROMPTS)
    service.faults.internal_error("GetModelInvocationJob", times=4)
    assert patient.wait(batch).status == "Completed"
    service.faults.internal_error("GetModelInvocationJob", times=None)
    with pytest.raises(AwsUnavailable):
        batch_jobs(service, batches.storage, patience=0.1).wait(batch)


def test_what_lies_in_storage(
    service: SageMakerService, batches: BatchJobs, ask: Callable[..., Ask]
) -> None:
    ask_all(bedrock(batches), [ask()], PLENTY, batch_from=120)
    folder = ask().answers.folder
    names = [key.removeprefix(f"{folder}/") for key in batches.storage.list(folder)]
    (request,) = [name for name in names if name.endswith("request.json")]
    content = json.loads(batches.storage.read(f"{folder}/{request}"))
    assert content["modelId"] == HAIKU
    assert len(content["jobName"]) <= 63
    assert {name.rpartition("/")[2] for name in names} == {
        "000001.jsonl", f"batch-{'-'.join(request.split('/')[1:3])}.jsonl", "conversation.json",
        "request.json", "questions.jsonl", "questions.jsonl.out", "manifest.json.out", "harvested.json",
    }  # fmt: skip
    harvested = json.loads(
        batches.storage.read(f"{folder}/{request.replace('request.json', 'harvested.json')}")
    )
    assert harvested["answers"] == len(PROMPTS) - FIRST
