"""A fine-tuned model: loaded only on its own base, and where it answers as it did when trained."""

import importlib.metadata
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from sf_sagemaker.containers.errors import (
    ContainerError,
    GoldenRowMismatch,
    ModelUnusable,
    VersionMismatch,
)
from sf_sagemaker.containers.llm.base_model import BaseModel, BaseModelMismatch, find_base_model
from sf_sagemaker.containers.llm.examples import (
    Encoded,
    Example,
    count_tokens,
    cut_prompt,
    encode,
    encode_completion,
    encode_prompts,
    instructed,
)
from sf_sagemaker.containers.llm.model_card import GoldenRow, ModelCard
from sf_sagemaker.containers.llm.scoring import (
    CausalModel,
    answer_scores,
    completion_losses,
    generate,
)

ADAPTER_FILE = "adapter_model.safetensors"

# In nats, and relative. float32 sums in another order, over thirty layers, stay far below; losses of
# SmolLM2-135M in bfloat16 and in float32 were up to 2 % apart.
_TOLERANCE = {"float32": 0.02, "bfloat16": 0.1}


class NoFixedAnswers(ContainerError):
    """A question for the likeliest answer to a model whose completions are no fixed list."""


class LanguageModel:
    """A model with its tokenizer and card. Of prompts that are too long, it sees what training saw."""

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, card: ModelCard
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.card = card

    @property
    def pad(self) -> int:
        """The token that fills up short rows of a batch, where nothing looks at it."""
        return pad_token(self.tokenizer)

    def predict(self, prompts: Sequence[str]) -> list[str]:
        """The likeliest of the card's answers to each prompt. Raises NoFixedAnswers."""
        scores = self.answer_scores(prompts)
        return [self.card.answers[i] for i in scores.argmax(1)]

    def answer_scores(self, prompts: Sequence[str]) -> np.ndarray:
        """The log-likelihood of each of the card's answers to each prompt, in nats.

        float64 of shape (prompts, answers). Raises NoFixedAnswers.
        """
        if not self.card.answers:
            raise NoFixedAnswers(
                f"{self.card.model} was trained on more distinct completions than its "
                "hyperparameter answers allows, so there is no list to rank: use generate"
            )
        answers = [encode_completion(answer, self.tokenizer) for answer in self.card.answers]
        room = self.card.max_tokens - max(map(len, answers))
        encoded = self._encode(prompts, room)
        return answer_scores(self.model, encoded, answers, self.pad)

    def answer_probabilities(self, prompts: Sequence[str]) -> np.ndarray:
        """The probability of each of the card's answers, given that it is one of them.

        float64 of shape (prompts, answers); rows add up to 1. Raises NoFixedAnswers.
        """
        scores = self.answer_scores(prompts)
        likelihoods = np.exp(scores - scores.max(axis=1, keepdims=True))
        return likelihoods / likelihoods.sum(axis=1, keepdims=True)

    def completion_loss(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """The negative log-likelihood of each completion after its prompt, in nats.

        float64 of shape (prompts,). Raises OverlongCompletion.
        """
        examples = [Example(*pair) for pair in zip(prompts, completions, strict=True)]
        return self.losses(encode(examples, self.tokenizer, self.card.max_tokens))

    def losses(self, encoded: Sequence[Encoded]) -> np.ndarray:
        """As completion_loss, of encoded examples."""
        return completion_losses(self.model, encoded, self.pad)

    def generate(self, prompts: Sequence[str], *, instruction: str = "") -> list[str]:
        """What the model writes after each prompt, always the likeliest token.

        As many tokens as the card's `answer_tokens`, or fewer where it ends by itself.
        An instruction stands on a line before each prompt.
        """
        room = self.card.max_tokens + count_tokens(instruction, self.tokenizer)
        encoded = self._encode([instructed(prompt, instruction) for prompt in prompts], room)
        end = cast(int, self.tokenizer.eos_token_id)
        rows = generate(self.model, encoded, self.pad, end, self.card.answer_tokens)
        return [str(self.tokenizer.decode(row)).strip() for row in rows]

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """Inside, the model answers as its base does."""
        with self.model.disable_adapter():
            yield

    def save(self, folder: Path) -> None:
        """Writes adapter and card into a folder; the base model stays where it is."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
        self.card.write(folder)

    def _encode(self, prompts: Sequence[str], room: int) -> list[tuple[int, ...]]:
        return [cut_prompt(ids, room) for ids in encode_prompts(prompts, self.tokenizer)]


def load_base(
    base: BaseModel, precision: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base model, on the machine's accelerator where it has one, and its tokenizer.

    With the precision auto its weights are bfloat16 on a GPU that has it, and float32 elsewhere.
    Raises ModelUnusable, also where there is too little memory for it.
    """
    logging.disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    if precision == "auto":
        # Older GPUs only emulate it.
        has_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if has_bfloat16 else "float32"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    if not on_gpu:
        check_memory(base, precision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder)
        # A weight after the other goes to where it stays: there is never a second copy of them all.
        model = AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            device_map={"": device},
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnusable(
            f"the base model {base.name!r} in {base.folder} can't be loaded: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelUnusable(f"the tokenizer of {base.name!r} has no token that ends a text")
    model.requires_grad_(False)
    return model.eval(), tokenizer


def precision_of(model: CausalModel) -> str:
    """What the base's weights are: float32 or bfloat16."""
    return str(next(p for p in model.parameters() if not p.requires_grad).dtype).removeprefix(
        "torch."
    )


def check_memory(base: BaseModel, precision: str) -> None:
    """Raises ModelUnusable where a base is larger than the memory that is free for it."""
    needed = getattr(torch, precision).itemsize * _parameters(base)
    free = _free_memory()
    if free is not None and needed > free:
        raise ModelUnusable(
            f"the base model {base.name!r} takes {needed / 2**30:.1f} GiB in {precision}, and "
            f"{free / 2**30:.1f} GiB of memory are free: use a machine with more, or one with a GPU"
        )


def _parameters(base: BaseModel) -> int:
    """How many numbers the weights' files hold."""
    count = 0
    for path in base.folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                count += sum(
                    math.prod(file.get_slice(name).get_shape())
                    for name in file.keys()  # noqa: SIM118
                )
        except (SafetensorError, OSError) as error:
            raise ModelUnusable(
                f"the base model {base.name!r} can't be loaded: {path.name}: {error}"
            ) from error
    return count


def _free_memory() -> int | None:
    """Bytes that a process may still take here; None where the system doesn't say."""
    free: list[int] = []
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(1024 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())  # "max" where there is no limit
        free.append(limit - int((group / "memory.current").read_text()))
    return min(free, default=None)


def load_model(folder: Path, base: str | None = None) -> LanguageModel:
    """The model in a folder, on the base model that its card names, or that `base` names.

    Raises InvalidModelCard, VersionMismatch, BaseModelMissing, BaseModelMismatch, ModelUnusable
    and GoldenRowMismatch.
    """
    card = ModelCard.read(folder)
    _check_versions(card, folder)
    found = find_base_model(base or card.base_model["name"])
    if found.digest != card.base_model["digest"]:
        raise BaseModelMismatch(
            f"{folder} was trained on {card.base_model['name']} with the digest "
            f"{card.base_model['digest']}, and {found.name} in {found.folder} has {found.digest}: "
            "an adapter fits its own base only. Name that base, or train the model again"
        )
    model, tokenizer = load_base(found)
    if not (folder / ADAPTER_FILE).is_file():
        raise ModelUnusable(f"{folder / ADAPTER_FILE} is missing: fetch the artifact again")
    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise ModelUnusable(
            f"the adapter in {folder} is not whole or not of this base "
            f"({str(error).splitlines()[0]}): fetch the model's artifact again, or train it again"
        ) from error
    loaded = LanguageModel(adapted.eval(), tokenizer, card)
    _check_golden_rows(loaded, folder)
    return loaded


def golden_rows(model: LanguageModel, examples: Sequence[Example]) -> tuple[GoldenRow, ...]:
    """Examples with the losses that the model makes of them."""
    losses = model.completion_loss(
        [example.prompt for example in examples], [example.completion for example in examples]
    )
    return tuple(
        GoldenRow(example.prompt, example.completion, float(loss))
        for example, loss in zip(examples, losses, strict=True)
    )


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token to fill rows up with: any will do, because it is masked."""
    pad = tokenizer.pad_token_id
    return cast(int, tokenizer.eos_token_id if pad is None else pad)


def _check_versions(card: ModelCard, folder: Path) -> None:
    """transformers of the same major version; peft that is no older: it reads what older ones wrote."""
    for library, fits in (("transformers", _same_major), ("peft", _no_older)):
        trained_with, installed = (
            card.library_versions[library],
            importlib.metadata.version(library),
        )
        if not fits(_release(installed), _release(trained_with)):
            raise VersionMismatch(
                f"{folder} was trained with {library} {trained_with}, and {library} {installed} is "
                f"installed: install {trained_with}, or train the model again"
            )


def _same_major(installed: tuple[int, ...], trained_with: tuple[int, ...]) -> bool:
    return installed[:1] == trained_with[:1]


def _no_older(installed: tuple[int, ...], trained_with: tuple[int, ...]) -> bool:
    return installed[:2] >= trained_with[:2]


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def _check_golden_rows(model: LanguageModel, folder: Path) -> None:
    rows = model.card.golden_rows
    if not rows:
        return
    found = model.completion_loss([row.prompt for row in rows], [row.completion for row in rows])
    expected = np.array([row.loss for row in rows])
    precisions = {model.card.precision, precision_of(model.model)}
    tolerance = max(_TOLERANCE[precision] for precision in precisions)
    if not np.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise GoldenRowMismatch(
            f"the model in {folder} has the losses {found.round(4).tolist()} on its golden rows, "
            f"and had {expected.round(4).tolist()} when it was trained: its files don't belong "
            "together, or the libraries compute something else. Fetch the artifact again, or train "
            "the model again"
        )
