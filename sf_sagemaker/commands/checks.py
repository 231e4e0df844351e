"""Checks that run one after the other, each of which says what it found or what is missing."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sf_sagemaker.errors import SfSagemakerError

Outcome = Literal["ok", "FAILED", "unknown", "skipped"]


class CheckFailed(SfSagemakerError):
    """Something that is missing or wrong; the message says what to do."""


class NotChecked(SfSagemakerError):
    """Something that this caller may not find out, which doesn't mean that it is wrong."""


@dataclass(frozen=True)
class Check:
    """One step. `find` gives what was found, or raises; it is skipped where one of `needs` isn't ok."""

    name: str
    find: Callable[[], str]
    needs: Sequence[str] = ()


def run_checks(checks: Iterable[Check], say: Callable[[str], None] = print) -> bool:
    """Runs checks in order, says of each how it went, and gives whether none failed.

    A check raises NotChecked where it can't tell, and any other error of the project's own where
    something is wrong.
    """
    outcomes: dict[str, Outcome] = {}
    for check in checks:
        missing = [name for name in check.needs if outcomes.get(name, "ok") != "ok"]
        outcome, text = _run(check, missing)
        outcomes[check.name] = outcome
        first, *more = text.splitlines() or [""]
        say("\n".join([f"{outcome:8} {check.name}: {first}", *(f"{'':9}{line}" for line in more)]))
    failed = [name for name, outcome in outcomes.items() if outcome == "FAILED"]
    unknown = [name for name, outcome in outcomes.items() if outcome == "unknown"]
    if failed:
        say(f"\nMissing or wrong: {', '.join(failed)}")
    if unknown:
        say(f"\nCould not be checked, and may be right: {', '.join(unknown)}")
    if not failed:
        say("\nNothing is missing.")
    return not failed


def _run(check: Check, missing: Sequence[str]) -> tuple[Outcome, str]:
    if missing:
        return "skipped", f"it needs {', '.join(missing)}"
    try:
        return "ok", check.find()
    except NotChecked as unknown:
        return "unknown", str(unknown)
    except SfSagemakerError as wrong:
        return "FAILED", str(wrong)
