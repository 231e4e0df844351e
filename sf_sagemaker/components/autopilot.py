"""Language models that SageMaker Autopilot fine-tunes: how they are trained, and what they are worth.

Autopilot trains by containers of its own and reports a few metrics. What the model is worth beside
its baselines is measured by asking it for its answers.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import dagster as dg

from sf_sagemaker.components.attributes import Compute
from sf_sagemaker.components.autopilot_attributes import Autopilot
from sf_sagemaker.components.autopilot_report import autopilot_report
from sf_sagemaker.components.trained_model import (
    ModelKind,
    PartitionDataset,
    Report,
    Trainer,
    check_test_rows,
)
from sf_sagemaker.lifecycle.answers import AnswerScorer
from sf_sagemaker.periods import parse_duration
from sf_sagemaker.training.autopilot_data import ChannelName, Rows, prepare_data
from sf_sagemaker.training.autopilot_errors import AUTOML
from sf_sagemaker.training.autopilot_job import AutopilotJob
from sf_sagemaker.training.cost import actual_cost
from sf_sagemaker.training.holding import RunHold
from sf_sagemaker.training.job import RUN_TAG, Limits
from sf_sagemaker.training.platform import LogLine
from sf_sagemaker.training.run import JobResult, run_job
from sf_sagemaker.warehouse.dataset import DatasetSpec, Split
from sf_sagemaker.warehouse.manifests import split_batches

if TYPE_CHECKING:
    from sf_sagemaker.serving.autopilot_answers import AskedByTransform, AutopilotAnswers
    from sf_sagemaker.training.autopilot import AutopilotPlatform

PLATFORM = "autopilot_platform"
ANSWERS = "autopilot_answers"

_COLUMNS = ("prompt", "completion")
_SPLITS: dict[ChannelName, Split] = {"training": "train", "validation": "validation"}


def autopilot_kind(spec: DatasetSpec, autopilot: Autopilot, compute: Compute) -> ModelKind:
    """A model fine-tuned by Autopilot as a kind of model, for datasets of that specification."""
    scorer = AnswerScorer(spec)
    kind = ModelKind(
        asset_name="fine_tuned_llm",
        program="llm",
        kinds=frozenset({"sagemaker"}),
        check_description="On the test split, the model gives the right answer more often than the "
        "commonest answer is right.",
        check_dataset=check_test_rows,
        report=partial(autopilot_report, scorer),
        scorer=scorer,
        platform=PLATFORM,
        service=AutopilotTraining(spec, autopilot, compute),
        means=frozenset({ANSWERS}),
    )

    def bind(context: dg.AssetExecutionContext) -> ModelKind:
        """The kind whose models are asked on behalf of a run."""
        from sf_sagemaker.serving.autopilot_answers import AskingOptions

        asking: AutopilotAnswers = getattr(context.resources, ANSWERS)
        inference = autopilot.inference
        options = AskingOptions(
            model=spec.model,
            limits=replace(inference.limits(), kms_key=compute.kms_key),
            max_new_tokens=inference.max_new_tokens,
        )
        hold = RunHold(context, "transform job")
        asked = asking.on_behalf_of(hold, options)

        def report(artifact: Path, dataset: PartitionDataset) -> Report:
            # Of its own, for partitions may be reported on side by side.
            asked = asking.on_behalf_of(hold, options)
            said = autopilot_report(AnswerScorer(spec, asked), artifact, dataset)
            return replace(said, metadata={**said.metadata, **_answers_metadata(asked)})

        return replace(
            kind,
            scorer=AnswerScorer(spec, asked),
            report=report,
            scoring_metadata=lambda: _answers_metadata(asked),
        )

    return replace(kind, bind=bind)


def _answers_metadata(asked: "AskedByTransform") -> dict[str, Any]:
    """The transform jobs that gave answers since this was last asked for, and what they cost.

    As for training jobs, those that were adopted are among them.
    """
    jobs = list(asked.jobs.values())
    asked.jobs.clear()
    if not jobs:
        return {}
    metadata: dict[str, Any] = {"answers_transform_jobs": ", ".join(job.name for job in jobs)}
    costs = [actual_cost(job.description, asked.options.limits) for job in jobs]
    known = [cost for cost in costs if cost is not None]
    return {**metadata, "answers_cost": sum(known)} if known else metadata


@dataclass(frozen=True)
class AutopilotTraining:
    """Training by AutoML jobs."""

    spec: DatasetSpec
    autopilot: Autopilot
    compute: Compute

    @property
    def deciding(self) -> Sequence[object]:
        return [
            "autopilot",
            self.spec.digest,
            self.autopilot.base_model,
            self.autopilot.hyperparameters(),
        ]

    @property
    def resource_keys(self) -> set[str]:
        return {PLATFORM}

    def limits(self) -> Limits:
        from sf_sagemaker.training.autopilot import INSTANCES

        return replace(self.compute.limits(), instance_type=INSTANCES)

    def trainer(self, context: dg.AssetExecutionContext) -> Trainer:
        platform: AutopilotPlatform = getattr(context.resources, PLATFORM)
        return _Trainer(self, context, platform, Lock())


@dataclass(frozen=True)
class _Trainer:
    method: AutopilotTraining
    context: dg.AssetExecutionContext
    platform: "AutopilotPlatform"
    tagging: Any  # a lock: the threads of a step tag one run

    def train(
        self, dataset: PartitionDataset, limits: Limits, *, force: bool, interrupted: Event | None
    ) -> JobResult:
        autopilot, manifest = self.method.autopilot, dataset.manifest
        # To whoever looks for a run's jobs, it is a training job as any other.
        hold = RunHold(self.context, "training job", interrupted, self.tagging)
        hold.check()
        data = prepare_data(
            dataset.storage,
            f"autopilot-data/{manifest.model}/{manifest.partition}/"
            f"{manifest.spec_digest}-{manifest.fingerprint.value}",
            {channel: _rows(dataset, split) for channel, split in _SPLITS.items()},
            base_model=autopilot.base_model,
        )
        for notice in data.notices:
            self.context.log.warning(f"{manifest.partition}: {notice}")
        longest = autopilot.max_runtime_per_candidate
        job = AutopilotJob(
            model=manifest.model,
            partition=manifest.partition,
            dataset_fingerprint=manifest.fingerprint.value,
            training=data.training,
            validation=data.validation,
            base_model=autopilot.base_model,
            accept_eula=bool(autopilot.accept_eula),
            hyperparameters=autopilot.hyperparameters(),
            limits=limits,
            max_candidate_runtime=parse_duration(longest) if longest else None,
            tags={**self.method.compute.tags, RUN_TAG: self.context.run_id},
        )

        def print_line(line: LogLine) -> None:
            partition = f"{manifest.partition}  " if interrupted is not None else ""
            sys.stdout.write(f"{partition}{line.text}\n")

        return run_job(
            job,
            self.platform,
            AUTOML,
            not_before=hold.asked_at() if force else None,
            on_log=print_line,
            on_attempt=hold.take,
            on_status=hold.report,
            should_stop=hold.nobody_wants,
            pause=hold.pause,
        )


def _rows(dataset: PartitionDataset, split: Split) -> Rows:
    return lambda: split_batches(dataset.storage, dataset.manifest, dataset.folder, split, _COLUMNS)
