"""An XGBoost model over a dbt model: its training dataset, its training job, its first evaluation."""

from typing import Literal

import dagster as dg
from pydantic import Field, model_validator

from sf_sagemaker.components.attributes import Compute, Partitions, Retraining, Sample
from sf_sagemaker.components.component import Component, within
from sf_sagemaker.components.dbt_models import find_model
from sf_sagemaker.components.errors import invalid_attribute, suggest
from sf_sagemaker.components.hyperparameters import XGBoostHyperparameters
from sf_sagemaker.components.trained_model import Judgement, trained_xgboost_model
from sf_sagemaker.components.training_dataset import training_dataset
from sf_sagemaker.containers.metrics import METRICS
from sf_sagemaker.containers.xgboost.hyperparameters import parse_hyperparameters
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation, TargetKind


class Table(dg.Model, dg.Resolvable):
    """A table that something other than this project's dbt maintains."""

    table: str = Field(
        pattern=r"^([A-Za-z_][\w$]*\.){1,2}[A-Za-z_][\w$]*$",
        description="schema.table or database.schema.table.",
        examples=["analytics.churn_features"],
    )


class Evaluation(dg.Model, dg.Resolvable):
    """How the model is judged."""

    metric: str | None = Field(
        default=None,
        description="The metric that counts: median_absolute_percentage_error for a numeric target "
        "and log_loss for classes, unless named.",
    )
    baseline_by: str | None = Field(
        default=None,
        description="Column whose groups the baseline answers for: the median of the target in the "
        "group, or its classes' rates. One answer for all rows without it.",
        examples=["zip_code"],
    )


class XGBoostModel(Component):
    """An XGBoost model of one column of a dbt model, trained by partition.

    Gives the assets `<name>/sampled_training_dataset` and `<name>/trained_xgboost_model`, their
    checks, and the job `<name>_training` that builds both.
    """

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
    target: str = Field(description="Column to predict.")
    target_transform: Literal["none", "log"] = Field(
        default="none", description="log trains on the logarithm of a positive target."
    )
    features: list[str] | None = Field(
        default=None,
        description="Columns to learn from; without them, all that have no other role and aren't "
        "excluded.",
    )
    exclude: list[str] = Field(default=[], description="Columns that are not features.")
    label_delay: int = Field(
        default=0, description="Days after the event at which the target is known."
    )
    available_at: str | None = Field(
        default=None,
        description="Column that says when the target was known, instead of label_delay.",
    )
    partitions: Partitions = Field(description="Periods; the same as those of the source.")
    sample: Sample = Field(description="Window, fraction, seed and splits of the training dataset.")
    hyperparameters: XGBoostHyperparameters = Field(
        default=XGBoostHyperparameters(), description="What XGBoost trains with."
    )
    compute: Compute = Field(default=Compute(), description="What the training job runs on.")
    evaluation: Evaluation = Field(default=Evaluation(), description="How the model is judged.")
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

    _bounds = within("label_delay", least=0)

    @model_validator(mode="after")
    def _objective_and_transform_go_together(self) -> "XGBoostModel":
        parse_hyperparameters(self._training_hyperparameters())
        return self

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The model's assets, checks and job."""
        relation, source_key = self._source(context)
        spec = self._spec(relation)
        partitions_def = self.partitions.definition()
        common = {
            "cadence": self.partitions.cadence(),
            "partitions_def": partitions_def,
            "automation_condition": self.retraining.automation_condition(),
            "group": self.group or self.name,
            "owners": self.owners,
            "tags": self.tags,
        }
        dataset, window_unchanged = training_dataset(spec=spec, source_key=source_key, **common)
        model = trained_xgboost_model(
            spec=spec,
            dataset_key=dataset.key,
            hyperparameters=self._training_hyperparameters(),
            compute=self.compute,
            judgement=Judgement(self._metric(context), self.evaluation.baseline_by),
            description=self.description,
            **common,
        )
        job = dg.define_asset_job(
            f"{self.name}_training",
            selection=dg.AssetSelection.assets(dataset.key, model.key),
            description=f"Samples the training dataset of {self.name} and trains its model.",
            tags=self.tags,
        )
        return dg.Definitions(assets=[dataset, model], asset_checks=[window_unchanged], jobs=[job])

    def _source(self, context: dg.ComponentLoadContext) -> tuple[Relation, dg.AssetKey]:
        if isinstance(self.source, Table):
            *database, schema, name = self.source.table.split(".")
            relation = Relation(
                database=database[0] if database else None, schema_name=schema, name=name
            )
            return relation, dg.AssetKey([schema.lower(), name.lower()])
        node, key = find_model(context, "source", self.source)
        self._check_columns(context, list(node["columns"]))
        return Relation(schema_name=node["schema"], name=node["alias"]), key

    def _check_columns(self, context: dg.ComponentLoadContext, columns: list[str]) -> None:
        """Columns against the dbt model's documented ones, where it documents any.

        What dbt doesn't document is checked against the warehouse when a dataset is exported.
        """
        if not columns:
            return
        known = {column.lower() for column in columns}
        named = {
            "row_key": self.row_key,
            "split_key": self._split_key(),
            "event_time": [self.event_time],
            "target": [self.target],
            "features": self.features or [],
            "exclude": self.exclude,
            "available_at": [self.available_at] if self.available_at else [],
            "evaluation.baseline_by": [self.evaluation.baseline_by]
            if self.evaluation.baseline_by
            else [],
        }
        for attribute, names in named.items():
            for name in names:
                if name.lower() not in known:
                    raise invalid_attribute(
                        context,
                        attribute,
                        f"the dbt model {self.source!r} has no column {name!r}. "
                        f"{suggest(name, columns)}",
                    )

    def _training_hyperparameters(self) -> dict[str, str]:
        return {
            **self.hyperparameters.strings(),
            "target_transform": self.target_transform,
            "seed": str(self.sample.seed),
        }

    def _split_key(self) -> list[str]:
        if self.split_key is None:
            return self.row_key
        return [self.split_key] if isinstance(self.split_key, str) else self.split_key

    def _spec(self, relation: Relation) -> DatasetSpec:
        kind: TargetKind = "positive" if self.target_transform == "log" else "numeric"
        return DatasetSpec(
            model=self.name,
            source=relation,
            row_key=tuple(self.row_key),
            split_key=tuple(self._split_key()),
            event_time=self.event_time,
            target=self.target,
            target_kind="class" if self.hyperparameters.classification else kind,
            features=tuple(self.features) if self.features is not None else None,
            exclude=tuple(self.exclude),
            available_at=self.available_at,
            label_delay=self.label_delay,
            window=self.sample.window,
            fraction=self.sample.fraction,
            seed=self.sample.seed,
            splits=self.sample.splits.fractions(),
            shards=self.compute.instance_count,
        )

    def _metric(self, context: dg.ComponentLoadContext) -> str:
        classification = self.hyperparameters.classification
        default = "log_loss" if classification else "median_absolute_percentage_error"
        metric = self.evaluation.metric or default
        task = "classification" if classification else "regression"
        allowed = [
            name
            for name, known in METRICS.items()
            if task in known.functions and known.better != "nearer zero"
        ]
        if metric not in allowed:
            raise invalid_attribute(
                context,
                "evaluation.metric",
                f"{metric!r} is not a metric for {self.hyperparameters.objective}. "
                f"{suggest(metric, allowed)}",
            )
        return metric
