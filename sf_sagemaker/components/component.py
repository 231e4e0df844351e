"""What all components share: mistakes in a defs.yaml are located, down to the attribute's line."""

from collections.abc import Iterator
from typing import Any, Self, get_args

import dagster as dg
from dagster.components.resolved.errors import ResolutionException
from pydantic import BaseModel, ValidationError, field_validator
from pydantic_core import ErrorDetails

from sf_sagemaker.components.errors import InvalidAttribute, invalid_attribute


class Component(dg.Component, dg.Model, dg.Resolvable):
    """A component whose attributes are validated with the line of each mistake.

    dg itself locates what its schema of the attributes can tell: unknown names, missing ones and
    wrong types of nested values. What the attributes' own validators find is located here.
    """

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component of a defs.yaml. Raises InvalidAttribute."""
        try:
            return super().load(attributes, context)
        except (ValidationError, ResolutionException) as error:
            invalid = _validation_error(error)
            if invalid is None:
                raise
            mistakes = [str(mistake) for mistake in _locate(cls, invalid, context)]
            raise InvalidAttribute("\n".join(mistakes)) from None


def within(
    *names: str,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Any:
    """A validator that keeps the named number attributes within bounds.

    Bounds given to pydantic's Field would end up in the schema that dg derives, where every
    attribute may also be a template string, and fail on strings without saying where.
    """
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            ("greater than", above),
            ("at least", least),
            ("less than", below),
            ("at most", most),
        )
        if bound is not None
    ]

    def check(value: float | None) -> float | None:
        if value is None:
            return value
        inside = (
            (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
            and (most is None or value <= most)
        )
        if not inside:
            raise ValueError(f"must be {' and '.join(bounds)}")
        return value

    return field_validator(*names)(check)


def _validation_error(error: BaseException | None) -> ValidationError | None:
    while error is not None and not isinstance(error, ValidationError):
        error = error.__cause__ or error.__context__
    return error


def _locate(
    component: type[BaseModel], error: ValidationError, context: dg.ComponentLoadContext
) -> Iterator[InvalidAttribute]:
    prefix = _path_to(component, error.title) or ()
    for details in error.errors():
        attribute = ".".join(str(part) for part in (*prefix, *details["loc"]))
        yield invalid_attribute(context, attribute, _explain(details))


def _explain(details: ErrorDetails) -> str:
    message = details["msg"].removeprefix("Value error, ")
    return (
        message if isinstance(details["input"], dict) else f"{message}; found {details['input']!r}"
    )


def _path_to(model: type[BaseModel], title: str) -> tuple[str, ...] | None:
    """The attribute names from `model` down to the nested model of that class name."""
    if model.__name__ == title:
        return ()
    for name, field in model.model_fields.items():
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                below = _path_to(candidate, title)
                if below is not None:
                    return (name, *below)
    return None
