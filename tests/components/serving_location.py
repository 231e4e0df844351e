"""A small model with endpoint and predictions, in a deployment of a test's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast

import duckdb

from locations import Location, own_deployment, temporary_project
from sf_sagemaker import deployment
from sf_sagemaker.serving.local import LocalEndpointHost
from sf_sagemaker.warehouse.dataset import DatasetSpec, Relation

WEEKS = [f"{date(2024, 1, 1) + timedelta(weeks=week)}" for week in range(8)]

MODEL = """
type: sf_sagemaker.components.XGBoostModel
attributes:
  name: houses
  source: {table: analytics.houses}
  row_key: [sale_id]
  split_key: parcel_id
  event_time: sold_on
  target: price
  target_transform: log
  partitions: {every: week, start: "2024-01-01", end: "2024-02-26"}
  sample: {window: 2 weeks, seed: 3}
  hyperparameters: {objective: "reg:squarederror", num_round: 20, max_depth: 3, eta: 0.3}
  promotion: {margin: 0.5, min_rows: 20}
  endpoint: {}
  predictions: {batch_rows: 70}
"""

# Eight weeks of 200 sales.
SALES = """
create schema if not exists analytics;
create table analytics.houses as
select
    i as sale_id,
    i % 499 as parcel_id,
    date '2024-01-01' + cast(7 * (i // 200) + (i % 200) // 29 as integer) as sold_on,
    cast(1 + i % 6 as double) as rooms,
    ['north', 'south', 'west'][1 + i % 3] as area,
    cast(100 * (1 + i % 6) * (1 + i % 3) * (1 + (hash(i) % 100) / 1000.0) as double) as price
from range(8 * 200) as numbers(i)
"""

SPEC = DatasetSpec(
    model="houses",
    source=Relation(schema_name="analytics", name="houses"),
    row_key=("sale_id",),
    split_key=("parcel_id",),
    event_time="sold_on",
    target="price",
    target_kind="positive",
    window="2 weeks",
    seed=3,
)


@dataclass
class Site(Location):
    """The location, its endpoint host, and how a model gets into it."""

    resources: Mapping[str, Any]

    @property
    def host(self) -> LocalEndpointHost:
        return self.resources["endpoint_host"]

    def train(self, week: int) -> None:
        result = self.definitions.resolve_job_def("houses_training").execute_in_process(
            partition_key=WEEKS[week], instance=self.instance
        )
        assert result.success

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.home / "warehouse.duckdb")) as connection:
            return connection.execute(statement).fetchall()


@contextmanager
def serving_site(home: Path, model: str = MODEL) -> Iterator[Site]:
    """A location over eight weeks of sales; its endpoint ends with it."""
    with temporary_project() as project, own_deployment(home) as instance:
        project.add("houses", model)
        resources = deployment.resources()
        host = cast(LocalEndpointHost, resources["endpoint_host"])
        with duckdb.connect(str(home / "warehouse.duckdb")) as connection:
            connection.execute(SALES)
        yield Site(project.definitions(), instance, home, resources)
        if host.root.exists():
            for folder in host.root.iterdir():
                host.stop(folder.name)
