"""FilterLogEvents as CloudWatch Logs answers it; moto's knows no prefix of stream names."""

from collections.abc import Mapping
from typing import Any

from moto.backends import get_backend
from moto.logs.utils import EventMessageFilter

from standins.sagemaker.requests import ApiError, Operations, Request

_MOST = 10_000  # events of a page; FilterLogEvents, API reference


class LogReading:
    def __init__(self, account: str) -> None:
        self._account = account

    def operations(self) -> Operations:
        return {("logs", "FilterLogEvents"): self._filter}

    def _filter(self, request: Request) -> Mapping[str, Any]:
        """Events of all streams by time. The token stands for the last event of a page."""
        wanted = request.parameters
        after, event_id = 0, ""
        if token := wanted.get("nextToken"):
            first, _, event_id = token.partition("/")
            after = int(first)
        events = [
            event
            for event in self._events(request)
            if (event["timestamp"], event["eventId"]) > (after, event_id)
        ]
        most = wanted.get("limit") or _MOST
        page: dict[str, Any] = {"events": events[:most], "searchedLogStreams": []}
        if len(events) > most:
            last = events[most - 1]
            page["nextToken"] = f"{last['timestamp']}/{last['eventId']}"
        return page

    def _events(self, request: Request) -> list[dict[str, Any]]:
        wanted = request.parameters
        names, prefix = wanted.get("logStreamNames"), wanted.get("logStreamNamePrefix")
        if names and prefix:
            raise ApiError(
                "InvalidParameterException",
                "logStreamNames and logStreamNamePrefix can't both be given",
            )
        groups = get_backend("logs")[self._account][request.region].groups
        group = groups.get(wanted.get("logGroupName", ""))
        if group is None:
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        matches = EventMessageFilter(wanted.get("filterPattern") or "").matches
        first, end = wanted.get("startTime", 0), wanted.get("endTime", 2**63)
        found = [
            {
                "logStreamName": name,
                "timestamp": event.timestamp,
                "message": event.message,
                "ingestionTime": event.ingestion_time,
                "eventId": f"{int(event.event_id):056d}",
            }
            for name, stream in list(group.streams.items())
            if (not names or name in names) and name.startswith(prefix or "")
            for event in list(stream.events)
            if first <= event.timestamp <= end and matches(event.message)
        ]
        return sorted(found, key=lambda event: (event["timestamp"], event["eventId"]))
