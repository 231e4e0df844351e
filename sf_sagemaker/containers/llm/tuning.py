"""The fine-tuning itself: LoRA adapters, the order of examples, steps, checkpoints, resuming.

Source: "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al. 2021.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from sf_sagemaker.containers.environment import Stopped, StopSignal
from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.llm.checkpoints import Checkpoint, CheckpointFolder, History
from sf_sagemaker.containers.llm.examples import Encoded
from sf_sagemaker.containers.llm.hyperparameters import Hyperparameters
from sf_sagemaker.containers.llm.processes import Group
from sf_sagemaker.containers.llm.scoring import completion_losses, make_batch, summed_loss
from sf_sagemaker.containers.reporter import Reporter

_CHECKPOINTS = 10  # in a training
_LOOKS = 4  # at the validation split in a training
_LOOKED_AT = 48  # rows of it
_BUCKET = 8  # batches whose examples are sorted by length
_MAX_GRADIENT_NORM = 1.0
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW remembers of each parameter


class UnsuitableBaseModel(ContainerError):
    """A base model that the hyperparameters don't fit."""


class DivergedTraining(ContainerError):
    """A training whose loss or gradient is no longer a number."""


@dataclass(frozen=True)
class Tuned:
    """A model with its trained adapter. `history` is {split: {"step": […], "loss": […]}}."""

    model: PeftModel
    steps: int
    history: History


def add_adapter(base: PreTrainedModel, hyperparameters: Hyperparameters) -> PeftModel:
    """The base with an untrained adapter, which changes nothing yet. Raises UnsuitableBaseModel."""
    layers = int(base.config.num_hidden_layers)
    last = hyperparameters.lora_layers or layers
    if last > layers:
        raise UnsuitableBaseModel(
            f"lora_layers is {last}, and the base model has {layers} layers: expected 1 to "
            f"{layers}, or all"
        )
    torch.manual_seed(hyperparameters.seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=hyperparameters.lora_rank,
        lora_alpha=cast(int, hyperparameters.lora_alpha),  # used as a number, declared as an int
        lora_dropout=0.0,
        target_modules=list(hyperparameters.lora_targets),
        layers_to_transform=list(range(layers - last, layers)),
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers in a way that transformers has renamed
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(base, config)
    except ValueError as error:
        raise UnsuitableBaseModel(
            f"the base model has none of the modules {', '.join(hyperparameters.lora_targets)}: "
            f"{error}"
        ) from error
    return cast(PeftModel, model)


def plan_batches(examples: Sequence[Encoded], hyperparameters: Hyperparameters) -> list[list[int]]:
    """The indices of the examples of each step, all decided by the seed.

    An epoch has as many examples as there are; with `balance` above 0, those with rare completions
    come several times and others not at all. Batches hold examples of similar length.
    """
    random = np.random.default_rng(hyperparameters.seed)
    count, size = len(examples), hyperparameters.batch_size
    steps = max(1, math.ceil(hyperparameters.epochs * count / size))
    weights = _weights(examples, hyperparameters.balance)
    batches: list[list[int]] = []
    while len(batches) < steps:
        order = random.permutation(_draw(weights, random))
        for start in range(0, count, size * _BUCKET):
            bucket = sorted(
                order[start : start + size * _BUCKET].tolist(), key=lambda i: len(examples[i])
            )
            parts = [bucket[i : i + size] for i in range(0, len(bucket), size)]
            batches += [parts[i] for i in random.permutation(len(parts))]
    return batches[:steps]


def tune(
    model: PeftModel,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    hyperparameters: Hyperparameters,
    *,
    pad: int,
    checkpoints: CheckpointFolder,
    reporter: Reporter,
    stop: StopSignal,
    group: Group,
) -> Tuned:
    """Trains the adapter from the newest checkpoint on, the same one in all processes of a group.

    An interrupted training that starts again makes the same adapter as one that wasn't interrupted.
    However many processes share the rows of a batch, its gradient is that of all of them. Raises
    Stopped after a SIGTERM, and DivergedTraining.
    """
    plan = plan_batches(train, hyperparameters)
    looked_at = validation[:_LOOKED_AT]
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=hyperparameters.learning_rate, weight_decay=0.0
    )
    step, history = _resume(checkpoints, trained, optimizer, reporter)
    saved = step
    if hyperparameters.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    while step < len(plan):
        if group.any(stop.requested):
            if step > saved and group.leads:
                checkpoints.save(_checkpoint(step, history, trained, optimizer))
            raise Stopped(f"stopped by SIGTERM after step {step}: no model was written")
        rate = hyperparameters.learning_rate * _schedule(step, len(plan), hyperparameters.warmup)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        rows = [train[i] for i in plan[step]]
        loss = _add_gradients(model, rows, hyperparameters.micro_batch_size, pad, group)
        loss = group.add_up_gradients(list(trained.values()), loss)
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), _MAX_GRADIENT_NORM)
        # Clipping makes nothing of gradients that are infinite, and hides that training stands still.
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise DivergedTraining(
                f"step {step + 1} has the loss {loss.item():g} and a gradient of norm "
                f"{norm.item():g}: lower learning_rate, which is {hyperparameters.learning_rate:g}, "
                "or lora_alpha"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        _record(history, "train", step, loss.item())
        if looked_at and step % max(1, len(plan) // _LOOKS) == 0:
            model.eval()
            losses = completion_losses(model, group.part(looked_at), pad)
            total = group.total(torch.tensor([losses.sum()]))
            tokens = sum(len(example.completion) for example in looked_at)
            _record(history, "validation", step, total.item() / tokens)
            model.train()
        reporter.progress(step, len(plan), **_latest(history))
        if group.leads and (step % max(1, len(plan) // _CHECKPOINTS) == 0 or step == len(plan)):
            checkpoints.save(_checkpoint(step, history, trained, optimizer))
            saved = step
    model.eval()
    return Tuned(model, step, history)


def _add_gradients(
    model: PeftModel, rows: Sequence[Encoded], micro: int | None, pad: int, group: Group
) -> torch.Tensor:
    """Adds the gradients of this process's part of a batch, `micro` rows at a time.

    Gives its part of the batch's loss, the mean over the completions' tokens of all processes.
    """
    predicted = sum(len(row.completion) for row in rows)
    mine = group.part(rows)
    size = micro or max(1, len(mine))
    loss = torch.zeros((), device=next(model.parameters()).device)
    for start in range(0, len(mine), size):
        chosen = mine[start : start + size]
        batch = make_batch([row.prompt for row in chosen], [row.completion for row in chosen], pad)
        part = summed_loss(model, batch) / predicted
        part.backward()
        loss += part.detach()
    return loss


def _weights(examples: Sequence[Encoded], balance: float) -> np.ndarray:
    """The share of each example in an epoch."""
    counts = Counter(example.completion for example in examples)
    weights = np.array([counts[example.completion] ** -balance for example in examples])
    return weights / weights.sum()


def _draw(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many indices as there are weights, each as often as its weight asks for, or once more.

    With equal weights, each index comes once.
    """
    count = len(weights)
    points = (np.arange(count) + random.random()) / count
    return np.searchsorted(np.cumsum(weights), points).clip(max=count - 1)


def _schedule(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor: up to 1 over the warm-up, then down to almost 0, both linear."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (steps - step) / (steps - rising)


def _record(history: History, split: str, step: int, loss: float) -> None:
    curve = history.setdefault(split, {"step": [], "loss": []})
    curve["step"].append(step)
    curve["loss"].append(loss)


def _latest(history: History) -> dict[str, float]:
    """The newest losses; that of single training batches jumps, so it is a mean of the last ten."""
    return {
        f"{split}-loss": float(np.mean(curve["loss"][-10 if split == "train" else -1 :]))
        for split, curve in history.items()
    }


def _checkpoint(
    step: int,
    history: History,
    trained: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Checkpoint:
    tensors = {f"parameter.{name}": parameter.detach() for name, parameter in trained.items()}
    for name, parameter in trained.items():
        for key in _MOMENTS:
            tensors[f"optimizer.{key}.{name}"] = optimizer.state[parameter][key]
    return Checkpoint(step, history, tensors)


def _resume(
    checkpoints: CheckpointFolder,
    trained: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    reporter: Reporter,
) -> tuple[int, History]:
    """Puts the newest checkpoint into adapter and optimizer, and gives its step and history."""
    found = checkpoints.latest()
    for reason in checkpoints.rejected:
        reporter.info(f"passed over {reason}")
    if found is None:
        return 0, {}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(found.tensors[f"parameter.{name}"])
            optimizer.state[parameter] = {
                key: found.tensors[f"optimizer.{key}.{name}"].to(parameter.device)
                for key in _MOMENTS
            }
    reporter.info(f"resuming after step {found.step}")
    return found.step, found.history
