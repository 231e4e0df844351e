"""Whether an endpoint has to be deployed to, so that it serves the champion: decided from how both are.

The decision looks at states, not at changes: what was missed while nobody looked is made up for. The
first deployment, which may cost money from then on, is a person's, who makes it or approves it; so is
starting an endpoint again that a person stopped.
"""

from dataclasses import dataclass

from sf_sagemaker.serving.endpoint import (
    Approval,
    EndpointDescription,
    EndpointState,
    Review,
    training_job_of,
)

MAX_RUNS = 3  # for one cause, after which a person has to act


@dataclass(frozen=True)
class Standing:
    """The champion's label (None without one), and the endpoint (None where there is none).

    `review` is what was said about deploying the champion, where a person is asked and was.
    `deployed_before` says that a deployment has succeeded once.
    """

    champion: str | None
    endpoint: EndpointDescription | None
    review: Review | None = None
    deployed_before: bool = False


@dataclass(frozen=True)
class Cause:
    """Why a deployment is due. `episode` is the same as long as it is the same cause."""

    episode: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """Whether to deploy, and what a person reads about it. `alert` asks for that person."""

    deploy: bool
    reason: str
    alert: bool = False


def episode_of(champion: str, *, approved: bool) -> str:
    """The episode of deploying a champion. What a person approved is another cause than what nobody
    had approved yet."""
    return f"{champion} approved" if approved else champion


def cause_of(standing: Standing) -> Cause | None:
    """Why the endpoint doesn't serve the champion and should; None where all is as it should be.

    A later version of the log that is the model in service again, after a rollback, is in service.
    """
    champion, endpoint, review = standing.champion, standing.endpoint, standing.review
    if champion is None:
        return None
    approved = review is not None and review.approval is Approval.APPROVED
    episode = episode_of(champion, approved=approved)
    if endpoint is None:
        if review is None or standing.deployed_before:
            return None
        return Cause(episode, f"the champion is {champion}, and nothing was deployed yet")
    if endpoint.state is EndpointState.STOPPED:
        return None
    if endpoint.version is None or training_job_of(endpoint.version) != training_job_of(champion):
        return Cause(episode, f"the champion is {champion}, and {endpoint.version} is deployed")
    if endpoint.state is EndpointState.FAILED:
        since = endpoint.since.isoformat() if endpoint.since else "never"
        # A deployment that succeeds begins another time in service, and so another episode.
        return Cause(f"{champion} since {since}", f"{champion} is down: {endpoint.failure}")
    return None


def decide(
    standing: Standing,
    cause: Cause | None,
    *,
    running: bool,
    failed_runs: int,
    gave_up: str | None = None,
) -> Decision:
    """`running` says that a run for the cause is on its way, `failed_runs` how many came to nothing, and
    `gave_up` why another one must not be tried."""
    if cause is None:
        return Decision(False, _as_it_should_be(standing))
    if running:
        return Decision(False, f"{cause.reason}; a run is deploying")
    review = standing.review
    if review is not None and review.approval is Approval.PENDING:
        return Decision(False, f"{cause.reason}; it waits for a person to approve {review.place}")
    if review is not None and review.approval is Approval.REJECTED:
        remark = f" ({review.remark})" if review.remark else ""
        return Decision(False, f"{cause.reason}; {review.place} was rejected{remark}", alert=True)
    if gave_up is not None:
        return Decision(
            False,
            f"{cause.reason}; {gave_up}: make another model champion, or materialize the endpoint to "
            "try again",
            alert=True,
        )
    if standing.endpoint is None and failed_runs:
        return Decision(False, _as_it_should_be(standing))
    if failed_runs >= MAX_RUNS:
        return Decision(
            False,
            f"{cause.reason}; {failed_runs} runs have failed to change that: see why, and materialize "
            "the endpoint",
            alert=True,
        )
    return Decision(True, cause.reason)


def _as_it_should_be(standing: Standing) -> str:
    if standing.champion is None:
        return "there is no champion yet"
    endpoint = standing.endpoint
    if endpoint is None and not standing.deployed_before:
        return (
            "nothing was deployed yet: materialize the endpoint once, and it follows the champion"
        )
    if endpoint is None or endpoint.state is EndpointState.STOPPED:
        return "the endpoint was stopped by a person: materialize it to start it again"
    since = f" since {endpoint.since:%Y-%m-%d %H:%M:%S}" if endpoint.since else ""
    return f"{endpoint.version} is {endpoint.state}{since}, restarted {endpoint.restarts} times"
