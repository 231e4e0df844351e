"""The CloudWatch alarms that roll an endpoint's update back: made by us, and of somebody else's making."""

from collections.abc import Sequence
from typing import Any

from sf_sagemaker.aws import Aws, translated
from sf_sagemaker.serving.errors import InvalidEndpoint
from sf_sagemaker.serving.hosting import AlarmRules
from sf_sagemaker.serving.sagemaker_request import VARIANT

PREFIX = "sf-sagemaker"
_ERRORS, _LATENCY = "server-errors", "model-latency"
_MICROSECONDS = 1_000_000
_TYPES = ["MetricAlarm", "CompositeAlarm"]  # CloudWatch tells of the first alone unless asked


class EndpointAlarms:
    """The alarms of endpoints, by the endpoint's name."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def check(self, rules: AlarmRules) -> None:
        """Raises InvalidEndpoint where an alarm of somebody else's making isn't there."""
        there = self._states(rules.names)
        missing = [name for name in rules.names if name not in there]
        if missing:
            raise InvalidEndpoint(
                f"alarms.names has {', '.join(missing)}, and CloudWatch in {self._aws.region} has no such "
                "alarm: correct the name, create the alarm in the endpoint's region, or leave it out"
            )

    def ensure(self, endpoint: str, rules: AlarmRules, tags: Sequence[dict[str, str]]) -> list[str]:
        """The names of the alarms that rules ask for, ours being there afterwards, and no others."""
        wanted = [_request(endpoint, what, rules) for what in _kinds(rules)]
        with translated(f"set the alarms of endpoint {endpoint}"):
            for request in wanted:
                self._client.put_metric_alarm(**request, Tags=list(tags))
        ours = [request["AlarmName"] for request in wanted]
        self._delete([name for name in own_names(endpoint) if name not in ours])
        return [*ours, *dict.fromkeys(rules.names)]

    def ringing(self, names: Sequence[str]) -> list[str]:
        """Those of the alarms that are in the state ALARM."""
        return [name for name, state in self._states(names).items() if state == "ALARM"]

    def delete(self, endpoint: str) -> None:
        """Deletes our alarms of an endpoint."""
        self._delete(own_names(endpoint))

    def _states(self, names: Sequence[str]) -> dict[str, str]:
        """The state of each of the alarms that is there, by its name."""
        if not names:
            return {}
        with translated("ask for the state of alarms"):
            answer = self._client.describe_alarms(AlarmNames=list(names), AlarmTypes=_TYPES)
        return {
            alarm["AlarmName"]: alarm["StateValue"]
            for kind in ("MetricAlarms", "CompositeAlarms")
            for alarm in answer.get(kind, [])
        }

    def _delete(self, names: Sequence[str]) -> None:
        """CloudWatch passes over alarms that aren't there."""
        if names:
            with translated("delete alarms"):
                self._client.delete_alarms(AlarmNames=list(names))

    @property
    def _client(self) -> Any:
        return self._aws.client("cloudwatch")


def own_names(endpoint: str) -> list[str]:
    """The names of the alarms that we make for an endpoint."""
    return [f"{PREFIX}-{endpoint}-{what}" for what in (_ERRORS, _LATENCY)]


def _kinds(rules: AlarmRules) -> list[str]:
    return [
        *([_ERRORS] if rules.max_error_rate is not None else []),
        *([_LATENCY] if rules.max_latency is not None else []),
    ]


def _request(endpoint: str, what: str, rules: AlarmRules) -> dict[str, Any]:
    if what == _ERRORS:
        # Each request counts as 1 where its status is 500 or more, and as 0 otherwise.
        watched = {
            "MetricName": "Invocation5XXErrors",
            "Statistic": "Average",
            "Threshold": rules.max_error_rate,
            "AlarmDescription": f"Share of requests that endpoint {endpoint} fails to answer.",
        }
    else:
        assert rules.max_latency is not None
        watched = {
            "MetricName": "ModelLatency",
            "ExtendedStatistic": "p99",
            "Threshold": rules.max_latency.total_seconds() * _MICROSECONDS,
            "AlarmDescription": f"Time that the model of endpoint {endpoint} takes, in microseconds.",
        }
    return {
        "AlarmName": f"{PREFIX}-{endpoint}-{what}",
        "Namespace": "AWS/SageMaker",
        "Dimensions": [
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": VARIANT},
        ],
        "Period": int(rules.period.total_seconds()),
        "EvaluationPeriods": 1,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",  # an endpoint that nobody asks is well
        **watched,
    }
