"""Every mistake in a defs.yaml names the file, the line, the attribute and what is allowed."""

import pytest

from sf_sagemaker.components.model_component import PartitionsDiffer, SourceNotBuilt

MODEL = """
type: sf_sagemaker.components.XGBoostModel
attributes:
  name: house_prices
  source: house_price_features
  row_key: [parcel_id, sale_date]
  split_key: parcel_id
  event_time: sale_date
  target: price
  target_transform: log
  partitions: {every: week, start: "2014-04-28", end: "2015-06-01"}
  sample: {window: 17 weeks, fraction: 1.0, seed: 7}
  hyperparameters: {objective: "reg:squarederror", num_round: 20}
  evaluation: {metric: median_absolute_percentage_error, baseline_by: zip_code}
  compute: {instance_type: ml.m5.xlarge}
"""


def test_the_example_loads(project):
    project.add_warehouse()
    project.add("house_prices", MODEL)
    keys = {key.to_user_string() for key in project.definitions().resolve_all_asset_keys()}
    assert {"house_prices/sampled_training_dataset", "house_prices/trained_xgboost_model"} <= keys


@pytest.mark.parametrize(
    ("right", "wrong", "line", "says"),
    [
        ("target_transform: log", "target_transfrom: log", 9,
         ["attributes.target_transfrom", "did you mean 'target_transform'"]),
        ("target_transform: log", "target_transform: sqrt", 9, ["target_transform", "none", "log"]),
        ("fraction: 1.0", "fraction: 0", 11, ["fraction", "greater than 0"]),
        ("fraction: 1.0", "fraction: 1.5", 11, ["attributes.sample.fraction", "at most 1"]),
        ("fraction: 1.0", "fraction: half", 11, ["fraction", "number"]),
        ("window: 17 weeks", "window: some weeks", 11, ["window", "17 weeks"]),
        ("every: week", "every: fortnight", 10, ["every", "week", "month"]),
        ('start: "2014-04-28"', 'start: "28.4.2014"', 10, ["partitions.start", "YYYY-MM-DD"]),
        ('start: "2014-04-28"', 'start: "20140428"', 10, ["partitions.start", "YYYY-MM-DD"]),
        ('start: "2014-04-28"', 'start: "2014-W18-1"', 10, ["partitions.start", "YYYY-MM-DD"]),
        ("target: price", "target: price\n  target: zip_code", 9,
         ["attributes.target: written in line 8 already"]),
        ("num_round: 20", "num_round: 20, num_round: 30", 12,
         ["attributes.hyperparameters.num_round: written in line 12"]),
        ("target: price", "target: Sale_Date", 5, ["attributes.row_key", "is the target"]),
        ("target: price", "target: price\n  features: [sqft_living, PRICE]", 9,
         ["attributes.features", "is the target"]),
        ("target: price", "target: price\n  features: [bedrooms]\n  exclude: [bedrooms]", 10,
         ["attributes.exclude", "is a feature"]),
        ("target: price", "target: price\n  label_delay: 30\n  available_at: sale_date", 9,
         ["attributes.label_delay", "available_at: sale_date"]),
        ("num_round: 20", "num_rounds: 20", 12,
         ["attributes.hyperparameters.num_rounds", "did you mean 'num_round'"]),
        ("fraction: 1.0", "fracton: 1.0", 11, ["attributes.sample.fracton", "did you mean 'fraction'"]),
        ('end: "2015-06-01"', 'end: "2015-06-01", timezone: Mars/Base', 10, ["timezone", "Mars/Base"]),
        ("target: price", "target: price\n  owners: [analytics]", 9, ["attributes.owners", "team:name"]),
        ("window: 17 weeks", "window: 1 hour", 11, ["window", "days, weeks"]),
        ("num_round: 20", "eta: 7", 12, ["attributes.hyperparameters.eta", "expected"]),
        ("num_round: 20", "num_round: many", 12, ["num_round", "integer"]),
        ('"reg:squarederror"', '"reg:squarederr"', 12, ["objective", "reg:squarederror"]),
        ("source: house_price_features", "source: house_price_feature", 4,
         ["attributes.source", "house_price_feature'", "did you mean 'house_price_features'"]),
        ("target: price", "target: prize", 8,
         ["attributes.target", "documents no column 'prize'", "did you mean 'price'"]),
        ("event_time: sale_date", "event_time: sold_on", 7, ["attributes.event_time", "sold_on"]),
        ("row_key: [parcel_id, sale_date]", "row_key: [parcel]", 5, ["attributes.row_key", "parcel_id"]),
        ("baseline_by: zip_code", "baseline_by: zipcode", 13, ["evaluation.baseline_by", "zip_code"]),
        ("metric: median_absolute_percentage_error", "metric: mape", 13,
         ["evaluation.metric", "mape", "median_absolute_percentage_error"]),
        ("metric: median_absolute_percentage_error", "metric: auc", 13, ["evaluation.metric", "auc"]),
        ("target: price", "target: price\n  input_drift: {ignore: [sold]}", 9,
         ["attributes.input_drift.ignore", "no column 'sold'"]),
        ("ml.m5.xlarge", "m5.xlarge", 14, ["compute.instance_type", "such as ml.m5.xlarge"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, kms_key: a key", 14, ["compute.kms_key", "ARN of a KMS key"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, instance_counts: 2", 14,
         ["compute.instance_counts", "did you mean 'instance_count'"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, instance_count: 0", 14, ["compute.instance_count", "at least 1"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, max_runtime: 40 days", 14, ["compute.max_runtime", "28 days"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, max_wait: 2 hours", 14, ["compute", "spot: true"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, spot: true, max_wait: 1 minute", 14,
         ["compute", "at least max_runtime, 1 hour"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, spot: true, keep_alive: 1 minute", 14, ["keep_alive", "exclude"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, keep_alive: 2 hours", 14, ["keep_alive", "at most 1 hour"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, volume_size: 0", 14, ["compute.volume_size", "at least 1"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, subnets: [subnet-0123456789abcdef0]", 14,
         ["security_groups", "go together"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, subnets: [vpc-1], security_groups: [sg-01234567]", 14,
         ["compute.subnets", "'vpc-1'", "subnet-0123456789abcdef0"]),
        ("ml.m5.xlarge",
         "ml.m5.xlarge, default_subnets: true, subnets: [subnet-01234567], security_groups: [sg-01234567]",
         14, ["either default_subnets: true, or subnets"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, tags: {'aws:x': y}", 14, ["compute.tags", "aws:", "taken"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, max_cost: 5", 14, ["max_cost needs price_per_hour"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, price_per_hour: 3, instance_count: 2, max_cost: 5", 14,
         ["compute", "could cost 6.00", "compute.max_cost is 5.00"]),
        ("ml.m5.xlarge", "ml.m5.xlarge, price_per_hour: 0", 14, ["price_per_hour", "greater than 0"]),
    ],
)  # fmt: skip
def test_a_mistake_is_located_and_explained(project, right, wrong, line, says):
    file = project.add("house_prices", MODEL.replace(right, wrong))
    text = project.mistake()
    assert f"{file.name}:{line}" in text, text
    for phrase in says:
        assert phrase in text, text


def test_the_second_document_of_a_file_is_located_too(project):
    first = MODEL.lstrip()
    second = MODEL.replace("name: house_prices", "name: other_prices").replace(
        "target: price", "target: prize"
    )
    file = project.add("both", first + "---\n" + second.lstrip())
    assert f"{file.name}:{len(first.splitlines()) + 1 + 8}" in project.mistake()


def test_a_dbt_selection_that_matches_nothing(project):
    project.add(
        "warehouse",
        """
        type: sf_sagemaker.components.DbtModels
        attributes:
          select: house_price
          partitions: {every: week, start: "2014-04-28"}
        """,
    )
    text = project.mistake()
    assert "defs.yaml:3" in text
    assert "did you mean 'house_prices'" in text


def test_a_raw_file_that_is_not_there(project):
    project.add(
        "warehouse",
        """
        type: sf_sagemaker.components.LandedTable
        attributes:
          table: raw.house_sales
          file: data/houses.parquet
          event_time: sale_date
          partitions: {every: week, start: "2014-04-28"}
        """,
    )
    text = project.mistake()
    assert "defs.yaml:4" in text
    assert "houses.parquet" in text


def test_periods_other_than_the_sources(project):
    project.add(
        "warehouse",
        """
        type: sf_sagemaker.components.DbtModels
        attributes:
          select: house_prices
          partitions: {every: week, start: "2014-04-28", end: "2015-06-01"}
        """,
    )
    project.add(
        "house_prices", MODEL.replace("every: week", "every: month").replace("04-28", "05-01")
    )
    with pytest.raises(PartitionsDiffer, match=r"house_price_features.*`partitions`"):
        project.definitions()


def test_a_dbt_model_that_nothing_builds(project):
    project.add("house_prices", MODEL)
    with pytest.raises(SourceNotBuilt, match=r"'house_price_features'.*DbtModels that selects it"):
        project.definitions()
    project.add("house_prices", MODEL.replace("house_price_features", "{table: features.prices}"))
    project.definitions()
