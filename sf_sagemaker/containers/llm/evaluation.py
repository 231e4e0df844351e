"""What a model's answers are worth on held-out rows, beside those of its base when prompted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from sf_sagemaker.containers.llm.examples import (
    Encoded,
    Example,
    count_tokens,
    cut_prompt,
    encode,
    encode_completion,
    instructed,
)
from sf_sagemaker.containers.llm.scoring import (
    CausalModel,
    answer_scores,
    completion_losses,
    generate,
)

_SCORED_ROWS = 512  # of a split, the first ones: their order is random
_GENERATED_ROWS = 32


@dataclass(frozen=True)
class Scores:
    """Metrics by name, and how often each answer was given for each: counts[actual][given].

    Metrics: `rows` scored; `completion_loss`, the mean negative log-likelihood of a completion with
    its end in nats; `completion_perplexity`, its exponential; `exact_match`, the share of rows with
    the right answer. With a fixed list of answers that is the likeliest of them, and
    `answer_log_loss` is the log loss given that it is one of them, over the rows whose completion
    is, to be compared with a classifier's. Without one it is what the model writes, of up to 32 rows.
    """

    metrics: dict[str, float]
    confusion: dict[str, Any] = field(default_factory=dict)


def name_answers(answers: Sequence[str]) -> str:
    """An instruction that tells a base model the answers that there are."""
    return f"The answer is one of: {', '.join(answers)}." if answers else ""


def score(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    answers: Sequence[str],
    *,
    pad: int,
    max_tokens: int,
    answer_tokens: int,
    instruction: str = "",
) -> Scores:
    """The scores of a model on examples, with an instruction on a line before each prompt.

    What it writes by itself has at most `answer_tokens`.

    The instruction comes on top of `max_tokens`, so that prompts are cut as they are without it.
    """
    chosen = examples[:_SCORED_ROWS]
    max_tokens += count_tokens(instruction, tokenizer)
    told = [Example(instructed(e.prompt, instruction), e.completion) for e in chosen]
    encoded = encode(told, tokenizer, max_tokens)
    if not answers:
        losses = completion_losses(model, encoded, pad)
        asked = encoded[:_GENERATED_ROWS]
        written = write(model, tokenizer, asked, pad=pad, answer_tokens=answer_tokens)
        right = [text == e.completion for text, e in zip(written, chosen, strict=False)]
        return Scores(_metrics(losses, float(np.mean(right))))
    candidates = [encode_completion(answer, tokenizer) for answer in answers]
    room = max_tokens - max(map(len, candidates))
    scores = answer_scores(model, [cut_prompt(e.prompt, room) for e in encoded], candidates, pad)
    given = scores.argmax(1)
    index = {answer: number for number, answer in enumerate(answers)}
    actual = np.array([index.get(example.completion, -1) for example in chosen])
    known = actual >= 0
    losses = np.empty(len(chosen))
    losses[known] = -scores[known, actual[known]]
    unseen = np.flatnonzero(~known)
    losses[unseen] = completion_losses(model, [encoded[i] for i in unseen], pad)
    metrics = _metrics(losses, float(np.mean(given == actual)))
    if known.any():
        best = scores.max(1, keepdims=True)
        total = np.log(np.exp(scores - best).sum(1)) + best[:, 0]
        metrics["answer_log_loss"] = float(np.mean((total + losses)[known]))
    return Scores(metrics, _confusion(chosen, given, answers))


def write(
    model: CausalModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[Encoded],
    *,
    pad: int,
    answer_tokens: int,
) -> list[str]:
    """What the model writes after the prompts, by itself."""
    end = cast(int, tokenizer.eos_token_id)
    rows = generate(model, [e.prompt for e in encoded], pad, end, answer_tokens)
    return [str(tokenizer.decode(row)).strip() for row in rows]


def unseen_completions(
    examples: Sequence[Example], trained_on: Sequence[Example]
) -> dict[str, int]:
    """Completions that the training rows don't have, with the number of their rows."""
    seen = {example.completion for example in trained_on}
    counts = Counter(e.completion for e in examples if e.completion not in seen)
    return dict(sorted(counts.items()))


def _metrics(losses: np.ndarray, exact_match: float) -> dict[str, float]:
    loss = float(losses.mean())
    return {
        "rows": len(losses),
        "completion_loss": loss,
        "completion_perplexity": float(np.exp(loss)),
        "exact_match": exact_match,
    }


def _confusion(
    examples: Sequence[Example], given: np.ndarray, answers: Sequence[str]
) -> dict[str, Any]:
    """Counts by actual completion (the answers first, then others) and by answer given."""
    others = sorted({example.completion for example in examples} - set(answers))
    actual = [*answers, *others]
    counts = np.zeros((len(actual), len(answers)), dtype=int)
    for example, answer in zip(examples, given, strict=True):
        counts[actual.index(example.completion), answer] += 1
    return {"actual": actual, "given": list(answers), "counts": counts.tolist()}
