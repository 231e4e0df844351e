"""How the service behaves where AWS's behaviour varies, or takes longer than a test may."""

from dataclasses import dataclass


@dataclass
class Settings:
    """Every field may be changed while the service runs; jobs look when they need it.

    `starting_seconds`, `downloading_seconds`, `uploading_seconds`: the least time that a job spends
    so. `stop_grace_seconds`: from SIGTERM to SIGKILL, 120 at AWS. `log_delay_seconds`: how late a
    line is in CloudWatch Logs. `hidden_seconds`: how long a new job is unknown to every operation
    but CreateTrainingJob. `restart_seconds`: how long interrupted spot instances are away.
    `spot_share`: the share of the training time of spot instances that is billed. `parallel_jobs`:
    how many jobs have instances at a time (None: all); others stay Starting. `tagging_delay_seconds`:
    how late a job is known to the tagging API. `endpoint_seconds`: the least time that an endpoint takes
    for instances; `health_seconds`: how long its container may fail its pings; `retire_seconds`: how long
    a fleet that is no longer needed may go on with its requests. `forget_failure_reason`: an endpoint
    that was rolled back doesn't say why. `stale_seconds`: how long an update is unknown to
    DescribeEndpoint.
    """

    starting_seconds: float = 0.0
    downloading_seconds: float = 0.0
    uploading_seconds: float = 0.0
    stop_grace_seconds: float = 120.0
    log_delay_seconds: float = 0.0
    hidden_seconds: float = 0.0
    restart_seconds: float = 0.0
    checkpoint_sync_seconds: float = 0.2
    tagging_delay_seconds: float = 0.0
    spot_share: float = 0.3
    parallel_jobs: int | None = None
    endpoint_seconds: float = 0.0
    health_seconds: float = 20.0
    retire_seconds: float = 10.0
    forget_failure_reason: bool = False
    stale_seconds: float = 0.0
