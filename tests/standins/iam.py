"""What IAM policies allow, and IAM's own answer to that question.

Of the language of policies, what deploy/iam uses; anything else is an error, so that a policy isn't
taken to allow what it doesn't.
"""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Action:
    """One thing to be allowed: an action on a resource, with the condition keys of the request."""

    name: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def allows(policies: Sequence[Policy], action: Action) -> bool:
    """Whether policies allow an action, as IAM decides: any Deny beats every Allow."""
    effects = {statement["Effect"] for _, statement in matching(policies, action)}
    return "Allow" in effects and "Deny" not in effects


def matching(policies: Sequence[Policy], action: Action) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The statements that speak of an action, with the action's name as each writes it."""
    for policy in policies:
        for statement in policy["Statement"]:
            unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
            assert not unknown, f"the evaluator doesn't know {unknown}"
            named = [
                one
                for one in listed(statement["Action"])
                if _like(one.lower(), action.name.lower())
            ]
            if not named or not any(
                _like(one, action.resource) for one in listed(statement["Resource"])
            ):
                continue
            if _holds(statement.get("Condition", {}), action.context):
                yield named[0], statement


def _holds(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    return all(
        _compares(operator, listed(wanted), context.get(key))
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    )


def _compares(operator: str, wanted: Sequence[str], found: str | None) -> bool:
    if operator.endswith("IfExists"):
        if found is None:
            return True
        operator = operator.removesuffix("IfExists")
    if found is None:
        return False
    if operator == "StringEquals":
        return found in wanted
    if operator == "StringLike":
        return any(_like(one, found) for one in wanted)
    raise AssertionError(f"the evaluator doesn't know the operator {operator}")


def _like(pattern: str, text: str) -> bool:
    """IAM's wildcards: * and ?, and nothing else."""
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), text) is not None


@contextmanager
def simulation(principals: Mapping[str, Sequence[Policy]]) -> Iterator[None]:
    """Lets moto's IAM answer SimulatePrincipalPolicy for principals with these policies."""

    def simulate_principal_policy(self: IamResponse) -> ActionResult:
        policies = principals[self._get_param("PolicySourceArn")]
        context = {
            entry["ContextKeyName"]: entry["ContextKeyValues"][0]
            for entry in self._get_param("ContextEntries", [])
        }
        results = [
            {
                "EvalActionName": name,
                "EvalResourceName": resource,
                "EvalDecision": "allowed"
                if allows(policies, Action(name, resource, context))
                else "implicitDeny",
            }
            for name in self._get_param("ActionNames")
            for resource in self._get_param("ResourceArns", ["*"])
        ]
        return ActionResult({"EvaluationResults": results, "IsTruncated": False})

    with patch.object(
        IamResponse, "simulate_principal_policy", simulate_principal_policy, create=True
    ):
        yield
