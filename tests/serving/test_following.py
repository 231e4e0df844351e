"""When an endpoint is deployed to."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sf_sagemaker.serving.endpoint import (
    Approval,
    EndpointDescription,
    EndpointState,
    Review,
)
from sf_sagemaker.serving.following import MAX_RUNS, Cause, Decision, Standing, cause_of, decide

SERVED = EndpointDescription(
    name="houses",
    state=EndpointState.IN_SERVICE,
    address="http://127.0.0.1:8090/invocations",
    version="1/job-1",
    since=datetime(2024, 1, 1, tzinfo=UTC),
)


def decision(standing: Standing, *, running: bool = False, failed_runs: int = 0) -> Decision:
    return decide(standing, cause_of(standing), running=running, failed_runs=failed_runs)


def test_nothing_is_due_where_the_champion_answers() -> None:
    for state in (EndpointState.IN_SERVICE, EndpointState.RESTARTING, EndpointState.UPDATING):
        standing = Standing("1/job-1", replace(SERVED, state=state))
        assert cause_of(standing) is None
        assert str(state) in decision(standing).reason
    assert decision(Standing(None, None)) == Decision(False, "there is no champion yet")


def test_the_first_deployment_is_a_persons() -> None:
    first = decision(Standing("1/job-1", None))
    assert not first.deploy
    assert "materialize the endpoint once" in first.reason


def test_another_champion_is_deployed() -> None:
    changed = decision(Standing("2/job-2", SERVED))
    assert changed.deploy
    assert changed.reason == "the champion is 2/job-2, and 1/job-1 is deployed"


def test_an_endpoint_that_is_down_is_a_cause_until_it_is_back() -> None:
    down = replace(SERVED, state=EndpointState.FAILED, failure="its supervisor is gone")
    cause = cause_of(Standing("1/job-1", down))
    assert cause is not None
    assert "supervisor is gone" in cause.reason
    # Looked at again it is the same cause; after another time in service it is another.
    assert cause_of(Standing("1/job-1", replace(down, failure="still gone"))) == Cause(
        cause.episode, "1/job-1 is down: still gone"
    )
    later = replace(down, since=datetime(2024, 1, 2, tzinfo=UTC))
    another = cause_of(Standing("1/job-1", later))
    assert another is not None
    assert another.episode != cause.episode


@pytest.mark.parametrize("champion", ["1/job-1", "2/job-2"])
def test_an_endpoint_that_a_person_stopped_is_left_alone(champion: str) -> None:
    standing = Standing(champion, replace(SERVED, state=EndpointState.STOPPED))
    assert not decision(standing).deploy
    assert "materialize it to start it again" in decision(standing).reason


def test_what_a_person_approved_is_started_once() -> None:
    approved = Review(Approval.APPROVED, "a package")
    assert decision(Standing("1/job-1", None, approved)).deploy
    for champion in ("1/job-1", "2/job-1", "2/job-2"):
        stopped = Standing(champion, None, approved, deployed_before=True)
        assert not decision(stopped).deploy
        assert "materialize it to start it again" in decision(stopped).reason


def test_one_run_at_a_time_and_so_many_in_all() -> None:
    standing = Standing("2/job-2", SERVED)
    assert not decision(standing, running=True).deploy
    assert decision(standing, failed_runs=MAX_RUNS - 1).deploy
    last = decision(standing, failed_runs=MAX_RUNS)
    assert (last.deploy, last.alert) == (False, True)
    assert "3 runs have failed" in last.reason
