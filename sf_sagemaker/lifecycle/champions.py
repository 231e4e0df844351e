"""The promotion log: which trained model is the champion, since which period, and why.

Entries are `champions/<model>/NNNNNN.json`, created once; the highest number is the champion. Versions
order the log, whatever the clocks of the machines say; `in_force_from` says, in data time, which periods
a champion answers for.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.lifecycle.log import CorruptEntry, EntryTaken, append, read
from sf_sagemaker.lifecycle.registry import RegisteredModel, registered_models
from sf_sagemaker.storage import Storage

Figure = float | int | str | bool | None


class ModelMissing(SfSagemakerError):
    """A champion, or one to be, that no registered model answers to."""


class OlderChallenger(SfSagemakerError):
    """A challenger that is not newer than the champion."""


class IncompatibleChallenger(SfSagemakerError):
    """A challenger that predicts something else than the champion does."""


class UnknownVersion(SfSagemakerError):
    """A version that the promotion log doesn't have, or that is in place already."""


class Champion(BaseModel):
    """An entry of the promotion log.

    `version` counts from 1. `partition` is what the model was trained for, `in_force_from` the first
    period that it answers for; both are partition keys. `figures` are those that decided; a number that
    is not finite is kept as None, since JSON has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    model: str
    partition: str
    training_job: str
    in_force_from: str
    promoted_at: str
    kind: Literal["first", "promotion", "rollback"]
    reason: str
    figures: Mapping[str, Figure]
    run_id: str | None = None

    @field_validator("figures")
    @classmethod
    def _finite(cls, figures: Mapping[str, Figure]) -> Mapping[str, Figure]:
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }

    @model_validator(mode="after")
    def _out_of_time(self) -> "Champion":
        if self.in_force_from <= self.partition:
            raise ValueError(
                f"in_force_from {self.in_force_from} must be later than the partition "
                f"{self.partition}, whose rows the model was trained on"
            )
        return self


def read_champions(storage: Storage, model: str) -> list[Champion]:
    """The whole log of a model, by version. Raises CorruptEntry naming the file."""
    champions = []
    for entry in read(storage, _prefix(model)):
        try:
            champion = Champion.model_validate(entry.content)
        except ValidationError as error:
            raise CorruptEntry(
                f"{storage.uri(entry.key)} is not a promotion: {error}. Restore it"
            ) from error
        if (champion.version, champion.model) != (entry.number, model):
            raise CorruptEntry(
                f"{storage.uri(entry.key)} holds version {champion.version} of {champion.model}: "
                f"expected version {entry.number} of {model}. Restore it"
            )
        champions.append(champion)
    return champions


def champion_of(log: Sequence[Champion], partition: str) -> Champion | None:
    """The champion that was in force when a period began: the highest version that had started."""
    started = [champion for champion in log if champion.in_force_from <= partition]
    return max(started, key=lambda champion: champion.version, default=None)


def champion_of_version(log: Sequence[Champion], model: str, version: int) -> Champion:
    """The entry of a version in the log of a model. Raises UnknownVersion."""
    if not 1 <= version <= len(log):
        raise UnknownVersion(
            f"{model} has no champion of version {version}: its log has {len(log)} of them"
        )
    return log[version - 1]


def champion_model(
    storage: Storage, champion: Champion, models: Collection[RegisteredModel] | None = None
) -> RegisteredModel:
    """The trained model that a champion is. Raises ModelMissing where it isn't registered.

    `models` are the registered ones, in their order; without them they are read.
    """
    if models is None:
        models = registered_models(storage, champion.model)
    return _registered(storage, models, champion)


def candidate(
    log: Sequence[Champion], models: Collection[RegisteredModel]
) -> RegisteredModel | None:
    """The model that may challenge the champion: the newest one whose window was full.

    `models` are the registered ones, in their order. It must be newer than every model that ever was
    champion, so that one which a rollback has deposed doesn't come back by itself.
    """
    order = _order(models)
    full = [model for model in models if not model.warm_up]
    newest = max(full, key=order, default=None)
    if newest is None or any(order(champion) >= order(newest) for champion in log):
        return None
    return newest


def promote(
    storage: Storage, champion: Champion, models: Collection[RegisteredModel] | None = None
) -> Champion:
    """Appends a champion to the log; its version is one more than the newest that the caller saw.

    `models` are the registered ones, in their order; without them they are read.

    Raises EntryTaken where another process has promoted meanwhile: read the log and decide again.
    Raises ModelMissing, OlderChallenger and IncompatibleChallenger where it mustn't take over.
    """
    log = read_champions(storage, champion.model)
    if champion.version != len(log) + 1:
        raise EntryTaken(
            f"version {champion.version} of the champions of {champion.model} can't be appended: "
            f"{storage.uri(_prefix(champion.model))} has {len(log)} entries now. Read the log again "
            "and decide again"
        )
    if models is None:
        models = registered_models(storage, champion.model)
    challenger = _registered(storage, models, champion)
    if log:
        current, order = log[-1], _order(models)
        if order(champion) <= order(current):
            raise OlderChallenger(
                f"training job {champion.training_job} of {champion.partition} is not newer than the "
                f"champion of {champion.model}, {current.training_job} of {current.partition} "
                f"(version {current.version}). To go back to a model that was champion, materialize "
                "the champion with its version"
            )
        check_target(challenger, _find(models, current))
    append(storage, _prefix(champion.model), champion.version, champion.model_dump(mode="json"))
    return champion


def roll_back(
    storage: Storage,
    model: str,
    version: int,
    *,
    in_force_from: str,
    promoted_at: str,
    reason: str,
    run_id: str | None = None,
) -> Champion:
    """Makes the model of an earlier version the champion again, as a new version.

    Where the newest entry is that rollback already, it is returned and nothing is appended: a run that
    failed after it can be repeated.

    Raises UnknownVersion, ModelMissing, and EntryTaken where another process has promoted meanwhile.
    """
    log = read_champions(storage, model)
    earlier = champion_of_version(log, model, version)
    newest = log[-1]
    if newest.kind == "rollback" and newest.figures.get("version") == version:
        return newest
    if earlier.training_job == newest.training_job:
        raise UnknownVersion(
            f"version {version} of {model} is training job {earlier.training_job}, which is the "
            "champion already: name the version of another model"
        )
    champion = Champion(
        version=len(log) + 1,
        model=model,
        partition=earlier.partition,
        training_job=earlier.training_job,
        in_force_from=in_force_from,
        promoted_at=promoted_at,
        kind="rollback",
        reason=reason,
        figures={"version": version},
        run_id=run_id,
    )
    champion_model(storage, champion)
    append(storage, _prefix(model), champion.version, champion.model_dump(mode="json"))
    return champion


def withdraw(
    storage: Storage,
    model: str,
    training_job: str,
    *,
    serving: str,
    promoted_at: str,
    reason: str,
    run_id: str | None = None,
) -> Champion | None:
    """Takes a promotion back whose model never came to answer: the training job `serving` is champion
    again, for all the periods that the other would have answered for.

    None where there is nothing to take back: another one has been promoted meanwhile, or what serves
    never was champion. Raises ModelMissing, and EntryTaken where another process promotes just now.
    """
    log = read_champions(storage, model)
    earlier = [champion for champion in log if champion.training_job == serving]
    if not earlier or log[-1].training_job != training_job or serving == training_job:
        return None
    version = earlier[-1].version
    return roll_back(
        storage,
        model,
        version,
        in_force_from=log[version].in_force_from,  # of the first one after it
        promoted_at=promoted_at,
        reason=reason,
        run_id=run_id,
    )


def _prefix(model: str) -> str:
    return f"champions/{model}"


def _find(models: Collection[RegisteredModel], champion: Champion) -> RegisteredModel | None:
    wanted = (champion.partition, champion.training_job)
    return next(
        (model for model in models if (model.partition, model.training_job) == wanted), None
    )


def _registered(
    storage: Storage, models: Collection[RegisteredModel], champion: Champion
) -> RegisteredModel:
    found = _find(models, champion)
    if found is None:
        raise ModelMissing(
            f"version {champion.version} of the champions of {champion.model} is training job "
            f"{champion.training_job} of {champion.partition}, which is not registered: expected it "
            f"under {storage.uri(f'models/{champion.model}/{champion.partition}')}. Restore that "
            "entry, or materialize the champion with the version of another model"
        )
    return found


def _order(
    models: Collection[RegisteredModel],
) -> Callable[[Champion | RegisteredModel], tuple[str, int]]:
    """What sorts models by age: the partition, then the order of registration.

    A champion that isn't registered counts as the oldest of its partition: a model trained again for
    that partition may follow it.
    """
    numbers = {(model.partition, model.training_job): number for number, model in enumerate(models)}
    return lambda one: (one.partition, numbers.get((one.partition, one.training_job), -1))


def check_target(challenger: RegisteredModel, champion: RegisteredModel | None) -> None:
    """Raises IncompatibleChallenger. A champion that is missing leaves nothing to compare with."""
    if champion is None:
        return
    ours = (challenger.target, challenger.target_kind)
    theirs = (champion.target, champion.target_kind)
    if ours != theirs:
        raise IncompatibleChallenger(
            f"training job {challenger.training_job} predicts {ours[0]} ({ours[1]}), and the champion "
            f"of {challenger.model}, {champion.training_job}, predicts {theirs[0]} ({theirs[1]}): "
            "give the new target a model of another name"
        )
