"""What questions may cost: prices, a budget in tokens and money, and the account that keeps to it."""

from collections.abc import Iterable
from dataclasses import dataclass

from sf_sagemaker.serving.bedrock import Reply
from sf_sagemaker.serving.errors import ServingError

_MILLION = 1e6


class InvalidBudget(ServingError):
    """A budget that bounds nothing, or bounds money without prices."""


@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens, in any currency; `batch` is what a batch costs of them."""

    input_per_million: float
    output_per_million: float
    batch: float = 0.5

    def cost(self, input_tokens: float, output_tokens: float, *, batch: bool = False) -> float:
        cost = input_tokens * self.input_per_million + output_tokens * self.output_per_million
        return cost / _MILLION * (self.batch if batch else 1.0)

    def cost_of(self, reply: Reply) -> float:
        return self.cost(reply.input_tokens, reply.output_tokens, batch=reply.batch)


@dataclass(frozen=True)
class Budget:
    """The most that may be spent: `tokens`, read and written together, and `cost` by the prices."""

    tokens: int | None = None
    cost: float | None = None
    prices: Prices | None = None

    def __post_init__(self) -> None:
        if self.tokens is None and self.cost is None:
            raise InvalidBudget("a budget needs tokens, cost, or both")
        if self.cost is not None and self.prices is None:
            raise InvalidBudget("a budget's cost can be kept with prices only: give them too")


@dataclass(frozen=True)
class Expected:
    """What questions are expected to take at most."""

    input_tokens: float
    output_tokens: float
    batch: bool = False


class Account:
    """What was spent, and what is set aside for questions that are under way. For one thread.

    What is set aside counts as spent until the true usage is known, so the budget is overspent only by
    as much as questions under way take more than was set aside for them.
    """

    def __init__(self, budget: Budget, spent: Iterable[Reply] = ()) -> None:
        self.budget = budget
        self.tokens = 0.0
        self.cost = 0.0
        self._aside: list[Expected] = []
        for reply in spent:
            self.spend(reply)

    def spend(self, reply: Reply) -> None:
        self.tokens += reply.tokens
        if self.budget.prices is not None:
            self.cost += self.budget.prices.cost_of(reply)

    def set_aside(self, expected: Expected) -> bool:
        """Whether the budget has room for it; then it is set aside."""
        if not self.allows(expected):
            return False
        self._aside.append(expected)
        return True

    def release(self, expected: Expected) -> None:
        self._aside.remove(expected)

    def allows(self, expected: Expected) -> bool:
        """Whether the budget has room for it, beside all that is spent and set aside."""
        counted = [*self._aside, expected]
        tokens = sum(one.input_tokens + one.output_tokens for one in counted)
        if self.budget.tokens is not None and self.tokens + tokens > self.budget.tokens:
            return False
        if self.budget.cost is None or self.budget.prices is None:
            return True
        cost = sum(
            self.budget.prices.cost(one.input_tokens, one.output_tokens, batch=one.batch)
            for one in counted
        )
        return self.cost + cost <= self.budget.cost
