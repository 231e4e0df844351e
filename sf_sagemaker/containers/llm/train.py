"""Fine-tunes a language model on the shards of a dataset, under SageMaker's container contract.

Channels: `train`, `validation`, `test` with the columns prompt and completion, and `manifest`. The
adapter and its card go to SM_MODEL_DIR. A channel `base_model` brings the base, where there is one. One
host trains, on all of its GPUs where it has some.
"""

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from sf_sagemaker.containers.environment import Environment, StopSignal
from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.llm.base_model import CHANNEL, BaseModel, find_base_model
from sf_sagemaker.containers.llm.checkpoints import CheckpointFolder
from sf_sagemaker.containers.llm.evaluation import (
    Scores,
    name_answers,
    score,
    unseen_completions,
)
from sf_sagemaker.containers.llm.examples import Encoded, Example, encode, read_examples
from sf_sagemaker.containers.llm.hyperparameters import Hyperparameters, parse_hyperparameters
from sf_sagemaker.containers.llm.model import (
    LanguageModel,
    golden_rows,
    load_base,
    pad_token,
    precision_of,
)
from sf_sagemaker.containers.llm.model_card import LEAST_ANSWER_TOKENS, ModelCard, Sample
from sf_sagemaker.containers.llm.processes import Group
from sf_sagemaker.containers.llm.tuning import Tuned, add_adapter, tune
from sf_sagemaker.containers.manifest import (
    SPLITS,
    DatasetDescription,
    IncompleteDataset,
    count_rows,
    read_dataset,
)
from sf_sagemaker.containers.reporter import Reporter, open_reporter

_HELD_OUT = ("validation", "test")
_GOLDEN_ROWS = 8
_SAMPLES = 10
_ALONE = Group()
_LIBRARIES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "numpy", "pyarrow")

Examples = Mapping[str, list[Example]]


class OneHostOnly(ContainerError):
    """A fine-tuning that was given several hosts."""


class ConstantCompletion(ContainerError):
    """Training rows that all have the same completion."""


class OutOfGpuMemory(ContainerError):
    """A training that needs more memory than a GPU has."""


def train(environment: Environment, stop: StopSignal, group: Group = _ALONE) -> None:
    """The whole training, or one process's part in it. Raises ContainerError."""
    hyperparameters = parse_hyperparameters(environment.hyperparameters)
    if len(environment.hosts) > 1:
        raise OneHostOnly(
            f"a language model is fine-tuned on one host, not {len(environment.hosts)}: set "
            "instance_count to 1"
        )
    dataset = read_dataset(environment.channel("manifest"))
    examples = {
        split: read_examples(environment.channel(split), split, stop.check) for split in SPLITS
    }
    _check(dataset, examples)
    with open_reporter(leads=group.leads) as reporter:
        try:
            _train(environment, hyperparameters, dataset, examples, reporter, stop, group)
        except torch.OutOfMemoryError as error:
            raise OutOfGpuMemory(
                f"{str(error).splitlines()[0]} Set hyperparameters.micro_batch_size to fewer rows, "
                "hyperparameters.gradient_checkpointing to true, or compute.instance_type to one "
                "whose GPUs have more memory"
            ) from error


def _train(
    environment: Environment,
    hyperparameters: Hyperparameters,
    dataset: DatasetDescription,
    examples: Examples,
    reporter: Reporter,
    stop: StopSignal,
    group: Group,
) -> None:
    torch.set_num_threads(max(1, environment.num_cpus // group.size))
    reporter.info(f"base model {hyperparameters.base_model}")
    base = find_base_model(hyperparameters.base_model, channel=environment.channels.get(CHANNEL))
    stop.check()
    untuned, tokenizer = load_base(base, hyperparameters.precision)
    precision, device = precision_of(untuned), untuned.device
    reporter.info(f"training on {group.size} x {device.type} in {precision}")
    encoded = {
        split: encode(rows, tokenizer, hyperparameters.max_tokens)
        for split, rows in examples.items()
    }
    _announce(reporter, examples, encoded)
    started = time.monotonic()
    tuned = tune(
        add_adapter(untuned, hyperparameters),
        encoded["train"],
        encoded["validation"],
        hyperparameters,
        pad=pad_token(tokenizer),
        checkpoints=CheckpointFolder(
            environment.checkpoint_dir, _identity(environment, dataset, base)
        ),
        reporter=reporter,
        stop=stop,
        group=group,
    )
    group.leave()
    if not group.leads:
        return
    reporter.info(f"trained {tuned.steps} steps in {time.monotonic() - started:.0f} s")
    card = _card(environment, hyperparameters, dataset, base, examples, encoded, tuned)
    model = LanguageModel(tuned.model, tokenizer, card)
    card = _evaluated(model, examples, encoded, stop)
    LanguageModel(tuned.model, tokenizer, card).save(environment.model_dir)
    for name, figures in {"": card.metrics, "prompted_base:": card.prompted_base}.items():
        for split, metrics in figures.items():
            reporter.metrics(**{f"{name}{split}:{key}": value for key, value in metrics.items()})


def _check(dataset: DatasetDescription, examples: Examples) -> None:
    found = {split: len(rows) for split, rows in examples.items()}
    if found != dict(dataset.rows):
        raise IncompleteDataset(
            f"the channels hold {count_rows(found)} rows, and the manifest counts "
            f"{count_rows(dataset.rows)}: all files of the dataset must be there"
        )
    if not found["train"]:
        raise IncompleteDataset(
            "the dataset has no training rows: widen its window or its fraction"
        )
    completions = {example.completion for example in examples["train"]}
    if len(completions) == 1:
        raise ConstantCompletion(
            f"the completion is {completions.pop()!r} in every training row: expected at least "
            "two different ones"
        )


def _announce(
    reporter: Reporter, examples: Examples, encoded: Mapping[str, Sequence[Encoded]]
) -> None:
    rows = count_rows({split: len(part) for split, part in examples.items()})
    tokens = sum(map(len, encoded["train"])) / len(encoded["train"])
    reporter.info(f"rows: {rows}; tokens by training row: {tokens:.0f} on average")
    for split, part in encoded.items():
        cut = sum(example.cut for example in part)
        if cut:
            reporter.info(f"{cut} prompts of {split} are longer than max_tokens and were cut")
        for completion, count in unseen_completions(examples[split], examples["train"]).items():
            reporter.info(
                f"{count} rows of {split} have the completion {completion!r}, which no training "
                "row has: the model can't be expected to give it"
            )


def _identity(
    environment: Environment, dataset: DatasetDescription, base: BaseModel
) -> dict[str, object]:
    """What a checkpoint must share with a training that resumes from it."""
    return {
        "model": dataset.model,
        "partition": dataset.partition,
        "fingerprint": dataset.card["fingerprint"],
        "hyperparameters": dict(environment.hyperparameters),
        "base_model": base.digest,
        "torch": torch.__version__,
    }


def _card(
    environment: Environment,
    hyperparameters: Hyperparameters,
    dataset: DatasetDescription,
    base: BaseModel,
    examples: Examples,
    encoded: Mapping[str, Sequence[Encoded]],
    tuned: Tuned,
) -> ModelCard:
    """The card, but for what the model has to be asked for."""
    completions = sorted({example.completion for example in examples["train"]})
    answers = tuple(completions) if len(completions) <= hyperparameters.answers else ()
    versions = {library: importlib.metadata.version(library) for library in _LIBRARIES}
    return ModelCard(
        model=dataset.model,
        partition=dataset.partition,
        dataset=dataset.card,
        base_model={"name": base.name, "digest": base.digest},
        task="completion",
        hyperparameters=dict(sorted(environment.hyperparameters.items())),
        answers=answers,
        instruction=hyperparameters.instruction or name_answers(answers),
        max_tokens=hyperparameters.max_tokens,
        steps=tuned.steps,
        trainable_parameters=sum(p.numel() for p in tuned.model.parameters() if p.requires_grad),
        metrics={},
        prompted_base={},
        confusion={},
        unseen_completions={
            split: unseen_completions(examples[split], examples["train"]) for split in _HELD_OUT
        },
        cut_prompts={split: sum(e.cut for e in part) for split, part in encoded.items()},
        samples=(),
        learning_curve=tuned.history,
        library_versions={"python": platform.python_version(), **versions},
        golden_rows=(),
        seed=hyperparameters.seed,
        instance_count=1,
        precision=precision_of(tuned.model),
        answer_tokens=max(
            LEAST_ANSWER_TOKENS, *(len(example.completion) for example in encoded["train"])
        ),
    )


def _evaluated(
    model: LanguageModel,
    examples: Examples,
    encoded: Mapping[str, Sequence[Encoded]],
    stop: StopSignal,
) -> ModelCard:
    """The model's card with what the model and its base make of the held-out splits."""
    scores, base_scores = {}, {}
    splits = [split for split in _HELD_OUT if examples[split]]
    for split in splits:
        stop.check()
        scores[split] = _score(model, examples[split])
        stop.check()
        with model.untuned():
            base_scores[split] = _score(model, examples[split], model.card.instruction)
    source = next((split for split in ("test", "validation") if examples[split]), "train")
    return replace(
        model.card,
        metrics={split: scores[split].metrics for split in splits},
        prompted_base={split: base_scores[split].metrics for split in splits},
        confusion={split: scores[split].confusion for split in splits},
        samples=_samples(model, examples[source][:_SAMPLES]),
        golden_rows=golden_rows(model, examples[source][:_GOLDEN_ROWS]),
    )


def _score(model: LanguageModel, examples: Sequence[Example], instruction: str = "") -> Scores:
    return score(
        model.model,
        model.tokenizer,
        examples,
        model.card.answers,
        pad=model.pad,
        max_tokens=model.card.max_tokens,
        answer_tokens=model.card.answer_tokens,
        instruction=instruction,
    )


def _samples(model: LanguageModel, examples: Sequence[Example]) -> tuple[Sample, ...]:
    prompts = [example.prompt for example in examples]
    after = model.generate(prompts)
    with model.untuned():
        before = model.generate(prompts, instruction=model.card.instruction)
    return tuple(
        Sample(example.prompt, example.completion, *texts)
        for example, *texts in zip(examples, before, after, strict=True)
    )
