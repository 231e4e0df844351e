"""The strings that a training job carries, as the typed values of a LoRA fine-tuning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sf_sagemaker.containers.hyperparameters import (
    InvalidHyperparameter,
    choice,
    number,
    read_value,
    unknown,
    whole,
)
from sf_sagemaker.containers.llm.base_model_name import FORMS, BaseModelName, InvalidBaseModel

PRECISIONS = ("auto", "float32", "bfloat16")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Hyperparameters:
    """What decides a fine-tuning, besides its data.

    `base_model` is a text as BaseModelName reads it. `lora_layers` counts layers from the
    last one down; None is all of them. `lora_targets` are names of modules in each layer.
    `max_tokens` bounds prompt and completion together. `warmup` is the share of steps in which the
    learning rate rises. `balance` goes from 0, completions as frequent as they are, to 1, all of
    them equally frequent. `answers` is the largest number of distinct completions that are taken
    for a fixed list of answers, to be ranked. `instruction` is what the untuned base is told before
    each prompt, where the model is compared with it; None names the answers.

    What fits into a GPU's memory: `micro_batch_size` rows are computed at a time, whose gradients add
    up to those of the batch; None takes each GPU's part of the batch at once. With
    `gradient_checkpointing`, activations are computed again instead of being kept. `precision` is the
    base's: auto takes bfloat16 on a GPU that has it, and float32 elsewhere. The adapter is float32.
    """

    base_model: str
    epochs: float = 1.0
    learning_rate: float = 2e-3
    batch_size: int = 8
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_layers: int | None = None
    lora_targets: tuple[str, ...] = PROJECTIONS
    max_tokens: int = 96
    warmup: float = 0.1
    balance: float = 0.0
    answers: int = 20
    instruction: str | None = None
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    precision: str = "auto"
    seed: int = 0


def _layers(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError("a whole number from 1, or all")
    return int(text)


def _targets(text: str) -> tuple[str, ...]:
    names = PROJECTIONS if text == "all" else tuple(part.strip() for part in text.split(","))
    read = choice(*PROJECTIONS)
    return tuple(dict.fromkeys(read(name) for name in names))


def _name(text: str) -> str:
    try:
        return BaseModelName.parse(text).text
    except InvalidBaseModel:
        raise ValueError(FORMS) from None


def _flag(text: str) -> bool:
    return choice("true", "false")(text.lower()) == "true"


_READERS: Mapping[str, Callable[[str], Any]] = {
    "base_model": _name,
    "epochs": number(0, excluded="low"),
    "learning_rate": number(0, 1, excluded="low"),
    "batch_size": whole(1),
    "lora_rank": whole(1),
    "lora_alpha": number(0, excluded="low"),
    "lora_layers": _layers,
    "lora_targets": _targets,
    "max_tokens": whole(16),
    "warmup": number(0, 1),
    "balance": number(0, 1),
    "answers": whole(0),
    "instruction": str.strip,
    "micro_batch_size": whole(1),
    "gradient_checkpointing": _flag,
    "precision": choice(*PRECISIONS),
    "seed": whole(0),
}


def parse_hyperparameters(strings: Mapping[str, str]) -> Hyperparameters:
    """The hyperparameters that a job's strings say. Raises InvalidHyperparameter."""
    known = [field.name for field in fields(Hyperparameters)]
    for name in strings:
        if name not in known:
            raise unknown(name, known)
    if "base_model" not in strings:
        raise InvalidHyperparameter(f"base_model is missing: expected {FORMS}")
    return Hyperparameters(
        **{name: read_value(name, text, _READERS[name]) for name, text in strings.items()}
    )
