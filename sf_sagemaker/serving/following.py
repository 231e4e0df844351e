"""Whether an endpoint has to be deployed to, so that it serves the champion: decided from how both are.

The decision looks at states, not at changes: what was missed while nobody looked is made up for.
"""

from dataclasses import dataclass

from sf_sagemaker.serving.endpoint import EndpointDescription, EndpointState

MAX_RUNS = 3  # for one cause, after which a person has to act


@dataclass(frozen=True)
class Standing:
    """The champion's label (None without one), and the endpoint (None before the first deployment)."""

    champion: str | None
    endpoint: EndpointDescription | None


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


def cause_of(standing: Standing) -> Cause | None:
    """Why the endpoint doesn't serve the champion and should; None where all is as it should be."""
    champion, endpoint = standing.champion, standing.endpoint
    if champion is None or (endpoint is not None and endpoint.state is EndpointState.STOPPED):
        return None
    if endpoint is None:
        return Cause(champion, f"the champion is {champion}, and nothing was deployed yet")
    if endpoint.version != champion:
        return Cause(champion, f"the champion is {champion}, and {endpoint.version} is deployed")
    if endpoint.state is EndpointState.FAILED:
        since = endpoint.since.isoformat() if endpoint.since else "never"
        # A deployment that succeeds begins another time in service, and so another episode.
        return Cause(f"{champion} since {since}", f"{champion} is down: {endpoint.failure}")
    return None


def decide(standing: Standing, cause: Cause | None, *, running: bool, failed_runs: int) -> Decision:
    """`running` says that a run for the cause is on its way, `failed_runs` how many came to nothing."""
    if cause is None:
        return Decision(False, _as_it_should_be(standing))
    if running:
        return Decision(False, f"{cause.reason}; a run is deploying")
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
    assert endpoint is not None
    if endpoint.state is EndpointState.STOPPED:
        return "the endpoint was stopped by a person: materialize it to start it again"
    since = f" since {endpoint.since:%Y-%m-%d %H:%M:%S}" if endpoint.since else ""
    return f"{endpoint.version} is {endpoint.state}{since}, restarted {endpoint.restarts} times"
