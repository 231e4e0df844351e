"""Converse within a budget: what is sent, what comes back, what it costs, and what goes wrong."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sf_sagemaker.aws import Aws, AwsUnavailable, CredentialsRefused
from sf_sagemaker.serving.bedrock import (
    Bedrock,
    Conversation,
    ModelNotUsable,
    NoAnswer,
    Reply,
    prompt_digest,
)
from sf_sagemaker.serving.bedrock_answers import (
    Answers,
    AskedElsewhere,
    CorruptAnswers,
    answers_folder,
)
from sf_sagemaker.serving.bedrock_budget import Account, Budget, Expected, InvalidBudget, Prices
from sf_sagemaker.serving.bedrock_questions import Ask, Asked, AskingInterrupted, ask_all
from sf_sagemaker.storage import LocalStorage
from standins.sagemaker.bedrock import Conversation as Heard
from standins.sagemaker.bedrock import Written, knows
from standins.sagemaker.service import SageMakerService
from waiting import wait_until

HAIKU = "eu.anthropic.claude-haiku-4-5-20251001-v1:0"
PROFILE = f"arn:aws:bedrock:eu-central-1:123456789012:inference-profile/{HAIKU}"
PROMPTS = [f"prompt number {number}, which asks for a sound" for number in range(40)]
PRICES = Prices(1.0, 5.0)
PLENTY = Budget(tokens=10**9, cost=1e6, prices=PRICES)


@pytest.fixture
def bedrock(service: SageMakerService, monkeypatch: pytest.MonkeyPatch) -> Bedrock:
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    return Bedrock(Aws(attempts=2), patience=30.0, first_pause=0.01)


@pytest.fixture
def asks(tmp_path: Path) -> Callable[..., list[Ask]]:
    """Asks without and with examples, whose answers are kept in one folder of the test's."""
    storage = LocalStorage(tmp_path / "storage")

    def make(*prompts: str, model_id: str = HAIKU) -> list[Ask]:
        made = []
        for examples in ((), (("cow", "moo"), ("cat", "meow"))):
            conversation = Conversation(model_id, "Name the sound.", examples, max_tokens=8)
            folder = answers_folder("m", "2015-04-27", conversation)
            made.append(Ask(Answers(storage, folder, conversation), prompts or PROMPTS))
        return made

    return make


def written(*, share: float = 0.7) -> Callable[[Heard], Written]:
    return knows(dict.fromkeys(PROMPTS, "moo"), share, ["moo", "meow", "woof"])


@pytest.mark.parametrize("model_id", [HAIKU, PROFILE])
def test_one_question(service: SageMakerService, bedrock: Bedrock, model_id: str) -> None:
    service.bedrock.model = lambda heard: Written(f"{heard.prompt}: {dict(heard.examples)['cow']}")
    conversation = Conversation(model_id, "Name the sound.", (("cow", "moo"),), max_tokens=16)
    reply = bedrock.converse(conversation, "calf")
    assert reply.text == "calf: moo"
    assert (reply.whole, reply.refused, reply.truncated) == (True, False, False)
    # The service's own count: words and marks, and three around each message.
    assert (reply.input_tokens, reply.output_tokens) == (4 + 3 + 3 * 3, 3)
    assert reply.latency_ms == 100 + 7 * len("calf")
    (heard,) = service.bedrock.asked
    assert heard == Heard(
        model_id,
        "Name the sound.",
        (("user", "cow"), ("assistant", "moo"), ("user", "calf")),
        16,
        0.0,
    )
    (call,) = service.calls.of("Converse")
    sent = json.loads(call.request.body)
    assert set(sent) == {"messages", "system", "inferenceConfig"}


def test_a_temperature_may_be_left_out(service: SageMakerService, bedrock: Bedrock) -> None:
    bedrock.converse(Conversation(HAIKU, temperature=None), "calf")
    assert service.bedrock.asked[0].temperature is None


@pytest.mark.parametrize(
    ("answer", "is_refused", "is_truncated", "is_whole"),
    [
        (Written("moo"), False, False, True),
        (Written("I can't help with that.", "content_filtered"), True, False, False),
        (Written("Blocked.", "guardrail_intervened"), True, False, False),
        (Written("moo " * 20), False, True, False),
        (Written(None), False, False, False),
        (Written("  "), False, False, False),
        (Written("moo", "malformed_model_output"), False, False, False),
    ],
)
def test_what_kind_of_answer_it_is(
    service: SageMakerService,
    bedrock: Bedrock,
    answer: Written,
    is_refused: bool,
    is_truncated: bool,
    is_whole: bool,
) -> None:
    service.bedrock.model = lambda heard: answer
    reply = bedrock.converse(Conversation(HAIKU, max_tokens=8), "cow")
    assert (reply.refused, reply.truncated, reply.whole) == (is_refused, is_truncated, is_whole)
    assert reply.input_tokens > 0


def test_a_question_that_is_too_long_is_an_answer_of_its_own(
    service: SageMakerService, bedrock: Bedrock
) -> None:
    service.bedrock.most_input_tokens = 20
    reply = bedrock.converse(Conversation(HAIKU), "cow " * 30)
    assert reply.truncated
    assert reply.tokens == 0


@pytest.mark.slow
def test_throttling_is_waited_out(service: SageMakerService, bedrock: Bedrock) -> None:
    service.faults.throttle("Converse", times=3)  # two in the client, the third in ours
    assert bedrock.converse(Conversation(HAIKU), "cow", pause=lambda seconds: None).whole
    service.faults.throttle("Converse", times=None)
    waits: list[float] = []
    with pytest.raises(AwsUnavailable, match="ThrottlingException"):
        Bedrock(Aws(attempts=1), patience=0.5).converse(
            Conversation(HAIKU), "cow", pause=waits.append
        )


def test_troubles_that_pass(service: SageMakerService, bedrock: Bedrock) -> None:
    for code, status in (
        ("ModelTimeoutException", 408),
        ("ServiceUnavailableException", 503),
        ("InternalServerException", 500),
        ("ModelErrorException", 424),
    ):
        service.faults.fail("Converse", code, "Try again.", status)
        assert bedrock.converse(Conversation(HAIKU), "cow", pause=lambda seconds: None).whole
    service.faults.lose_answer("Converse")
    assert bedrock.converse(Conversation(HAIKU), "cow").whole
    assert not service.faults.left()


def test_a_model_that_takes_no_temperature(service: SageMakerService, bedrock: Bedrock) -> None:
    message = "`temperature` is not supported by this model."
    service.faults.fail("Converse", "ValidationException", message)
    with pytest.raises(ModelNotUsable, match=r"bedrock\.temperature to null"):
        bedrock.converse(Conversation(HAIKU), "cow")


def test_one_prompt_without_an_answer(service: SageMakerService, bedrock: Bedrock) -> None:
    service.faults.fail("Converse", "ModelTimeoutException", "It took too long.", 408, times=3)
    with pytest.raises(NoAnswer, match=r"ModelTimeoutException.*tried 3 times"):
        bedrock.converse(Conversation(HAIKU), "cow", pause=lambda seconds: None)


def test_a_model_that_is_not_enabled(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    service.bedrock.enabled = {"another"}
    with pytest.raises(ModelNotUsable, match=r"access to eu\.anthropic.*caller-bedrock-policy"):
        ask_all(bedrock, asks(), PLENTY)
    assert service.calls.count("Converse") <= 4
    service.faults.fail("Converse", "ResourceNotFoundException", "No such model.", 404)
    service.bedrock.enabled = None
    with pytest.raises(ModelNotUsable, match="expected the id of a model"):
        bedrock.converse(Conversation(HAIKU), "cow")
    service.faults.expire_credentials()
    with pytest.raises(CredentialsRefused):
        bedrock.converse(Conversation(HAIKU), "cow")


# Many


def test_all_are_asked_by_turns_and_nothing_is_asked_twice(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    service.bedrock.model = written()
    service.bedrock.seconds = 0.01
    asked = ask_all(bedrock, asks(*PROMPTS, *PROMPTS[:5]), PLENTY, parallel=3)
    assert service.bedrock.most_at_once <= 3
    assert [len(one.replies) for one in asked.asks] == [40, 40]
    assert [one.left for one in asked.asks] == [0, 0]
    assert not asked.out_of_budget
    billed = service.bedrock.billed
    assert asked.tokens == billed["input"] + billed["output"]
    assert asked.cost == pytest.approx((billed["input"] + 5 * billed["output"]) / 1e6)
    order = [heard.prompt for heard in service.bedrock.asked]
    assert order.index(PROMPTS[0]) < 8 < order.index(PROMPTS[30])
    service.bedrock.asked.clear()
    again = ask_all(bedrock, asks(), PLENTY)
    assert service.bedrock.asked == []
    assert again.asks[0].replies == asked.asks[0].replies
    assert [one.new for one in again.asks] == [0, 0]


def test_other_settings_are_other_answers(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    ask_all(bedrock, asks("cow"), PLENTY)
    ask_all(bedrock, asks("cow", model_id=PROFILE), PLENTY)
    assert len(service.bedrock.asked) == 4
    others = [
        Conversation(HAIKU),
        Conversation(HAIKU, "x"),
        Conversation(HAIKU, examples=(("a", "b"),)),
        Conversation(HAIKU, max_tokens=9),
        Conversation(HAIKU, temperature=None),
    ]
    assert len({one.digest for one in others}) == 5


@pytest.mark.parametrize("parallel", [1, 6])
@pytest.mark.parametrize("kind", ["tokens", "cost"])
def test_a_budget_that_runs_out_half_way_is_kept_and_continued(
    service: SageMakerService,
    bedrock: Bedrock,
    asks: Callable[..., list[Ask]],
    kind: str,
    parallel: int,
) -> None:
    service.bedrock.model = written()
    whole = sum(
        ask.conversation.most_input_tokens(prompt) for ask in asks() for prompt in PROMPTS
    )  # in bytes: a few times what the service counts
    small = (
        Budget(tokens=whole // 8) if kind == "tokens" else Budget(cost=whole / 8e6, prices=PRICES)
    )
    first = ask_all(bedrock, asks(), small, parallel=parallel)
    assert first.out_of_budget
    counts = [len(one.replies) for one in first.asks]
    assert 5 < counts[0] < 40
    assert abs(counts[0] - counts[1]) <= 1
    assert [one.left for one in first.asks] == [40 - count for count in counts]
    billed = service.bedrock.billed
    if kind == "tokens":
        assert billed["input"] + billed["output"] <= whole // 8
        assert first.tokens == billed["input"] + billed["output"]
    else:
        assert PRICES.cost(billed["input"], billed["output"]) <= whole / 8e6
    # What is left of the budget is less than the next prompt could take.
    room = (small.tokens or 0) - first.tokens
    if small.cost is not None and first.cost is not None:
        room = 1e6 * (small.cost - first.cost)
    assert room < max(ask.conversation.most_input_tokens(PROMPTS[0]) for ask in asks()) + 5 * 8

    same = ask_all(bedrock, asks(), small, parallel=parallel)
    assert same.out_of_budget
    assert [one.new for one in same.asks] == [0, 0]
    second = ask_all(bedrock, asks(), PLENTY, parallel=parallel)
    assert not second.out_of_budget
    assert [len(one.replies) for one in second.asks] == [40, 40]
    prompts = [(heard.prompt, heard.examples) for heard in service.bedrock.asked]
    assert len(prompts) == len(set(prompts)) == 80


def test_a_budget_of_nothing_asks_nothing(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    asked = ask_all(bedrock, asks(), Budget(tokens=1))
    assert asked.out_of_budget
    assert service.calls.count("Converse") == 0
    with pytest.raises(InvalidBudget):
        Budget()
    with pytest.raises(InvalidBudget, match="with prices only"):
        Budget(cost=1.0)


def test_what_was_answered_before_an_error_is_kept(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    service.faults.fail(
        "Converse",
        "AccessDeniedException",
        "Not any more.",
        403,
        times=None,
        where=lambda request: PROMPTS[20] in request.body.decode(),
    )
    with pytest.raises(ModelNotUsable):
        ask_all(bedrock, asks(), PLENTY, parallel=2)
    paid = len(service.bedrock.asked)
    assert paid >= 40
    assert sum(len(ask.answers.read()) for ask in asks()) == paid
    service.faults.clear()
    ask_all(bedrock, asks(), PLENTY)
    assert len(service.bedrock.asked) == 80


def test_prompts_without_an_answer_are_told_and_asked_again(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    service.faults.fail(
        "Converse",
        "ModelErrorException",
        "It stumbled.",
        424,
        times=None,
        where=lambda request: PROMPTS[3] in request.body.decode(),
    )
    asked = ask_all(bedrock, asks(*PROMPTS[:6]), PLENTY)
    for one in asked.asks:
        assert len(one.replies) == 5
        assert one.left == 0
        assert list(one.failures) == [prompt_digest(PROMPTS[3])]
        assert "It stumbled" in one.failures[prompt_digest(PROMPTS[3])]
    service.faults.clear()
    again = ask_all(bedrock, asks(*PROMPTS[:6]), PLENTY)
    assert [one.new for one in again.asks] == [1, 1]


def test_a_model_that_answers_nothing_is_not_asked_for_ever(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    service.faults.fail("Converse", "ModelErrorException", "It is broken.", 424, times=None)
    with pytest.raises(NoAnswer, match="It is broken"):
        ask_all(bedrock, asks(), PLENTY, parallel=1)
    assert service.calls.count("Converse") == 5 * 3


def test_an_interruption_keeps_what_came_in(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    interrupted = threading.Event()

    def model(heard: Heard) -> Written:
        if len(service.bedrock.asked) == 20:
            interrupted.set()
        return Written("moo")

    service.bedrock.model = model
    with pytest.raises(AskingInterrupted):
        ask_all(bedrock, asks(), PLENTY, parallel=2, interrupted=interrupted)
    paid = len(service.bedrock.asked)
    assert 20 <= paid <= 30
    assert sum(len(ask.answers.read()) for ask in asks()) == paid


@pytest.mark.slow
def test_of_two_runs_that_ask_the_same_one_goes_on(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    service.bedrock.seconds = 0.1
    started = threading.Barrier(2)
    ended: list[Asked | AskedElsewhere] = []

    def run() -> None:
        mine = asks()
        first: list[str] = []

        def on_progress(line: str) -> None:
            if not first:  # both have read, asked and written before either asks more
                first.append(line)
                started.wait(10)

        try:
            ended.append(ask_all(bedrock, mine, PLENTY, parallel=2, on_progress=on_progress))
        except AskedElsewhere as error:
            ended.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (stopped,) = [one for one in ended if isinstance(one, AskedElsewhere)]
    (whole,) = [one for one in ended if isinstance(one, Asked)]
    assert stopped.permanent
    assert [len(one.replies) for one in whole.asks] == [40, 40]
    asked = len(service.bedrock.asked)
    assert 80 < asked <= 80 + 50 + 2 * 2  # 160 if both had gone on
    storage = asks()[0].answers.storage
    kept = [
        line
        for ask in asks()
        for key in storage.list(ask.answers.folder)
        if key.endswith(".jsonl")
        for line in storage.read(key).splitlines()
    ]
    assert len(kept) == asked


def test_answers_are_written_once_and_a_damaged_part_is_named(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    conversation = Conversation(HAIKU, "Name the sound.")
    answers, other = (Answers(storage, "baselines/m/p/d", conversation) for _ in range(2))
    first = Reply(prompt_digest("cow"), "moo", "end_turn", 5, 1, 120.0)
    answers.add([first])
    with pytest.raises(AskedElsewhere):
        other.add([Reply(prompt_digest("cow"), "woof", "end_turn", 5, 1), first])
    other.read()
    other.add([Reply(prompt_digest("cat"), "meow", "end_turn", 5, 1, batch=True)])
    parts = [path.name for path in (tmp_path / "baselines/m/p/d").iterdir()]
    (apart,) = [name for name in parts if name.startswith("apart-")]
    assert sorted({*parts} - {apart}) == ["000001.jsonl", "000002.jsonl", "conversation.json"]
    found = Answers(storage, "baselines/m/p/d", conversation).read()
    assert found[prompt_digest("cow")] == first
    assert found[prompt_digest("cat")].batch
    assert "cow" not in (tmp_path / "baselines/m/p/d/000001.jsonl").read_text()
    for damage in ("{", "[1]", '{"prompt": "x"}'):
        (tmp_path / "baselines/m/p/d/000002.jsonl").write_text(damage + "\n")
        with pytest.raises(CorruptAnswers, match=r"000002\.jsonl, line 1"):
            answers.read()


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 60), st.floats(0, 1)), max_size=60))
def test_an_account_never_exceeds_its_budget(
    questions: list[tuple[int, int, float]],
) -> None:
    """Whatever takes as much as was set aside for it or less, and in whatever order it ends."""
    account = Account(Budget(tokens=3000, cost=0.01, prices=PRICES))
    under_way: list[tuple[Expected, Reply]] = []
    for input_tokens, output_tokens, share in questions:
        expected = Expected(input_tokens, output_tokens)
        if account.set_aside(expected):
            true = Reply(
                "p", "t", "end_turn", int(share * input_tokens), int(share * output_tokens)
            )
            under_way.append((expected, true))
        if len(under_way) > 3 or share < 0.3:
            while under_way and share < 0.9:
                done, reply = under_way.pop()
                account.release(done)
                account.spend(reply)
        assert account.tokens <= 3000
        assert account.cost <= 0.01 + 1e-12


@given(st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=3), st.text())
def test_no_request_has_more_tokens_than_are_set_aside(
    system: str, examples: list[tuple[str, str]], prompt: str
) -> None:
    conversation = Conversation(HAIKU, system, tuple(examples))
    heard = Heard(HAIKU, system, tuple(conversation.messages(prompt)), 8, 0.0)
    assert heard.tokens <= conversation.most_input_tokens(prompt)


def test_the_result_is_of_the_prompts_that_were_asked_for(
    service: SageMakerService, bedrock: Bedrock, asks: Callable[..., list[Ask]]
) -> None:
    everything = ask_all(bedrock, asks(*PROMPTS[:10]), PLENTY)
    some = ask_all(bedrock, asks(*PROMPTS[:4]), PLENTY)
    assert [len(one.replies) for one in some.asks] == [4, 4]
    assert isinstance(some, Asked)
    # What was paid for counts, whether it is asked for this time or not.
    assert some.tokens == everything.tokens


_RUN = """
import sys
from pathlib import Path
from sf_sagemaker.aws import Aws
from sf_sagemaker.serving.bedrock import Bedrock, Conversation
from sf_sagemaker.serving.bedrock_answers import Answers
from sf_sagemaker.serving.bedrock_budget import Budget
from sf_sagemaker.serving.bedrock_questions import Ask, ask_all
from sf_sagemaker.storage import LocalStorage

conversation = Conversation("a.model", "Name the sound.")
answers = Answers(LocalStorage(Path(sys.argv[1])), "baselines/m/p/d", conversation)
prompts = [f"prompt {number}" for number in range(int(sys.argv[2]))]
ask_all(Bedrock(Aws()), [Ask(answers, prompts)], Budget(tokens=10**9), parallel=2)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_loses_the_last_moments_only(
    service: SageMakerService, tmp_path: Path
) -> None:
    service.bedrock.seconds = 0.04
    environment = {**os.environ, **service.environment}
    command = [sys.executable, "-c", _RUN, str(tmp_path), "400"]
    process = subprocess.Popen(command, env=environment)
    wait_until(lambda: len(service.bedrock.asked) >= 200, 60)
    process.kill()
    process.wait()
    time.sleep(0.2)  # what was under way is billed all the same
    paid = len(service.bedrock.asked)
    kept = len(Answers(LocalStorage(tmp_path), "baselines/m/p/d", Conversation("a.model")).read())
    # 50 answers or two seconds are written at once, and two prompts were under way.
    assert paid - 52 <= kept <= paid
    assert kept >= 100
    service.bedrock.seconds = 0
    subprocess.run(command, env=environment, check=True)
    assert len(service.bedrock.asked) == paid + 400 - kept
