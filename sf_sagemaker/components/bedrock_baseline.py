"""The asset `<model>/bedrock_baseline`: Claude on the held-out rows of a fine-tuned language model."""

import hashlib
import json
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import dagster as dg

from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.bedrock_attributes import ClaudeBaseline
from sf_sagemaker.components.bedrock_report import Comparison, Told, report
from sf_sagemaker.components.partitioned import Materialized, materialize_each
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.champions import ModelMissing
from sf_sagemaker.lifecycle.outcomes import Scorer
from sf_sagemaker.lifecycle.registry import RegisteredModel, models_of
from sf_sagemaker.lifecycle.scorers import row_texts
from sf_sagemaker.lifecycle.text_baselines import fit_constant_answer, fit_word_model
from sf_sagemaker.serving import few_shot
from sf_sagemaker.serving.bedrock import Bedrock, Conversation
from sf_sagemaker.serving.bedrock_answers import Answers, answers_folder
from sf_sagemaker.serving.bedrock_questions import Ask, ask_all
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.cost import actual_cost
from sf_sagemaker.training.holding import RunHold, not_retried
from sf_sagemaker.training.job import Limits
from sf_sagemaker.training.platform import JobNotFound, PlatformUnavailable, TrainingPlatform
from sf_sagemaker.warehouse.dataset import DatasetSpec, Manifest
from sf_sagemaker.warehouse.lookup import look_up
from sf_sagemaker.warehouse.manifests import read_manifest, read_split
from sf_sagemaker.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

BASELINE_ASSET = "bedrock_baseline"
_MOST_TOKENS = 4096
_TEXTS = ("prompt", "completion")


class NothingToSend(SfSagemakerError):
    """Held-out rows none of which may be sent."""

    permanent = True


@dataclass(frozen=True)
class HeldOut:
    """The rows of a model's dataset: `test` those to be asked, with the same as a table of rows."""

    manifest: Manifest
    train: Sequence[few_shot.Row]
    test: Sequence[few_shot.Row]
    table: "pa.Table"


def bedrock_baseline(
    *,
    spec: DatasetSpec,
    scorer: Scorer,
    model_key: dg.AssetKey,
    dataset_key: dg.AssetKey,
    options: ClaudeBaseline,
    limits: Limits,
    most_answers: int,
    attributes: AssetAttributes,
) -> dg.AssetsDefinition:
    """The comparison, partitioned as the model is.

    Up to `most_answers` distinct completions are a list of answers, as in the model's own training.
    """
    same = dg.IdentityPartitionMapping()

    @dg.asset(
        key=[spec.model, BASELINE_ASSET],
        description=(
            f"Is the fine-tuned model worth it? `{options.model_id}` answers the held-out rows of its "
            "dataset, without and with examples, within a budget; what it answered is kept and never "
            "paid for twice. Built by hand only, since it costs money."
        ),
        deps=[
            dg.AssetDep(model_key, partition_mapping=same),
            dg.AssetDep(dataset_key, partition_mapping=same),
        ],
        partitions_def=attributes.partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds={"bedrock", "anthropic"},
    )
    def bedrock_baseline(
        context: dg.AssetExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        storage: dg.ResourceParam[Storage],
        training_platform: dg.ResourceParam[TrainingPlatform],
        bedrock: dg.ResourceParam[Bedrock],
    ) -> dg.MaterializeResult:
        def compare(partition: str, interrupted: Event) -> Materialized:
            several = len(context.partition_keys) > 1
            hold = RunHold(context, "batch", interrupted if several else None)
            hold.check()
            model = _trained(storage, spec.model, partition)
            rows = _held_out(storage, model, options.max_rows)
            values = _listed_values(warehouse, rows, options.never_send, attributes)
            barred = few_shot.barred_prompts((*rows.train, *rows.test), values)
            told = _told(rows, values, barred, options, most_answers, spec.seed)
            sent = [row for row in rows.test if row.prompt not in barred]
            if not sent:
                raise NothingToSend(
                    f"none of the {len(rows.test)} held-out rows of {spec.model} of {partition} may be "
                    "sent: each contains a value of a column in bedrock.never_send, or isn't in the "
                    "source any more"
                )
            asks = [
                Ask(
                    Answers(storage, answers_folder(spec.model, partition, one), one),
                    [row.prompt for row in sent],
                )
                for one in _conversations(told, rows, options)
            ]
            context.log.info(
                f"{len(sent):,} of {len(rows.test):,} held-out rows may be sent; "
                f"{sum(len(t.examples) for t in told)} examples"
            )
            asked = ask_all(
                bedrock,
                asks,
                options.allowance(),
                parallel=options.parallel,
                batch_from=options.batch_from,
                interrupted=interrupted if several else None,
                on_batch=hold.take,
                should_stop=hold.nobody_wants,
                on_progress=context.log.info,
            )
            right, milliseconds = _fine_tuned(training_platform, scorer, model, rows.table)
            comparison = Comparison(
                rows=rows.test,
                sent=frozenset(row.key for row in sent),
                told=told,
                asked=asked,
                fine_tuned=right,
                fine_tuned_ms=milliseconds,
                baselines=_baselines(rows),
                training_cost=_training_cost(training_platform, model, limits),
            )
            digests = [model.training_job, *(ask.conversation.digest for ask in asks)]
            answered = [sorted(one.replies) for one in asked.asks]
            return Materialized(
                metadata={
                    **report(comparison, options, seed=spec.seed),
                    "training_job": model.training_job,
                    "answers_kept_in": dg.MetadataValue.json(
                        [storage.uri(ask.answers.folder) for ask in asks]
                    ),
                },
                data_version=_digest([digests, answered]),
            )

        with not_retried(context):
            return materialize_each(context, compare)

    return bedrock_baseline


def _trained(storage: Storage, model: str, partition: str) -> RegisteredModel:
    models = models_of(storage, model, partition)
    if not models:
        raise ModelMissing(
            f"there is no trained model of {model} for {partition} to compare with: materialize "
            f"{model}/fine_tuned_llm for it"
        )
    return models[-1]


def _held_out(storage: Storage, model: RegisteredModel, most: int) -> HeldOut:
    """The rows that the model was trained on, and the first ones of those that it wasn't."""
    manifest = read_manifest(storage, model.dataset)
    keys = [name.lower() for name in manifest.spec.row_key]
    columns = list(dict.fromkeys([*keys, *_TEXTS]))
    test = read_split(storage, manifest, model.dataset, "test", columns=columns, limit=most)
    train = read_split(storage, manifest, model.dataset, "train", columns=columns)
    return HeldOut(manifest, _rows(train, keys), _rows(test, keys), _with_split(test))


def _rows(table: "pa.Table", keys: Sequence[str]) -> list[few_shot.Row]:
    of_key = zip(*(table[name].to_pylist() for name in keys), strict=True)
    return [few_shot.Row(*row) for row in zip(of_key, *row_texts(table), strict=True)]


def _with_split(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa

    return table.append_column("split", pa.repeat("test", table.num_rows))


def _listed_values(
    warehouse: Warehouse,
    rows: HeldOut,
    columns: Sequence[str],
    attributes: AssetAttributes,
) -> few_shot.Values | None:
    """The values of the listed columns by row; None where no column is listed."""
    if not columns:
        return None
    window = rows.manifest.window
    return look_up(
        warehouse,
        rows.manifest.spec,
        columns,
        {row.key for row in (*rows.train, *rows.test)},
        datetime.fromisoformat(window.start),
        datetime.fromisoformat(window.end),
        timezone=attributes.cadence.timezone,
    )


def _told(
    rows: HeldOut,
    values: few_shot.Values | None,
    barred: Collection[str],
    options: ClaudeBaseline,
    most_answers: int,
    seed: int,
) -> tuple[Told, ...]:
    """What Claude is told without examples and, where there are any, with them."""
    answers = few_shot.allowed_answers(rows.train, values, most_answers)
    system = few_shot.system_prompt(options.instruction, answers)
    usable = [
        row
        for row in rows.train
        if row.prompt not in barred and few_shot.may_send(row, values, completion=True)
    ]
    examples = few_shot.choose_examples(usable, options.shots, seed)
    without = Told("Claude zero-shot", "zero_shot", system, (), answers)
    with_examples = Told("Claude few-shot", "few_shot", system, examples, answers)
    return (without, with_examples) if examples else (without,)


def _conversations(
    told: Sequence[Told], rows: HeldOut, options: ClaudeBaseline
) -> list[Conversation]:
    longest = max(len(row.completion.encode()) for row in (*rows.train, *rows.test))
    max_tokens = options.max_tokens or min(_MOST_TOKENS, 16 + longest)  # a token is a byte or more
    return [
        Conversation(options.model_id, one.system, one.examples, max_tokens, options.temperature)
        for one in told
    ]


def _fine_tuned(
    platform: TrainingPlatform, scorer: Scorer, model: RegisteredModel, rows: "pa.Table"
) -> tuple["Sequence[float]", float]:
    """Whether the fine-tuned model answers each row rightly, and its milliseconds for a row."""
    with tempfile.TemporaryDirectory() as scratch:
        predictor = scorer.load(platform.fetch_artifact(model.training_job, Path(scratch)))
        started = time.perf_counter()
        outcomes = predictor.outcomes(rows)
        seconds = time.perf_counter() - started
    return outcomes.predicted[:, 0].tolist(), 1000 * seconds / rows.num_rows


def _baselines(rows: HeldOut) -> Mapping[str, Sequence[float]]:
    """Whether simpler models that cost nothing are right on each row."""
    prompts, completions = (
        [row.prompt for row in rows.train],
        [row.completion for row in rows.train],
    )
    asked = [row.prompt for row in rows.test]
    actual = [row.completion for row in rows.test]
    models = {"commonest answer": fit_constant_answer(completions)}
    if len(set(completions)) > 1:
        models = {"word model": fit_word_model(prompts, completions), **models}
    return {
        name: [float(given == right) for given, right in zip(m.predict(asked), actual, strict=True)]
        for name, m in models.items()
    }


def _training_cost(
    platform: TrainingPlatform, model: RegisteredModel, limits: Limits
) -> float | None:
    try:
        return actual_cost(platform.describe(model.training_job), limits)
    except (JobNotFound, PlatformUnavailable):
        return None


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
