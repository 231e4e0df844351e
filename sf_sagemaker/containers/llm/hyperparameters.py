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

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Hyperparameters:
    """What decides a fine-tuning, besides its data.

    `base_model` is a model id of the Hugging Face hub, a folder with safetensors, or
    `package:<name>` for one that a Python package carries. `lora_layers` counts layers from the
    last one down; None is all of them. `lora_targets` are names of modules in each layer.
    `max_tokens` bounds prompt and completion together. `warmup` is the share of steps in which the
    learning rate rises. `balance` goes from 0, completions as frequent as they are, to 1, all of
    them equally frequent. `answers` is the largest number of distinct completions that are taken
    for a fixed list of answers, to be ranked. `instruction` is what the untuned base is told before
    each prompt, where the model is compared with it; None names the answers.
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
    if not text.strip():
        raise ValueError("a hub id, a folder, or package:<name>")
    return text


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
    "seed": whole(0),
}


def parse_hyperparameters(strings: Mapping[str, str]) -> Hyperparameters:
    """The hyperparameters that a job's strings say. Raises InvalidHyperparameter."""
    known = [field.name for field in fields(Hyperparameters)]
    for name in strings:
        if name not in known:
            raise unknown(name, known)
    if "base_model" not in strings:
        raise InvalidHyperparameter(
            "base_model is missing: expected a hub id, a folder, or package:<name>"
        )
    return Hyperparameters(
        **{name: read_value(name, text, _READERS[name]) for name, text in strings.items()}
    )
