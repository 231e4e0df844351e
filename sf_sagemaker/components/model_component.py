"""What models of every kind have in common: where their rows come from, and how they are sampled."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import dagster as dg
from pydantic import Field

from sf_sagemaker.components.attributes import (
    AssetAttributes,
    Compute,
    Freshness,
    Partitions,
    Retraining,
    Sample,
)
from sf_sagemaker.components.champion import ChampionRules, champion
from sf_sagemaker.components.component import (
    Attributes,
    Component,
    owners_validator,
    within,
)
from sf_sagemaker.components.dbt_models import find_model
from sf_sagemaker.components.decay_curve import decay_curve
from sf_sagemaker.components.endpoint import endpoint_definitions
from sf_sagemaker.components.endpoint_attributes import Endpoint, Predictions
from sf_sagemaker.components.errors import invalid_attribute, suggest
from sf_sagemaker.components.evaluation import evaluation
from sf_sagemaker.components.landed_table import LandedTable
from sf_sagemaker.components.lifecycle_attributes import (
    Decay,
    Evaluation,
    InputDrift,
    Promotion,
    Update,
)
from sf_sagemaker.components.model_state import RetrainedModel
from sf_sagemaker.components.observed_table import observed_table
from sf_sagemaker.components.predictions import predictions
from sf_sagemaker.components.replay import replay_sensor
from sf_sagemaker.components.retraining import retraining_definitions, retraining_policy
from sf_sagemaker.components.trained_model import ModelKind, trained_model
from sf_sagemaker.components.training_dataset import DATASET_ASSET, DBT_MODEL, training_dataset
from sf_sagemaker.components.update import update_definitions, update_job
from sf_sagemaker.errors import SfSagemakerError
from sf_sagemaker.periods import InvalidPeriod
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation, TargetKind


class Table(Attributes):
    """A table that something other than this project's dbt maintains."""

    table: str = Field(
        pattern=r"^([A-Za-z_][\w$]*\.){1,2}[A-Za-z_][\w$]*$",
        description="schema.table or database.schema.table.",
        examples=["analytics.churn_features"],
    )
    freshness: Freshness | None = Field(
        default=None, description="How long ago its newest change may be; no limit without it."
    )

    @property
    def relation(self) -> Relation:
        *database, schema, name = self.table.split(".")
        return Relation(database=database[0] if database else None, schema_name=schema, name=name)

    @property
    def asset_key(self) -> dg.AssetKey:
        """The key that a raw table landed here would have, too."""
        return dg.AssetKey([part.lower() for part in self.table.split(".")[-2:]])


class ModelComponent(Component):
    """A model trained by partition, on a sample of a dbt model's rows."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="Name of the model; the first part of its assets' keys.",
        examples=["house_prices"],
    )
    source: str | Table = Field(
        description="A dbt model of the project by name, or a table as {table: schema.table}.",
        examples=["house_price_features"],
    )
    row_key: list[str] = Field(
        min_length=1, description="Columns that identify a row: integers, strings or dates."
    )
    split_key: list[str] | str | None = Field(
        default=None,
        description="Columns whose values must not straddle the splits; the row key without them.",
        examples=["parcel_id"],
    )
    event_time: str = Field(description="Date or timestamp column that puts a row into a period.")
    label_delay: int = Field(
        default=0, description="Days after the event at which the target is known."
    )
    available_at: str | None = Field(
        default=None,
        description="Column that says when the target was known, instead of label_delay.",
    )
    partitions: Partitions = Field(description="Periods; the same as those of the source.")
    sample: Sample = Field(description="Window, fraction, seed and splits of the training dataset.")
    compute: Compute = Field(default=Compute(), description="What the training job runs on.")
    update: Update = Field(
        default=Update(), description="When a period that has ended is landed and evaluated."
    )
    evaluation: Evaluation = Field(
        default=Evaluation(), description="How the model is judged on later rows."
    )
    decay: Decay = Field(default=Decay(), description="When the champion counts as decayed.")
    input_drift: InputDrift = Field(
        default=InputDrift(), description="When its inputs count as drifted."
    )
    promotion: Promotion = Field(
        default=Promotion(), description="When a challenger takes over from the champion."
    )
    endpoint: Endpoint | None = Field(
        default=None, description="The champion behind an HTTP endpoint; none without it."
    )
    predictions: Predictions | None = Field(
        default=None, description="Scores each period by the champion in force; not without it."
    )
    freshness: Freshness | None = Field(
        default=None, description="How old dataset and model may grow; no limit without it."
    )
    retraining: Retraining = Field(
        default=Retraining(), description="What starts the training of a period."
    )
    description: str | None = Field(default=None, description="What the model is for, for the UI.")
    group: str | None = Field(
        default=None, description="Asset group; the model's name without one."
    )
    owners: list[str] = Field(
        default=[], description="E-mail addresses, or teams as team:name.", examples=[["team:data"]]
    )
    tags: dict[str, str] = Field(default={}, description="Asset tags.")

    _owners = owners_validator()
    _delay = within("label_delay", least=0)

    def columns_named(self) -> dict[str, list[str]]:
        """The columns that the attributes name, by (dotted) attribute."""
        return {
            "row_key": self.row_key,
            "split_key": self.split_columns(),
            "event_time": [self.event_time],
            "available_at": [self.available_at] if self.available_at else [],
            "input_drift.ignore": self.input_drift.ignore,
        }

    def split_columns(self) -> list[str]:
        """The columns of the split key."""
        if self.split_key is None:
            return self.row_key
        return [self.split_key] if isinstance(self.split_key, str) else self.split_key

    def dataset_spec(
        self,
        relation: Relation,
        *,
        target: str,
        target_kind: TargetKind,
        features: Sequence[str] | None,
        exclude: Sequence[str] = (),
        string_features: Literal["categorical", "text"] = "categorical",
    ) -> DatasetSpec:
        """The specification of the model's datasets: the kind of model says what is learned."""
        return DatasetSpec(
            model=self.name,
            source=relation,
            row_key=tuple(self.row_key),
            split_key=tuple(self.split_columns()),
            event_time=self.event_time,
            target=target,
            target_kind=target_kind,
            features=tuple(features) if features is not None else None,
            exclude=tuple(exclude),
            string_features=string_features,
            available_at=self.available_at,
            label_delay=self.label_delay,
            window=self.sample.window,
            fraction=self.sample.fraction,
            seed=self.sample.seed,
            splits=self.sample.splits.fractions(),
            shards=self.compute.instance_count,
        )

    def asset_attributes(self) -> AssetAttributes:
        """What the model's assets have in common."""
        return AssetAttributes(
            cadence=self.partitions.cadence(),
            partitions_def=self.partitions.definition(),
            freshness_policy=self.freshness.policy() if self.freshness else None,
            group=self.group or self.name,
            owners=self.owners,
            tags=self.tags,
        )

    def resolve_source(self, context: dg.ComponentLoadContext) -> tuple[Relation, dg.AssetKey]:
        """The source as the warehouse and as Dagster know it.

        Raises InvalidAttribute for a dbt model that isn't there or doesn't document a column, and for
        columns with roles that exclude each other.
        """
        self._check_roles(context)
        if isinstance(self.source, Table):
            return self.source.relation, self.source.asset_key
        node, key = find_model(context, "source", self.source)
        self._check_columns(context, list(node["columns"]))
        return Relation(schema_name=node["schema"], name=node["alias"]), key

    def definitions(
        self,
        context: dg.ComponentLoadContext,
        kind: ModelKind,
        spec: DatasetSpec,
        source_key: dg.AssetKey,
        hyperparameters: dict[str, str],
    ) -> dg.Definitions:
        """All of a model's assets with their checks, its jobs, and what starts those."""
        cadence = self.partitions.cadence()
        attributes = self.asset_attributes()
        dataset, window_unchanged = training_dataset(
            spec=spec,
            source_key=source_key,
            dbt_model=self.source if isinstance(self.source, str) else None,
            attributes=attributes,
        )
        model = trained_model(
            kind,
            spec=spec,
            dataset_key=dataset.key,
            hyperparameters=hyperparameters,
            compute=self.compute,
            description=self.description or f"A model of `{spec.target}` of `{spec.source}`.",
            attributes=attributes,
        )
        with _located(context, "evaluation.max_age"):
            max_age = self.evaluation.oldest(cadence)
        if self.evaluation.from_predictions:
            self._check_predictions(context, spec)
        with _located(context, "decay.rolling"):
            limits = self.decay.limits(cadence, text=spec.target_kind == "text")
        evaluated = evaluation(
            spec=spec,
            kind=kind,
            model_key=model.key,
            source_key=source_key,
            max_age=max_age,
            from_predictions=self.evaluation.from_predictions,
            attributes=attributes,
        )
        rules = ChampionRules(
            limits=limits,
            promotion=self.promotion.rules(
                spec.seed, self.freshness.window() if self.freshness else None
            ),
            max_effect=self.input_drift.max_effect,
            ignored=self.input_drift.ignore,
        )
        in_force = champion(
            spec=spec,
            kind=kind,
            model_key=model.key,
            evaluation_key=evaluated.key,
            rules=rules,
            max_age=max_age,
            attributes=attributes,
        )
        curve = decay_curve(
            spec=spec,
            scorer=kind.scorer,
            evaluation_key=evaluated.key,
            tolerance=self.decay.max_relative_excess_error,
            limits=limits,
            configured=self.freshness.window() if self.freshness else None,
            attributes=attributes,
        )
        scored = self._predictions(kind, spec, source_key, model.key, attributes)
        assets = RetrainedModel(self.name, source_key, dataset.key, model.key, in_force.key)
        with _located(context, "update.offset"):
            updates = update_definitions(
                assets,
                evaluated.key,
                partitions=self.partitions,
                update=self.update,
                predictions_key=scored.key if scored else None,
                tags=self.tags,
            )
        return dg.Definitions.merge(
            dg.Definitions(
                assets=[dataset, model, evaluated, in_force, curve, *([scored] if scored else [])],
                asset_checks=[window_unchanged],
            ),
            self._endpoint(kind, in_force.key, attributes),
            self._observed_source(context, source_key),
            self._training_job(assets),
            updates,
            dg.Definitions(
                sensors=[
                    replay_sensor(
                        assets,
                        job_name=update_job(self.name),
                        cadence=cadence,
                        policy=retraining_policy(
                            cadence, spec.window, self.freshness, self.retraining
                        )
                        if self.retraining.mode == "automatic"
                        else None,
                    )
                ]
            ),
            retraining_definitions(
                assets,
                cadence=cadence,
                window=spec.window,
                freshness=self.freshness,
                retraining=self.retraining,
                tags=self.tags,
            ),
        )

    def _endpoint(
        self, kind: ModelKind, champion_key: dg.AssetKey, attributes: AssetAttributes
    ) -> dg.Definitions:
        """The champion behind an endpoint, where that is asked for."""
        if self.endpoint is None or not self.endpoint.enabled:
            return dg.Definitions()
        return endpoint_definitions(
            model=self.name,
            program=kind.program,
            champion_key=champion_key,
            endpoint=self.endpoint,
            attributes=attributes,
        )

    def _check_predictions(self, context: dg.ComponentLoadContext, spec: DatasetSpec) -> None:
        """Raises InvalidAttribute where no evaluation can rest on stored predictions."""
        attribute = "evaluation.from_predictions"
        if self.predictions is None or not self.predictions.enabled:
            raise invalid_attribute(
                context, attribute, "it needs predictions: write `predictions: {}` beside it"
            )
        if spec.target_kind == "text":
            raise invalid_attribute(
                context,
                attribute,
                "answers that are stored don't tell their loss, by which language models are judged: "
                "leave it out",
            )

    def _predictions(
        self,
        kind: ModelKind,
        spec: DatasetSpec,
        source_key: dg.AssetKey,
        model_key: dg.AssetKey,
        attributes: AssetAttributes,
    ) -> dg.AssetsDefinition | None:
        """The scoring of each period, where that is asked for."""
        if self.predictions is None or not self.predictions.enabled:
            return None
        return predictions(
            spec=spec,
            program=kind.program,
            model_key=model_key,
            source_key=source_key,
            options=self.predictions,
            attributes=attributes,
        )

    def _observed_source(
        self, context: dg.ComponentLoadContext, source_key: dg.AssetKey
    ) -> dg.Definitions:
        """The asset of a table that is neither built nor landed here, and what watches it.

        The first of several models on one table brings it.
        """
        if not isinstance(self.source, Table):
            return dg.Definitions()
        tree = context.component_tree
        landed = [table.asset_key for table in tree.get_all_components(LandedTable)]
        sharing = [
            model.name
            for model in tree.get_all_components(ModelComponent)
            if isinstance(model.source, Table) and model.source.asset_key == source_key
        ]
        if source_key in landed or sharing[:1] != [self.name]:
            return dg.Definitions()
        return observed_table(
            source_key,
            self.source.relation,
            event_time=self.event_time,
            cadence=self.partitions.cadence(),
            partitions_def=self.partitions.definition(),
            freshness_policy=self.source.freshness.policy() if self.source.freshness else None,
            group=source_key.path[0],
        )

    def _training_job(self, assets: RetrainedModel) -> dg.Definitions:
        """The job with which a person trains a period."""
        job = dg.define_asset_job(
            f"{self.name}_training",
            selection=dg.AssetSelection.assets(*assets.built),
            description=f"Samples the training dataset of {self.name}, trains its model, and considers "
            "it as the champion.",
            tags=self.tags,
        )
        return dg.Definitions(jobs=[job])

    def _check_columns(self, context: dg.ComponentLoadContext, columns: list[str]) -> None:
        """Columns against the dbt model's documented ones, where it documents any.

        What dbt doesn't document is checked against the warehouse when a dataset is exported.
        """
        known = {column.lower() for column in columns}
        for attribute, names in self.columns_named().items():
            for name in names:
                if known and name.lower() not in known:
                    raise invalid_attribute(
                        context,
                        attribute,
                        f"the dbt model {self.source!r} documents no column {name!r}: correct the "
                        f"name, or describe the column in the dbt project. {suggest(name, columns)}",
                    )

    def _check_roles(self, context: dg.ComponentLoadContext) -> None:
        """What of the roles doesn't depend on which columns there are; an export checks the rest."""
        named = {
            attribute: {name.lower() for name in names}
            for attribute, names in self.columns_named().items()
        }
        target, features = (named.get(attribute, set()) for attribute in ("target", "features"))
        for attribute in ("row_key", "split_key", "event_time", "available_at", "features"):
            for name in sorted(target & named.get(attribute, set())):
                raise invalid_attribute(
                    context, attribute, f"{name!r} is the target, which can have no other role"
                )
        for name in sorted(features & named.get("exclude", set())):
            raise invalid_attribute(context, "exclude", f"{name!r} is a feature: choose one")
        if self.available_at is not None and self.label_delay:
            raise invalid_attribute(
                context,
                "label_delay",
                f"available_at: {self.available_at} says when labels are known: leave one of them out",
            )


@contextmanager
def _located(context: dg.ComponentLoadContext, attribute: str) -> Iterator[None]:
    """Raises InvalidAttribute for a length that is no whole number of periods."""
    try:
        yield
    except InvalidPeriod as error:
        raise invalid_attribute(context, attribute, str(error)) from error


class PartitionsDiffer(SfSagemakerError):
    """A model whose periods are not those of its source."""


class SourceNotBuilt(SfSagemakerError):
    """A model whose source is a dbt model that nothing in the code location builds."""


def check_sources(definitions: dg.Definitions) -> None:
    """Raises SourceNotBuilt for a dataset of a dbt model that isn't there as an asset, and
    PartitionsDiffer for one that isn't partitioned as its source is.

    A dataset's partition depends on the same partition of its source, which must exist. Only the
    finished definitions know both: they may come from two files.
    """
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs()}
    for spec in specs.values():
        if spec.key.path[-1] != DATASET_ASSET:
            continue
        for dep in spec.deps:
            source = specs.get(dep.asset_key)
            dbt_model = spec.metadata.get(DBT_MODEL)
            if dbt_model is not None and (source is None or "dbt" not in source.kinds):
                raise SourceNotBuilt(
                    f"the source of {spec.key.path[0]}, the dbt model {dbt_model!r}, is built by nothing "
                    "here, and so it would never be updated: add a component of the type "
                    "sf_sagemaker.components.DbtModels that selects it. If it is built elsewhere, "
                    "write `source: {table: schema.table}`"
                )
            if source is None or source.partitions_def in (None, spec.partitions_def):
                continue
            raise PartitionsDiffer(
                f"{spec.key.to_user_string()} has the partitions {spec.partitions_def}, and its source "
                f"{dep.asset_key.to_user_string()} has {source.partitions_def}: give the attribute "
                "`partitions` of both the same every, start, end and timezone"
            )
