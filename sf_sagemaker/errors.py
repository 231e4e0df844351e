"""The root of every error that this project raises on purpose."""


class SfSagemakerError(Exception):
    """An error whose message says what was found, what was expected and what to do.

    Each room derives its own types from it, in its `errors.py`, and raises them where the
    cause is known. Anything else that surfaces is a defect or the platform's own error.
    """

    permanent = False
    """Whether trying the same again is no use, so that nothing should."""
