"""When an endpoint is deployed to, where a person is asked, and after alarms."""

from datetime import UTC, datetime

from sf_sagemaker.serving.endpoint import Approval, EndpointDescription, EndpointState, Review
from sf_sagemaker.serving.following import Decision, Standing, cause_of, decide

SERVED = EndpointDescription(
    name="houses",
    state=EndpointState.IN_SERVICE,
    address="https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints/houses/invocations",
    version="1/job-1",
    since=datetime(2024, 1, 1, tzinfo=UTC),
)
PENDING, APPROVED = Review(Approval.PENDING, "package 2"), Review(Approval.APPROVED, "package 2")


def decision(standing: Standing, failed_runs: int = 0, gave_up: str | None = None) -> Decision:
    return decide(
        standing, cause_of(standing), running=False, failed_runs=failed_runs, gave_up=gave_up
    )


def test_the_same_model_as_a_later_version_is_in_service() -> None:
    assert cause_of(Standing("3/job-1", SERVED)) is None
    assert cause_of(Standing("3/job-2", SERVED)) is not None


def test_what_waits_for_a_person_is_not_tried() -> None:
    waiting = decision(Standing("2/job-2", SERVED, PENDING), failed_runs=1)
    assert not waiting.deploy
    assert "waits for a person to approve package 2" in waiting.reason
    assert not waiting.alert


def test_what_a_person_approves_is_deployed_however_often_it_waited() -> None:
    before = cause_of(Standing("2/job-2", SERVED, PENDING))
    after = cause_of(Standing("2/job-2", SERVED, APPROVED))
    assert before is not None
    assert after is not None
    assert before.episode != after.episode  # so that runs which found it waiting don't count
    assert decision(Standing("2/job-2", SERVED, APPROVED)).deploy


def test_what_a_person_rejected_is_shown_and_not_tried() -> None:
    rejected = Review(Approval.REJECTED, "package 2", "too dear")
    shown = decision(Standing("2/job-2", SERVED, rejected))
    assert not shown.deploy
    assert shown.alert
    assert "package 2 was rejected (too dear)" in shown.reason


def test_a_first_deployment_that_was_approved_is_made_once() -> None:
    assert not decision(Standing("2/job-2", None)).deploy
    assert not decision(Standing("2/job-2", None, PENDING)).deploy
    assert decision(Standing("2/job-2", None, APPROVED)).deploy
    # It was deployed and stopped, or failed: a person's turn.
    assert not decision(Standing("2/job-2", None, APPROVED), failed_runs=1).deploy


def test_what_alarms_rolled_back_is_not_tried_again() -> None:
    stays = decision(Standing("2/job-2", SERVED), failed_runs=1, gave_up="rolled back by an alarm")
    assert not stays.deploy
    assert stays.alert
    assert "rolled back by an alarm: make another model champion" in stays.reason
