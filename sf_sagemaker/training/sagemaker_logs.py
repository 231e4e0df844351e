"""What jobs print, as CloudWatch Logs has it, in a group for jobs of each kind.

Each host writes streams `<job>/<host>-<number>`; one that is started again after an interruption
writes another, and one of a transform job `<job>/<host>-<number>/data-log` about its data. They appear
late, and the lines in them some seconds after they were printed.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from sf_sagemaker.aws import AwsError, translated
from sf_sagemaker.training.platform import LogLine

GROUP = "/aws/sagemaker/TrainingJobs"


def read_log(
    client: Any, job: str, cursor: str | None, group: str = GROUP
) -> tuple[Sequence[LogLine], str | None]:
    """The lines after a cursor, which holds a token and a number of lines for each stream.

    One call lists the streams; each of them takes one that brings nothing new beside those that do.
    """
    read: dict[str, tuple[str | None, int]] = json.loads(cursor) if cursor else {}
    lines: list[LogLine] = []
    for stream in _streams(client, group, job):
        host = stream.removeprefix(f"{job}/").partition("/")[0].rpartition("-")[0]
        token, count = read.get(stream, (None, 0))
        texts, token = _read_stream(client, group, stream, token, count)
        lines += [LogLine(host, text) for text in texts]
        read[stream] = token, count + len(texts)
    return lines, json.dumps(read)


def log_page(region: str, job: str, group: str = GROUP) -> str:
    """The console's page with a job's streams."""
    # The console escapes twice, with $ for %.
    escaped = quote(quote(group, safe=""), safe="").replace("%", "$")
    prefix = quote("?logStreamNameFilter=", safe="").replace("%", "$") + job
    return (
        f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#logsV2:log-groups/log-group/{escaped}{prefix}$252F"
    )


def _streams(client: Any, group: str, job: str) -> list[str]:
    """The names of the job's streams, by host and then by age."""
    names: list[str] = []
    try:
        with translated(f"list the log streams of {job}"):
            pages = client.get_paginator("describe_log_streams").paginate(
                logGroupName=group, logStreamNamePrefix=f"{job}/"
            )
            names = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
    except AwsError as error:
        # The account's first job makes the group.
        if error.code != "ResourceNotFoundException":
            raise
    return sorted(names, key=lambda name: (len(name), name))


def _read_stream(
    client: Any, group: str, stream: str, token: str | None, count: int
) -> tuple[list[str], str | None]:
    """The lines after a token, which stands behind the first `count` lines, and the next token."""
    lines: list[str] = []
    try:
        for page in _pages(client, group, stream, token):
            lines += [event["message"].removesuffix("\n") for event in page["events"]]
            token = page["nextForwardToken"]
    except AwsError as error:
        if token is None or error.code != "InvalidParameterException":
            raise
        # A token lasts for a day, and a host may be silent for longer.
        lines, token = _read_stream(client, group, stream, None, 0)
        return lines[count:], token
    return lines, token


def _pages(client: Any, group: str, stream: str, token: str | None) -> Iterator[dict[str, Any]]:
    """Pages up to the end, which is where a token leads to itself; a page may be empty before it."""
    while True:
        request = {"nextToken": token} if token is not None else {}
        try:
            with translated(f"read the log stream {stream}"):
                page = client.get_log_events(
                    logGroupName=group, logStreamName=stream, startFromHead=True, **request
                )
        except AwsError as error:
            if error.code != "ResourceNotFoundException":
                raise
            return
        yield page
        if page["nextForwardToken"] == token:
            return
        token = page["nextForwardToken"]
