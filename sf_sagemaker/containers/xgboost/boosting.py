"""The boosting itself: rounds, early stopping, checkpoints, and resuming from them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb

from sf_sagemaker.containers.environment import Stopped, StopSignal
from sf_sagemaker.containers.errors import ContainerError
from sf_sagemaker.containers.reporter import Reporter
from sf_sagemaker.containers.xgboost.checkpoints import Checkpoint, CheckpointFolder, History
from sf_sagemaker.containers.xgboost.features import Target
from sf_sagemaker.containers.xgboost.group import Group
from sf_sagemaker.containers.xgboost.hyperparameters import (
    MAXIMIZED_METRICS,
    OBJECTIVES,
    Hyperparameters,
)
from sf_sagemaker.containers.xgboost.matrices import MatrixMaker
from sf_sagemaker.containers.xgboost.rows import Rows


class UnusableTarget(ContainerError):
    """A target that no model can be trained on: constant, or outside what the objective takes."""


class UndefinedEvaluation(ContainerError):
    """Early stopping by a metric that the validation split doesn't define."""


@dataclass(frozen=True)
class Boosted:
    """A trained booster, cut after its best round. `best` and `trained` count rounds from 1."""

    booster: xgb.Booster
    trained: int
    best: int
    history: History


def labels(target: np.ndarray, transform: str) -> np.ndarray:
    """What the objective sees of a target in its units: float32 of shape (rows,)."""
    return (np.log(target) if transform == "log" else target).astype(np.float32)


def check_labels(low: float, high: float, target: Target, hyperparameters: Hyperparameters) -> None:
    """Raises UnusableTarget for training rows whose target, in its units, spans [low, high]."""
    if low == high:
        shown = target.classes[int(low)] if target.classes else f"{low:g}"
        raise UnusableTarget(
            f"target {target.name!r} is {shown} in every training row: expected at least two values"
        )
    if target.transform == "log" and low <= 0:
        raise UnusableTarget(
            f"target {target.name!r} is {low:g} in a row: target_transform log needs values above 0"
        )
    objective = OBJECTIVES[hyperparameters.objective]
    if target.classes is None and not objective.allows(low, high):
        raise UnusableTarget(
            f"target {target.name!r} lies between {low:g} and {high:g}: "
            f"{hyperparameters.objective} needs values in {objective.label_range}"
        )


def boost(
    train: Rows,
    validation: Rows,
    target: Target,
    hyperparameters: Hyperparameters,
    *,
    matrices: MatrixMaker,
    threads: int,
    group: Group,
    checkpoints: CheckpointFolder,
    reporter: Reporter,
    stop: StopSignal,
) -> Boosted:
    """Trains from the newest checkpoint on, on all hosts of the group alike.

    An interrupted training that starts again makes the same model as one that wasn't interrupted.
    Raises Stopped after a SIGTERM on any host, UndefinedEvaluation, and XGBoostError.
    """
    matrix = matrices.train(train, labels(train.target, target.transform))
    evaluated = [(matrix, "train")]
    if len(validation):
        held_out = labels(validation.target, target.transform)
        evaluated.append((matrices.held_out(validation, held_out), "validation"))

    parameters = _parameters(hyperparameters, target, threads)
    resumed = _resume(checkpoints, group, reporter)
    history: History = resumed.history if resumed else {}
    rounds = resumed.rounds if resumed else 0
    booster = _booster(parameters, rounds, evaluated, resumed.model if resumed else None)
    while rounds < hyperparameters.num_round and not _exhausted(history, hyperparameters):
        booster.update(matrix, rounds)
        _record(history, booster.eval_set(evaluated, rounds))
        rounds += 1
        reporter.progress(rounds, hyperparameters.num_round, **_latest(history))
        stopping = group.any(stop.requested)
        due = rounds % hyperparameters.checkpoint_rounds == 0
        # Random numbers can be resumed only where they start anew: at a regular checkpoint.
        if due or (stopping and not hyperparameters.random):
            checkpoint = Checkpoint(rounds, history, bytes(booster.save_raw("ubj")))
            if group.leads:
                checkpoints.save(checkpoint)
            if hyperparameters.random:
                booster = _booster(parameters, rounds, evaluated, checkpoint.model)
        if stopping:
            raise Stopped(f"stopped by SIGTERM after round {rounds}: no model was written")

    best = _best(history, hyperparameters) if hyperparameters.early_stopping_rounds else rounds
    return Boosted(booster[:best], rounds, best, history)


def _parameters(hyperparameters: Hyperparameters, target: Target, threads: int) -> dict[str, Any]:
    parameters = {
        **hyperparameters.booster,
        "objective": hyperparameters.objective,
        "seed": hyperparameters.seed,
        "tree_method": "hist",
        "nthread": threads,
    }
    if hyperparameters.task == "multiclass" and target.classes is not None:
        parameters["num_class"] = len(target.classes)
    if hyperparameters.eval_metric is not None:
        parameters["eval_metric"] = hyperparameters.eval_metric
    return parameters


def _booster(
    parameters: dict[str, Any],
    rounds: int,
    evaluated: list[tuple[xgb.DMatrix, str]],
    model: bytes | None,
) -> xgb.Booster:
    """A booster that goes on after `rounds` rounds, with random numbers that depend on them."""
    return xgb.Booster(
        {**parameters, "seed": parameters["seed"] + rounds},
        [matrix for matrix, _ in evaluated],
        model_file=None if model is None else bytearray(model),
    )


def _resume(checkpoints: CheckpointFolder, group: Group, reporter: Reporter) -> Checkpoint | None:
    """The leading host's newest checkpoint, on all hosts."""
    found = checkpoints.latest() if group.leads else None
    for reason in checkpoints.rejected:
        reporter.info(f"passed over {reason}")
    content = group.broadcast(found.encode({}) if found else None)
    if not content:
        return None
    checkpoint = Checkpoint.decode(content, {})
    reporter.info(f"resuming after round {checkpoint.rounds}")
    return checkpoint


def _record(history: History, line: str) -> None:
    """Adds a round's evaluation, as eval_set writes it: `[9] train-mae:0.5 validation-mae:1`."""
    for part in line.split()[1:]:
        name, _, value = part.rpartition(":")
        split, _, metric = name.partition("-")
        history.setdefault(split, {}).setdefault(metric, []).append(float(value))


def _latest(history: History) -> dict[str, float]:
    return {
        f"{split}-{metric}": values[-1]
        for split, metrics in history.items()
        for metric, values in metrics.items()
    }


def _best(history: History, hyperparameters: Hyperparameters) -> int:
    """The round, counted from 1, with the best value of the metric that decides early stopping."""
    metrics = history["validation"]
    metric = list(metrics)[-1]
    sign = -1 if metric.split("@")[0] in MAXIMIZED_METRICS else 1
    losses = [math.inf if math.isnan(value) else sign * value for value in metrics[metric]]
    if math.isinf(min(losses)):
        raise UndefinedEvaluation(
            f"early stopping needs {metric} of the validation split, which is undefined there: "
            "give the split rows of every class, or train without early_stopping_rounds"
        )
    return losses.index(min(losses)) + 1


def _exhausted(history: History, hyperparameters: Hyperparameters) -> bool:
    """Whether the best round lies so far back that training ends."""
    if not history or hyperparameters.early_stopping_rounds is None:
        return False
    trained = len(next(iter(history["validation"].values())))
    return trained - _best(history, hyperparameters) >= hyperparameters.early_stopping_rounds
