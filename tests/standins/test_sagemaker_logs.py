"""Log lines of jobs in CloudWatch Logs."""

from typing import Any

from standins.sagemaker import SageMakerService
from standins.sagemaker.examples import training_request
from standins.sagemaker.logs import GROUP
from waiting import wait_until

SLOW = "import time\nprint('first')\ntime.sleep(2)\nprint('last')\n"


def create(service: SageMakerService, name: str, script: str, **options: Any) -> None:
    request = training_request(service, name, script, **options)
    service.client("sagemaker").create_training_job(**request)


def streams(service: SageMakerService, job: str) -> list[str]:
    pages = service.client("logs").get_paginator("describe_log_streams")
    return [
        stream["logStreamName"]
        for page in pages.paginate(logGroupName=GROUP, logStreamNamePrefix=f"{job}/")
        for stream in page["logStreams"]
    ]


def read(service: SageMakerService, stream: str, token: str | None = None) -> dict[str, Any]:
    options = {"nextToken": token} if token else {}
    return service.client("logs").get_log_events(
        logGroupName=GROUP, logStreamName=stream, startFromHead=True, limit=2, **options
    )


def messages(page: dict[str, Any]) -> list[str]:
    return [event["message"] for event in page["events"]]


def test_lines_arrive_while_the_job_runs(service: SageMakerService) -> None:
    create(service, "live", SLOW)
    wait_until(lambda: service.log("live") == ["first"])
    assert service.jobs["live"].status == "InProgress"
    service.jobs.wait("live")
    service.flush_logs()
    assert service.log("live") == ["first", "last"]


def test_lines_arrive_after_the_end_when_delivery_is_slow(service: SageMakerService) -> None:
    service.settings.log_delay_seconds = 1.5
    create(service, "late", "print('one')\nprint()\nprint('two')\n")
    service.jobs.wait("late")
    assert service.log("late") == []
    (stream,) = streams(service, "late")
    assert messages(read(service, stream)) == []
    service.flush_logs()
    assert messages(read(service, stream)) == ["one", "two"]


def test_each_host_has_a_stream(service: SageMakerService) -> None:
    create(service, "hosts", "print('hello')\n", instances=2)
    service.jobs.wait("hosts")
    first, second = streams(service, "hosts")
    assert first.startswith("hosts/algo-1-")
    assert second.startswith("hosts/algo-2-")


def test_pages_of_a_stream(service: SageMakerService) -> None:
    create(
        service, "pages", "import sys\nfor n in range(3): print(n)\nprint('e', file=sys.stderr)\n"
    )
    service.jobs.wait("pages")
    service.flush_logs()
    (stream,) = streams(service, "pages")

    first = read(service, stream)
    second = read(service, stream, first["nextForwardToken"])
    end = read(service, stream, second["nextForwardToken"])
    assert messages(first) == ["0", "1"]
    assert messages(second) == ["2", "e"]
    assert messages(end) == []
    assert end["nextForwardToken"] == second["nextForwardToken"]

    service.faults.empty_log_pages()
    empty = read(service, stream, first["nextForwardToken"])
    assert messages(empty) == []
    assert empty["nextForwardToken"] != first["nextForwardToken"]
    assert messages(read(service, stream, empty["nextForwardToken"])) == ["2", "e"]


def test_events_can_be_filtered_over_all_hosts(service: SageMakerService) -> None:
    create(service, "filtered", "print('hello')\n", instances=2)
    service.jobs.wait("filtered")
    service.flush_logs()
    events = service.client("logs").filter_log_events(
        logGroupName=GROUP, logStreamNamePrefix="filtered/"
    )["events"]
    assert [event["message"] for event in events] == ["hello", "hello"]
    assert {event["logStreamName"] for event in events} == set(streams(service, "filtered"))

    create(service, "filtered-more", "for n in range(5): print('line', n)\n")
    service.jobs.wait("filtered-more")
    service.flush_logs()
    pages = service.client("logs").get_paginator("filter_log_events")
    found = [
        [event["message"] for event in page["events"]]
        for page in pages.paginate(
            logGroupName=GROUP,
            logStreamNames=streams(service, "filtered-more"),
            filterPattern="line",
            PaginationConfig={"PageSize": 2},
        )
    ]
    assert found == [["line 0", "line 1"], ["line 2", "line 3"], ["line 4"]]


def test_long_lines_are_several_events(service: SageMakerService) -> None:
    create(service, "wide", "print('x' * 600_000)\n")
    service.jobs.wait("wide")
    service.flush_logs()
    lines = service.log("wide")
    assert len(lines) == 3
    assert "".join(lines) == "x" * 600_000
