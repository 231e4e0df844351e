"""What Dagster's instance knows of a model: its state, as the decision to retrain takes it.

Materializations, checks, runs and backfills, read through public interfaces only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from sf_sagemaker.lifecycle.retraining import ModelState, Run, RunOutcome, Training
from sf_sagemaker.periods import Cadence, InvalidPeriod

DECAY_CHECK = "decay"  # on the model's champion
EPISODE_TAG = "sf_sagemaker/episode"
CODE_TAG = "sf_sagemaker/code"  # what a run is to build with
MAX_RETRIES_TAG = "dagster/max_retries"
TRAINED_AT = (
    "trained_at"  # metadata of a model: an adopted job was trained before it was materialized
)
WINDOW_FULL = "window_full"  # metadata of a dataset
CHAMPION_VERSION = "version"  # metadata of a champion, where a model is in force

_CODE_VERSION_TAG = "dagster/code_version"
_WILL_RETRY_TAG = "dagster/will_retry"

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.MANAGED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_OUTCOMES: Mapping[dg.DagsterRunStatus, RunOutcome] = {
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "canceled",
}
_UNFINISHED_BACKFILLS = {"REQUESTED", "CANCELING", "FAILING"}
_RECENT_BACKFILLS = 100  # one that more than these were started after is not looked for
_EPISODE_RUNS = 100
_RETRY_DELAY = timedelta(hours=1)  # a retry that was not launched by then never will be
_CHECK_HISTORY = 50
_WINDOW_POLICY = type(dg.FreshnessPolicy.time_window(fail_window=timedelta(days=1)))


@dataclass(frozen=True)
class RetrainedModel:
    """The assets that a retraining builds, for one period of the source."""

    name: str
    source: dg.AssetKey
    dataset: dg.AssetKey
    model: dg.AssetKey
    champion: dg.AssetKey

    @property
    def built(self) -> list[dg.AssetKey]:
        """What a run selects: the champion considers the new model in the same run."""
        return [self.dataset, self.model, self.champion]

    @property
    def decay(self) -> dg.AssetCheckKey:
        """The check whose failure is a cause."""
        return dg.AssetCheckKey(self.champion, DECAY_CHECK)


def episode_tag(assets: RetrainedModel, episode: str) -> str:
    """The value of EPISODE_TAG."""
    return f"{assets.name}-{episode}"


def code_tag(repository: dg.RepositoryDefinition, assets: RetrainedModel) -> str:
    """The value of CODE_TAG: the code versions of dataset and model that the code location has."""
    return " ".join(str(_code_version(repository, key)) for key in (assets.dataset, assets.model))


def read_state(
    instance: dg.DagsterInstance,
    repository: dg.RepositoryDefinition,
    assets: RetrainedModel,
    cadence: Cadence,
    now: datetime,
) -> ModelState:
    """What the instance knows of a model at this moment, in a number of queries that never grows."""
    trained, built = _newest_model(instance, assets, cadence)
    landed = newest_partition(instance, assets.source, cadence)
    blocking = _blocking_checks(repository, assets.source)
    latest = _latest_evaluations(instance, [assets.decay, *blocking])
    decay = latest.get(assets.decay)
    changed = [
        key
        for key, record in built.items()
        if _built_with(record) not in (None, _code_version(repository, key))
    ]
    state = ModelState(
        now=now,
        trained=trained,
        landed=landed,
        obstacle=_obstacle(instance, assets.source, landed, blocking, latest),
        deadline_missed=_deadline_missed(instance, repository, assets.model),
        decay_failed=_moment(decay.timestamp) if decay and not decay.passed else None,
        changed=tuple(key.to_user_string() for key in changed),
        built_otherwise=_asked_with(
            instance, [built[key].run_id for key in changed], code_tag(repository, assets)
        ),
        champion=_in_force(instance, assets.champion),
        in_progress=_in_progress(instance, repository, {assets.source, *assets.built}, now),
    )
    return _with_runs(instance, assets, state)


def newest_training(
    instance: dg.DagsterInstance, assets: RetrainedModel, cadence: Cadence
) -> Training | None:
    """The newest model by period; None where none was trained."""
    return _newest_model(instance, assets, cadence)[0]


def _newest_model(
    instance: dg.DagsterInstance, assets: RetrainedModel, cadence: Cadence
) -> tuple[Training | None, dict[dg.AssetKey, dg.EventLogRecord]]:
    """The newest model by period, and the materializations of it and of its dataset.

    A backfill of earlier periods makes neither the model fresh nor its code up to date.
    """
    partition = newest_partition(instance, assets.model, cadence)
    if partition is None:
        return None, {}
    built: dict[dg.AssetKey, dg.EventLogRecord] = {}
    for key in (assets.dataset, assets.model):
        record = _materialization(instance, key, partition)
        if record is not None and record.asset_materialization is not None:
            built[key] = record
    model = built.get(assets.model)
    if model is None:
        return None, built
    stated = _metadata(model, TRAINED_AT)
    trained_at = (
        stated.value
        if isinstance(stated, dg.TimestampMetadataValue)
        else model.event_log_entry.timestamp
    )
    dataset = built.get(assets.dataset)
    window_full = _metadata(dataset, WINDOW_FULL) if dataset else None
    warm_up = isinstance(window_full, dg.BoolMetadataValue) and not window_full.value
    return Training(partition, _moment(trained_at), model.storage_id, warm_up), built


def _metadata(record: dg.EventLogRecord, name: str) -> dg.MetadataValue | None:
    materialization = record.asset_materialization
    return materialization.metadata.get(name) if materialization else None


def _built_with(record: dg.EventLogRecord) -> str | None:
    """The code version of a materialization; None where it doesn't say."""
    materialization = record.asset_materialization
    return (materialization.tags or {}).get(_CODE_VERSION_TAG) if materialization else None


def _code_version(repository: dg.RepositoryDefinition, key: dg.AssetKey) -> str | None:
    return repository.asset_graph.get(key).code_version


def _asked_with(instance: dg.DagsterInstance, run_ids: Iterable[str], code: str) -> bool:
    """Whether one of the runs was asked for with that code. What was reported has no run."""
    known = {run_id for run_id in run_ids if run_id}
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(known))) if known else ()
    return any(run.tags.get(CODE_TAG) == code for run in runs)


def _in_force(instance: dg.DagsterInstance, champion: dg.AssetKey) -> bool:
    """Whether there was a champion when it was last looked at."""
    event = instance.get_latest_materialization_event(champion)
    materialization = event.asset_materialization if event else None
    return materialization is not None and CHAMPION_VERSION in materialization.metadata


def newest_partition(
    instance: dg.DagsterInstance, key: dg.AssetKey, cadence: Cadence
) -> str | None:
    """The newest materialized partition that is a period of the cadence."""
    for partition in sorted(instance.get_materialized_partitions(key), reverse=True):
        try:
            return cadence.period(partition).key
        except InvalidPeriod:
            continue  # of an earlier definition of the partitions
    return None


def _materialization(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str
) -> dg.EventLogRecord | None:
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition]), limit=1
    ).records
    return found[0] if found else None


def latest_verdict(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey
) -> dg.AssetCheckEvaluation | None:
    """What the check said last, if it ever has."""
    found = _latest_evaluations(instance, [check]).get(check)
    return found.verdict if found else None


@dataclass(frozen=True)
class _Evaluation:
    verdict: dg.AssetCheckEvaluation
    timestamp: float

    @property
    def passed(self) -> bool:
        return self.verdict.passed

    @property
    def blocks(self) -> bool:
        return _blocks(self.verdict)


def _latest_evaluations(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, _Evaluation]:
    """The latest verdict of each check, if it has one.

    A run announces its checks when it is created: where it died before a verdict, the one before
    still holds.
    """
    log = instance.event_log_storage
    found: dict[dg.AssetCheckKey, _Evaluation] = {}
    for check, latest in log.get_latest_asset_check_execution_by_key(checks).items():
        records = [latest]
        if not isinstance(latest.evaluation, dg.AssetCheckEvaluation):
            records = log.get_asset_check_execution_history(check, limit=_CHECK_HISTORY)
        for record in records:
            verdict = record.evaluation
            if isinstance(verdict, dg.AssetCheckEvaluation):
                timestamp = record.event.timestamp if record.event else record.create_timestamp
                found[check] = _Evaluation(verdict, timestamp)
                break
    return found


def _blocks(verdict: dg.AssetCheckEvaluation) -> bool:
    return not verdict.passed and verdict.severity == dg.AssetCheckSeverity.ERROR


def _blocking_checks(
    repository: dg.RepositoryDefinition, source: dg.AssetKey
) -> list[dg.AssetCheckKey]:
    """The blocking checks of the source and of everything that it is built from."""
    graph = repository.asset_graph
    if not graph.has(source):
        return []
    keys = {source, *graph.get_ancestor_asset_keys(source)}
    return sorted(
        check for key in keys for check in graph.get(key).check_keys if graph.get(check).blocking
    )


def _obstacle(
    instance: dg.DagsterInstance,
    source: dg.AssetKey,
    landed: str | None,
    blocking: Iterable[dg.AssetCheckKey],
    latest: Mapping[dg.AssetCheckKey, _Evaluation],
) -> str | None:
    """The blocking check that keeps the newest landed period from being used, if there is one.

    Checks aren't partitioned: besides each one's latest verdict, those of the run that landed the
    period count, since a run over another period may have passed afterwards.
    """
    checks = set(blocking)
    failed = [check for check in latest if check in checks and latest[check].blocks]
    if failed:
        return f"the blocking check {_name(failed[0])} failed: mend its data and build it again"
    record = _materialization(instance, source, landed) if landed and checks else None
    if record is None or not record.run_id:  # landed by something other than Dagster's runs
        return None
    events = instance.get_records_for_run(
        record.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    for event in events:
        dagster_event = event.event_log_entry.dagster_event
        verdict = dagster_event.event_specific_data if dagster_event else None
        if not isinstance(verdict, dg.AssetCheckEvaluation) or not _blocks(verdict):
            continue
        check = dg.AssetCheckKey(verdict.asset_key, verdict.check_name)
        if check in checks:
            return (
                f"the blocking check {_name(check)} failed in the run that built {landed}: mend its "
                "data and build it again"
            )
    return None


def _name(check: dg.AssetCheckKey) -> str:
    return f"{check.name} of {check.asset_key.to_user_string()}"


def _deadline_missed(
    instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, model: dg.AssetKey
) -> datetime | None:
    """When the model began to fail a freshness policy with deadlines.

    Dagster's own record says so. It lags behind by a pass of its daemon, and therefore counts only
    where it is newer than the model. Windows are compared with the model's age instead.
    """
    policy = repository.asset_graph.get(model).freshness_policy
    if policy is None or isinstance(policy, _WINDOW_POLICY):
        return None
    record = instance.get_freshness_state_records([model]).get(model)
    failed = record is not None and record.freshness_state.value == "FAIL"
    return record.updated_at if record is not None and failed else None


def _in_progress(
    instance: dg.DagsterInstance,
    repository: dg.RepositoryDefinition,
    keys: set[dg.AssetKey],
    now: datetime,
) -> str | None:
    """A run or backfill that touches one of the assets and is not over, or is about to be retried."""
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if keys & _run_assets(repository, run):
            return f"run {run.run_id}"
    failures = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], updated_after=now - _RETRY_DELAY
    )
    for run in instance.get_runs(failures):
        # A failed run has no tag for a moment, before Dagster decides on it.
        undecided = instance.run_retries_enabled and _WILL_RETRY_TAG not in run.tags
        if (undecided or run.is_complete_and_waiting_to_retry) and keys & _run_assets(
            repository, run
        ):
            return f"a retry of run {run.run_id}"
    # Filters are private to Dagster: the newest ones are looked through instead.
    for backfill in instance.get_backfills(limit=_RECENT_BACKFILLS):
        if backfill.status.value not in _UNFINISHED_BACKFILLS:
            continue
        selected = backfill.asset_selection
        if selected is None and backfill.job_name:
            selected = _job_assets(repository, backfill.job_name)
        if keys & set(selected or ()):
            return f"backfill {backfill.backfill_id}"
    return None


def _run_assets(repository: dg.RepositoryDefinition, run: dg.DagsterRun) -> set[dg.AssetKey]:
    """What a run builds: what it selects, or all of its job."""
    if run.asset_selection is not None:
        return set(run.asset_selection)
    return _job_assets(repository, run.job_name)


def _job_assets(repository: dg.RepositoryDefinition, job: str) -> set[dg.AssetKey]:
    """The assets of a job; none of one that another code location has."""
    if not repository.has_job(job):
        return set()
    return set(repository.get_job(job).asset_layer.selected_asset_keys)


def _with_runs(
    instance: dg.DagsterInstance, assets: RetrainedModel, state: ModelState
) -> ModelState:
    """The state with the finished runs of its episode."""
    tag = episode_tag(assets, state.episode)
    runs = instance.get_runs(dg.RunsFilter(tags={EPISODE_TAG: tag}), limit=_EPISODE_RUNS)
    finished = tuple(
        Run(
            partition=run.tags.get("dagster/partition", ""),
            outcome=_OUTCOMES[run.status],
            request=run.root_run_id is None,
        )
        for run in runs
        if run.status in _OUTCOMES
    )
    return replace(state, runs=finished)


def _moment(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)
