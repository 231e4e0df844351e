"""What a model makes of prompts: the loss of completions, the rank of answers, and its own words.

Losses and log-likelihoods are in nats, of a whole completion with the token that ends it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from sf_sagemaker.containers.llm.examples import Encoded

CausalModel = PreTrainedModel | PeftModel

_BATCH_TOKENS = 1024
_UNSEEN = -100  # cross_entropy's ignore_index


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, padded on the left, so that what is predicted stands at the right.

    `ids`, `mask` and `positions` have shape (rows, tokens). `labels` are the tokens that the last
    positions predict, of shape (rows, predicted), with -100 where there is nothing to predict.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor


def make_batch(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad: int
) -> Batch:
    """A batch whose completions are predicted; their last tokens are not fed in."""
    rows = [(*p, *c[:-1]) for p, c in zip(prompts, completions, strict=True)]
    ids, mask = _pad_left(rows, pad)
    labels = torch.full((len(rows), max(map(len, completions))), _UNSEEN)
    for row, completion in zip(labels, completions, strict=True):
        row[len(row) - len(completion) :] = torch.tensor(completion)
    return Batch(ids, mask, _positions(mask), labels)


def summed_loss(model: CausalModel, batch: Batch) -> torch.Tensor:
    """The sum of the losses of the completions' tokens. Prompts and padding have no part in it."""
    return _token_losses(model, batch).sum()


@torch.inference_mode()
def completion_losses(model: CausalModel, examples: Sequence[Encoded], pad: int) -> np.ndarray:
    """The loss of each completion after its prompt: float64 of shape (examples,)."""
    losses = np.empty(len(examples))
    for chosen in _by_length([len(example) for example in examples]):
        batch = make_batch(
            [examples[i].prompt for i in chosen], [examples[i].completion for i in chosen], pad
        )
        losses[chosen] = _token_losses(model, batch).sum(1).double().cpu().numpy()
    return losses


@torch.inference_mode()
def answer_scores(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    pad: int,
) -> np.ndarray:
    """The log-likelihood of each answer after each prompt: float64 of shape (prompts, answers).

    Each prompt is read once; all answers go on from there.
    """
    scores = np.empty((len(prompts), len(answers)))
    longest = max(map(len, answers))
    following = torch.tensor([[*answer, *[pad] * (longest - len(answer))] for answer in answers])
    real = torch.tensor([[1] * len(a) + [0] * (longest - len(a)) for a in answers])
    following, real = following.to(_device(model)), real.to(_device(model))
    for chosen in _by_length([len(prompt) + longest * len(answers) for prompt in prompts]):
        ids, mask = (t.to(_device(model)) for t in _pad_left([prompts[i] for i in chosen], pad))
        read = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask),
            use_cache=True,
            logits_to_keep=1,
        )
        total = read.logits[:, -1].float().log_softmax(-1)[:, following[:, 0]]
        if longest > 1:
            cache = read.past_key_values
            cache.batch_repeat_interleave(len(answers))
            tokens, counted = following.repeat(len(chosen), 1), real.repeat(len(chosen), 1)
            whole = torch.cat([mask.repeat_interleave(len(answers), 0), counted[:, :-1]], 1)
            logits = model(
                input_ids=tokens[:, :-1],
                attention_mask=whole,
                position_ids=_positions(whole)[:, mask.shape[1] :],
                past_key_values=cache,
                use_cache=True,
            ).logits
            rest = logits.float().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
            total = total + (rest * counted[:, 1:]).sum(1).view(total.shape)
        scores[chosen] = total.double().cpu().numpy()
    return scores


@torch.inference_mode()
def generate(
    model: CausalModel, prompts: Sequence[Sequence[int]], pad: int, end: int, max_tokens: int
) -> list[list[int]]:
    """The tokens that the model goes on with, each time the likeliest, up to the one that ends."""
    if not prompts:
        return []
    ids, mask = (t.to(_device(model)) for t in _pad_left(prompts, pad))
    cache, generated = None, []
    for _ in range(max_tokens):
        read = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask)[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = read.past_key_values
        ids = read.logits[:, -1].argmax(-1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        generated.append(ids)
        if torch.cat(generated, 1).eq(end).any(1).all():
            break
    rows = torch.cat(generated, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def _token_losses(model: CausalModel, batch: Batch) -> torch.Tensor:
    """Loss by token, of shape (rows, predicted). Logits exist at predicted positions only."""
    predicted = batch.labels.shape[1]
    logits = model(
        input_ids=batch.ids.to(_device(model)),
        attention_mask=batch.mask.to(_device(model)),
        position_ids=batch.positions.to(_device(model)),
        use_cache=False,
        logits_to_keep=predicted,
    ).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1),
        batch.labels.to(_device(model)).flatten(),
        ignore_index=_UNSEEN,
        reduction="none",
    )
    return losses.view(batch.labels.shape)


def _pad_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens and their mask, both of shape (rows, longest)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    return ids, mask


def _device(model: CausalModel) -> torch.device:
    return next(model.parameters()).device


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions that count from each row's first real token."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def _by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of similar length: padding is work for nothing."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and lengths[i] * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
