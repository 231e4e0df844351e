"""What all components share: mistakes in a defs.yaml are located, down to the attribute's line."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Self, get_args

import dagster as dg
from dagster.components.resolved.errors import ResolutionException
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from sf_sagemaker.components.errors import (
    InvalidAttribute,
    invalid_attribute,
    suggest,
    written_twice,
)


class Attributes(dg.Model, dg.Resolvable):
    """A group of attributes of a defs.yaml.

    Its schema lets unknown names through, for `Component.load` to say which one it is and which
    there are. dg's own check of the schema would only say that the group fits no alternative.
    """

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The schema that dg derives for the attributes, open for names that it doesn't know."""
        if "_open_model" not in cls.__dict__:
            derived = super().model()
            config = ConfigDict(**{**derived.model_config, "extra": "allow"})
            # dg drops the descriptions of attributes that have a default.
            for name, field in cls.model_fields.items():
                derived.model_fields[name].description = field.description
                derived.model_fields[name].examples = field.examples
            cls._open_model = type(derived.__name__, (derived,), {"model_config": config})
        return cls._open_model

    _open_model: ClassVar[type[BaseModel]]


class Component(dg.Component, Attributes):
    """A component whose attributes are validated with the file and the line of each mistake."""

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component of a defs.yaml. Raises InvalidAttribute."""
        unknown = [] if attributes is None else list(_unknown(attributes, ()))
        mistakes = [
            invalid_attribute(
                context,
                ".".join((*path, name)),
                f"there is no such attribute; {suggest(name, allowed)}",
            )
            for path, name, allowed in unknown
        ]
        mistakes += written_twice(context)
        if mistakes:
            raise InvalidAttribute("\n".join(map(str, mistakes)))
        try:
            return super().load(attributes, context)
        except (ValidationError, ResolutionException) as error:
            invalid = _validation_error(error)
            if invalid is None:
                raise
            mistakes = [str(mistake) for mistake in _locate(cls, invalid, context)]
            raise InvalidAttribute("\n".join(mistakes)) from None


def _unknown(
    attributes: BaseModel, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
    """The attributes that no model declares, with their path and the names that are declared."""
    declared = list(type(attributes).model_fields)
    for name in attributes.model_extra or {}:
        yield path, name, declared
    for name in declared:
        value = getattr(attributes, name)
        if isinstance(value, BaseModel):
            yield from _unknown(value, (*path, name))


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


_OWNER = re.compile(r"team:[\w.-]+|[^@\s]+@[^@\s]+\.[^@\s]+")


def owners_validator() -> Any:
    """A validator of the attribute `owners`, which Dagster wants as e-mail addresses or teams."""

    def check(values: list[str]) -> list[str]:
        for value in values:
            if not _OWNER.fullmatch(value):
                raise ValueError(f"{value!r} is neither an e-mail address nor a team, as team:name")
        return values

    return field_validator("owners")(check)


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
