"""The asset `<model>/endpoint`: the champion behind an HTTP endpoint, its check, and what follows it."""

import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from sf_sagemaker.components.attributes import AssetAttributes
from sf_sagemaker.components.endpoint_attributes import Endpoint
from sf_sagemaker.containers.serving.golden import golden_request
from sf_sagemaker.lifecycle.champions import Champion, champion_model, read_champions, withdraw
from sf_sagemaker.lifecycle.log import EntryTaken
from sf_sagemaker.serving.endpoint import (
    EndpointDescription,
    EndpointHost,
    ServedModel,
    endpoint_name,
    model_label,
    training_job_of,
)
from sf_sagemaker.serving.errors import (
    EndpointNotFound,
    EndpointUnreachable,
    HostUnavailable,
    NoChampion,
    RolledBack,
)
from sf_sagemaker.serving.following import Standing, cause_of, decide, episode_of
from sf_sagemaker.storage import Storage
from sf_sagemaker.training.platform import TrainingPlatform

GOLDEN_CHECK = "golden_rows"
EPISODE_TAG = "sf_sagemaker/endpoint_episode"
# On a run that is to update an endpoint, which a person may have stopped when the run begins.
UPDATE_TAG = "sf_sagemaker/endpoint_update"
GAVE_UP_TAG = "sf_sagemaker/endpoint_gave_up"  # on the run of a deployment that alarms rolled back

_HEALTH_SECONDS = 30  # between two looks at the endpoint, by the sensor

Program = Literal["xgboost", "llm"]


def endpoint_definitions(
    *,
    model: str,
    program: Program,
    champion_key: dg.AssetKey,
    endpoint: Endpoint,
    attributes: AssetAttributes,
) -> dg.Definitions:
    """The asset with its check, and the sensor `<model>_endpoint` unless it isn't to follow."""
    asset, check = _endpoint(model, program, champion_key, endpoint, attributes)
    sensors = []
    if endpoint.follow_champion:
        sensors = [_sensor(model, program, asset.key, endpoint, attributes)]
    return dg.Definitions(assets=[asset], asset_checks=[check], sensors=sensors)


def _endpoint(
    model: str,
    program: Program,
    champion_key: dg.AssetKey,
    endpoint: Endpoint,
    attributes: AssetAttributes,
) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    key = dg.AssetKey([model, "endpoint"])
    name = endpoint_name(model)

    @dg.asset(
        key=key,
        description=(
            f"The champion of {model} behind an HTTP endpoint: GET /ping, POST /invocations. "
            "Materializing it deploys the champion, without failing a request, unless that is what "
            "answers already. A deployment that fails leaves the model before it in service; one that "
            "alarms roll back takes the promotion back, too, unless `on_alarm` is `keep`."
        ),
        deps=[champion_key],
        group_name=attributes.group,
        owners=attributes.owners,
        tags=attributes.tags,
        kinds={"api"},
    )
    def endpoint_asset(
        context: dg.AssetExecutionContext,
        storage: dg.ResourceParam[Storage],
        endpoint_host: dg.ResourceParam[EndpointHost],
    ) -> dg.MaterializeResult:
        champion = _champion(storage, model)
        served = _served(storage, champion, program)
        try:
            deployment = endpoint_host.deploy(
                name, served, endpoint.options(), start=UPDATE_TAG not in context.run.tags
            )
        except RolledBack as error:
            _rolled_back(context, storage, served, champion_key, endpoint, error)
            raise
        description = deployment.description
        if not deployment.changed:
            context.log.info(f"{served.label} answers at {description.address} already")
        return dg.MaterializeResult(
            metadata={
                **_metadata(description, champion),
                **deployment.details,
                **_cost(endpoint),
                "changed": deployment.changed,
            },
            data_version=dg.DataVersion(served.label),
        )

    @dg.asset_check(
        asset=key,
        name=GOLDEN_CHECK,
        description="The live endpoint serves the champion, and predicts for the golden rows of its "
        "model card what it predicted when it was trained.",
    )
    def golden_rows(
        storage: dg.ResourceParam[Storage],
        training_platform: dg.ResourceParam[TrainingPlatform],
        endpoint_host: dg.ResourceParam[EndpointHost],
    ) -> dg.AssetCheckResult:
        champion = _champion(storage, model)
        served = _served(storage, champion, program)
        return _golden_result(name, served, training_platform, endpoint_host)

    return endpoint_asset, golden_rows


def _golden_result(
    name: str, served: ServedModel, platform: TrainingPlatform, host: EndpointHost
) -> dg.AssetCheckResult:
    with tempfile.TemporaryDirectory() as scratch:
        golden = golden_request(platform.fetch_artifact(served.training_job, Path(scratch)))
    metadata: dict[str, Any] = {"champion": served.label, "rows": golden.rows if golden else 0}
    if golden is None:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={**metadata, "reason": "the model card has no golden rows"},
        )
    try:
        reply = host.invoke(name, golden.body)
    except (EndpointNotFound, EndpointUnreachable) as error:
        return dg.AssetCheckResult(passed=False, metadata={**metadata, "reason": str(error)})
    metadata["version"] = reply.version or "unknown"
    if reply.status != 200:
        reason = f"the endpoint answers with status {reply.status}: {_error(reply.body)}"
    elif training_job_of(reply.version or "") != served.training_job:
        reason = f"{reply.version} answers, and the champion is {served.label}"
    else:
        reason = golden.difference(reply.body)
    return dg.AssetCheckResult(
        passed=reason is None,
        metadata={**metadata, "reason": reason or "every golden row is predicted as in training"},
    )


def _sensor(
    model: str, program: Program, key: dg.AssetKey, endpoint: Endpoint, attributes: AssetAttributes
) -> dg.SensorDefinition:
    name = endpoint_name(model)
    reviewed = endpoint.approval == "manual"

    @dg.sensor(
        name=f"{model}_endpoint",
        target=dg.AssetSelection.assets(key),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=_HEALTH_SECONDS,
        description=f"Deploys the champion of {model} when the endpoint serves another model, or is "
        "down. Says at each tick what answers, and since when.",
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        storage: dg.ResourceParam[Storage],
        endpoint_host: dg.ResourceParam[EndpointHost],
    ) -> dg.RunRequest | dg.SkipReason:
        log = read_champions(storage, model)
        label = model_label(log[-1].version, log[-1].training_job) if log else None
        review = None
        try:
            description = _description(endpoint_host, name)
            if log and reviewed:
                review = endpoint_host.review(_served(storage, log[-1], program))
        except HostUnavailable as error:
            return dg.SkipReason(f"what hosts the endpoint did not answer: {error}")
        materialized = context.instance.get_latest_materialization_event(key)
        standing = Standing(label, description, review, deployed_before=materialized is not None)
        cause = cause_of(standing)
        runs = []
        if cause is not None:
            episode = f"{model} {cause.episode}"
            runs = context.instance.get_runs(dg.RunsFilter(tags={EPISODE_TAG: episode}))
        decision = decide(
            standing,
            cause,
            running=any(not run.is_finished for run in runs),
            failed_runs=sum(run.is_finished for run in runs),
            gave_up=next((run.tags[GAVE_UP_TAG] for run in runs if GAVE_UP_TAG in run.tags), None),
        )
        if decision.alert:
            context.log.warning(f"{model}: {decision.reason}")
        if cause is None or not decision.deploy:
            return dg.SkipReason(decision.reason)
        episode = f"{model} {cause.episode}"
        return dg.RunRequest(
            run_key=f"{episode} {len(runs) + 1}",
            asset_selection=[key],
            tags={
                **attributes.tags,
                EPISODE_TAG: episode,
                **({} if description is None else {UPDATE_TAG: name}),
            },
        )

    return sensor


def _description(host: EndpointHost, name: str) -> EndpointDescription | None:
    try:
        return host.describe(name)
    except EndpointNotFound:
        return None


def _rolled_back(
    context: dg.AssetExecutionContext,
    storage: Storage,
    served: ServedModel,
    champion_key: dg.AssetKey,
    endpoint: Endpoint,
    error: RolledBack,
) -> None:
    """Has champion and endpoint agree again, where that is configured, and no run try the same again."""
    # A tag's value has its limit, as labels of other places have.
    reason = f"rolled back by {', '.join(error.alarms) or 'an alarm'}"[:200]
    deployed = episode_of(served.label, approved=endpoint.approval == "manual")
    episode = f"{served.model} {deployed}"
    context.instance.add_run_tags(
        context.run_id,
        {EPISODE_TAG: context.run.tags.get(EPISODE_TAG, episode), GAVE_UP_TAG: reason},
    )
    if endpoint.on_alarm == "keep" or error.serving is None:
        return
    try:
        entry = withdraw(
            storage,
            served.model,
            served.training_job,
            serving=training_job_of(error.serving),
            promoted_at=datetime.now(UTC).isoformat(),
            reason=f"version {served.version} was {reason} when it was deployed",
            run_id=context.run_id,
        )
    except EntryTaken:
        entry = None
    if entry is None:
        context.log.warning(
            f"the promotion log of {served.model} has changed meanwhile, and stays as it is"
        )
    else:
        context.log.warning(
            f"version {entry.version} of the champions of {served.model} is {entry.training_job} again"
        )
        # The champion's page knows of it at once, and not when it is materialized next.
        context.log_event(
            dg.AssetObservation(
                champion_key,
                metadata={
                    "version": entry.version,
                    "training_job": entry.training_job,
                    "partition": entry.partition,
                    "in_force_from": entry.in_force_from,
                    "reason": entry.reason,
                },
            )
        )


def _cost(endpoint: Endpoint) -> Mapping[str, Any]:
    cost = endpoint.cost_per_month()
    return {} if cost is None else {"cost_per_month": dg.MetadataValue.float(cost)}


def _champion(storage: Storage, model: str) -> Champion:
    log = read_champions(storage, model)
    if not log:
        raise NoChampion(
            f"{model} has no champion to serve: materialize {model}/champion, which promotes the "
            "first trained model"
        )
    return log[-1]


def _served(storage: Storage, champion: Champion, program: Program) -> ServedModel:
    registered = champion_model(storage, champion)
    return ServedModel(
        model=champion.model,
        version=champion.version,
        training_job=champion.training_job,
        artifact_uri=registered.artifact_uri,
        program=program,
    )


def _metadata(description: EndpointDescription, champion: Champion) -> Mapping[str, Any]:
    metadata: dict[str, Any] = {
        "address": dg.MetadataValue.url(description.address or ""),
        "state": str(description.state),
        "version": champion.version,
        "training_job": champion.training_job,
        "partition": champion.partition,
        "restarts": description.restarts,
    }
    if description.since is not None:
        metadata["since"] = dg.MetadataValue.timestamp(description.since)
    if description.failure is not None:
        metadata["failure"] = description.failure
    if description.log is not None:
        of_web = description.log.startswith("https://")
        kind = dg.MetadataValue.url if of_web else dg.MetadataValue.path
        metadata["log"] = kind(description.log)
    if description.page is not None:
        metadata["page"] = dg.MetadataValue.url(description.page)
    return metadata


def _error(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return repr(body[:200])
