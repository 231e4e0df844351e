"""Trains an XGBoost model from the shards of a dataset, under SageMaker's container contract.

Channels: `train` (this host's shards), `validation` and `test` (whole on every host), `manifest`.
The model and its card go to SM_MODEL_DIR of one host: the first that has training rows.
"""

import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import xgboost as xgb

from sf_sagemaker.containers.environment import Environment, StopSignal, failing_unless_finished
from sf_sagemaker.containers.manifest import SPLITS, IncompleteDataset, count_rows
from sf_sagemaker.containers.metrics import evaluate
from sf_sagemaker.containers.reporter import Reporter, open_reporter
from sf_sagemaker.containers.xgboost.boosting import Boosted, boost, check_labels
from sf_sagemaker.containers.xgboost.checkpoints import CheckpointFolder
from sf_sagemaker.containers.xgboost.group import Group, PeerFailed
from sf_sagemaker.containers.xgboost.hyperparameters import Hyperparameters, parse_hyperparameters
from sf_sagemaker.containers.xgboost.manifest import Dataset, read_manifest
from sf_sagemaker.containers.xgboost.matrices import MatrixMaker
from sf_sagemaker.containers.xgboost.model import XGBoostModel, golden_rows
from sf_sagemaker.containers.xgboost.model_card import ModelCard
from sf_sagemaker.containers.xgboost.rows import Rows, read_head, read_rows

_GOLDEN_ROWS = 8


def main(environment: Environment, stop: StopSignal) -> None:
    """The training of one host. Raises ContainerError."""
    if len(environment.hosts) == 1:
        _train(environment, stop)
        return
    reason = (
        f"{environment.current_host} ended without a word: another host failed, or this one was "
        "killed. See the logs of all hosts"
    )
    # XGBoost ends the process on the spot when another host reports an error.
    with failing_unless_finished(environment, reason):
        try:
            _train(environment, stop)
        except xgb.core.XGBoostError as error:
            if "collective" not in str(error):
                raise
            raise PeerFailed(
                f"{environment.current_host} lost the connection to another host, which failed or "
                "took too long: see the logs of the others"
            ) from error


def _train(environment: Environment, stop: StopSignal) -> None:
    hyperparameters = parse_hyperparameters(environment.hyperparameters)
    dataset = read_manifest(environment.channel("manifest"), hyperparameters)
    if hyperparameters.early_stopping_rounds and not dataset.rows["validation"]:
        raise IncompleteDataset(
            "early_stopping_rounds needs a validation split, and the dataset's has no rows: widen "
            "its window or its fraction, or train without early_stopping_rounds"
        )
    with Group(environment) as group, _scratch(environment) as scratch:
        rows = {
            split: read_rows(
                environment.channel(split), dataset.features, dataset.target, scratch, stop.check
            )
            for split in SPLITS
        }
        members = _hosts_with_rows(rows, dataset, hyperparameters, group)
        if not group.narrow(members):
            Reporter().info(f"{environment.current_host} has no training rows: the others train")
            return
        with open_reporter(leads=group.leads) as reporter:
            reporter.info(
                f"rows: {count_rows(dataset.rows)}; features: {len(dataset.features)}; hosts: "
                f"{len(members)}"
            )
            identity = _identity(environment, dataset)
            boosted = boost(
                rows["train"],
                rows["validation"],
                dataset.target,
                hyperparameters,
                matrices=MatrixMaker(
                    rows=dataset.rows["train"],
                    max_bin=hyperparameters.booster.get("max_bin", 256),
                    scratch=scratch,
                    check=stop.check,
                ),
                threads=environment.num_cpus,
                group=group,
                checkpoints=CheckpointFolder(environment.checkpoint_dir, identity),
                reporter=reporter,
                stop=stop,
            )
            if group.leads:
                model = _model(environment, dataset, hyperparameters, rows, boosted)
                model.save(environment.model_dir)
                _report(reporter, model)


@contextmanager
def _scratch(environment: Environment) -> Iterator[Path]:
    """A folder on the job's own disk (/tmp may be memory), which goes with the job if need be."""
    home = environment.model_dir.parent
    with tempfile.TemporaryDirectory(
        prefix="scratch-", dir=home, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _hosts_with_rows(
    rows: Mapping[str, Rows], dataset: Dataset, hyperparameters: Hyperparameters, group: Group
) -> tuple[str, ...]:
    """The hosts that have training rows, after a look at what all of them have read."""
    target = rows["train"].target
    extent = (target.min(), target.max()) if len(target) else (0.0, 0.0)
    table = group.gather(np.array([len(target), *extent]))
    found = {"train": int(table[:, 0].sum())}
    found |= {split: len(rows[split]) for split in ("validation", "test")}
    if found != dict(dataset.rows):
        raise IncompleteDataset(
            f"the channels hold {count_rows(found)} rows, and the manifest counts "
            f"{count_rows(dataset.rows)}: the channel `train` must be sharded over the hosts and "
            "the others replicated, and all files of the dataset must be there"
        )
    filled = table[:, 0] > 0
    if not filled.any():
        raise IncompleteDataset(
            "the dataset has no training rows: widen its window or its fraction"
        )
    check_labels(
        float(table[filled, 1].min()),
        float(table[filled, 2].max()),
        dataset.target,
        hyperparameters,
    )
    return tuple(host for host, has_rows in zip(group.hosts, filled, strict=True) if has_rows)


def _identity(environment: Environment, dataset: Dataset) -> dict[str, object]:
    """What a checkpoint must share with a training that resumes from it."""
    return {
        "model": dataset.model,
        "partition": dataset.partition,
        "fingerprint": dataset.description["fingerprint"],
        "hyperparameters": dict(environment.hyperparameters),
        "hosts": len(environment.hosts),
        "xgboost": xgb.__version__,
    }


def _model(
    environment: Environment,
    dataset: Dataset,
    hyperparameters: Hyperparameters,
    rows: Mapping[str, Rows],
    boosted: Boosted,
) -> XGBoostModel:
    """The model with its complete card."""
    card = ModelCard(
        model=dataset.model,
        partition=dataset.partition,
        dataset=dataset.description,
        features=dataset.features,
        target=dataset.target,
        task=hyperparameters.task,
        hyperparameters=dict(sorted(environment.hyperparameters.items())),
        rounds={"trained": boosted.trained, "best": boosted.best},
        metrics={},
        learning_curve=boosted.history,
        feature_importance=_importance(boosted.booster, dataset),
        library_versions={
            "python": platform.python_version(),
            "xgboost": xgb.__version__,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        golden_rows=(),
        seed=hyperparameters.seed,
        instance_count=len(environment.hosts),
    )
    model = XGBoostModel(boosted.booster, card)
    sources = [split for split in ("test", "validation", "train") if len(rows[split])]
    head = read_head(
        environment.channel(sources[0]),
        [feature.name for feature in dataset.features],
        _GOLDEN_ROWS,
    )
    card = replace(
        card,
        metrics={
            split: _score(model, rows[split])
            for split in ("validation", "test")
            if len(rows[split])
        },
        golden_rows=golden_rows(model, head),
    )
    return XGBoostModel(boosted.booster, card)


def _score(model: XGBoostModel, rows: Rows) -> dict[str, float]:
    predicted = np.concatenate([model.predict_encoded(block) for block, _ in rows.blocks()])
    target = model.card.target
    return evaluate(model.task, rows.target, predicted, positive=target.positive)


def _importance(booster: xgb.Booster, dataset: Dataset) -> dict[str, float]:
    """Each feature's share of the gain of all splits: they add up to 1, or are all 0."""
    gains = booster.get_score(importance_type="total_gain")
    scores = {f.name: float(np.sum(gains.get(f.name, 0.0))) for f in dataset.features}
    total = sum(scores.values()) or 1.0
    return {name: score / total for name, score in scores.items()}


def _report(reporter: Reporter, model: XGBoostModel) -> None:
    reporter.metrics(
        **{
            f"{split}:{name}": value
            for split, figures in model.card.metrics.items()
            for name, value in figures.items()
        }
    )
    rounds = model.card.rounds
    reporter.info(f"trained {rounds['trained']} rounds; the model ends with round {rounds['best']}")
