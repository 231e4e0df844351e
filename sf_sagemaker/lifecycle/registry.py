"""Which trained models there are: one log of models for each partition, written when one is trained."""

import hashlib
import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from sf_sagemaker.lifecycle.log import CorruptEntry, EntryTaken, append, read
from sf_sagemaker.storage import Storage
from sf_sagemaker.warehouse.dataset import DatasetSpec, Manifest


class RegisteredModel(BaseModel):
    """A trained model, and what it was trained on.

    `trained_at` is ISO 8601 in UTC, `dataset` the storage key of the dataset's folder, `features` are
    names with their kinds, `classes` the sorted labels of a target of classes. Models of equal `split`
    have a test split in common. `warm_up` says that the window was not full.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    partition: str
    training_job: str
    artifact_uri: str
    trained_at: str
    dataset: str
    dataset_fingerprint: str
    spec_digest: str
    target: str
    target_kind: str
    split: str
    features: tuple[tuple[str, str], ...]
    warm_up: bool
    classes: tuple[str, ...] | None = None


def describe_model(
    manifest: Manifest, dataset: str, *, training_job: str, artifact_uri: str, trained_at: str
) -> RegisteredModel:
    """The entry of a model that a job trained on the dataset of that manifest and folder."""
    return RegisteredModel(
        model=manifest.model,
        partition=manifest.partition,
        training_job=training_job,
        artifact_uri=artifact_uri,
        trained_at=trained_at,
        dataset=dataset,
        dataset_fingerprint=manifest.fingerprint.value,
        spec_digest=manifest.spec_digest,
        target=manifest.target.name,
        target_kind=manifest.target.kind,
        split=split_digest(manifest.spec),
        features=tuple((column.name, column.kind) for column in manifest.features),
        warm_up=not manifest.window.full,
        classes=manifest.target.classes,
    )


def split_digest(spec: DatasetSpec) -> str:
    """Twelve hex digits over what decides which split a row falls into."""
    deciding = {
        "split_key": [name.lower() for name in spec.split_key],
        "salt": spec.salt,
        "splits": spec.splits.model_dump(),
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]


def register_model(storage: Storage, entry: RegisteredModel) -> RegisteredModel:
    """Adds a model to the log of its partition, unless its training job is there: then that entry.

    Raises CorruptEntry.
    """
    prefix = _prefix(entry.model, entry.partition)
    while True:
        there = models_of(storage, entry.model, entry.partition)
        for known in there:
            if known.training_job == entry.training_job:
                return known
        try:
            append(storage, prefix, len(there) + 1, entry.model_dump(mode="json"))
        except EntryTaken:
            continue  # another run registered a model meanwhile, perhaps this one
        return entry


def models_of(storage: Storage, model: str, partition: str) -> list[RegisteredModel]:
    """The models of one partition, oldest first. Raises CorruptEntry."""
    return _models(storage, model, partition, None)


def registered_models(storage: Storage, model: str) -> list[RegisteredModel]:
    """All models, by partition, and within one oldest first: one listing, and a file for each.

    Raises CorruptEntry.
    """
    prefix = f"models/{model}"
    keys: dict[str, list[str]] = {}
    for key in storage.list(prefix):
        keys.setdefault(key.removeprefix(f"{prefix}/").split("/")[0], []).append(key)
    return [
        registered
        for partition in sorted(keys)
        for registered in _models(storage, model, partition, keys[partition])
    ]


def newest_models(storage: Storage, model: str) -> dict[str, RegisteredModel]:
    """The newest model of each partition that has one, by partition. Raises CorruptEntry."""
    return {registered.partition: registered for registered in registered_models(storage, model)}


def _prefix(model: str, partition: str) -> str:
    return f"models/{model}/{partition}"


def _models(
    storage: Storage, model: str, partition: str, keys: Sequence[str] | None
) -> list[RegisteredModel]:
    models = []
    for entry in read(storage, _prefix(model, partition), keys):
        try:
            registered = RegisteredModel.model_validate(entry.content)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()
            )
            raise CorruptEntry(
                f"{storage.uri(entry.key)} does not describe a trained model ({problems}): restore it"
            ) from error
        if (registered.model, registered.partition) != (model, partition):
            raise CorruptEntry(
                f"{storage.uri(entry.key)} describes {registered.model} of {registered.partition}: "
                f"expected {model} of {partition}. Move it to where it belongs"
            )
        models.append(registered)
    return models
