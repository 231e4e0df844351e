"""The errors that code in a training container raises on purpose: the root and common ones."""


class ContainerError(Exception):
    """An error whose message says what was found, what was expected and what to do.

    Its message, without a stack trace, is what the job's failure file says. The root is this
    package's own, because the package travels into the container without the rest of the project.
    """


class ModelUnusable(ContainerError):
    """A model whose file is missing or broken."""


class VersionMismatch(ContainerError):
    """A model of another version of its library, which may load and still predict otherwise."""


class GoldenRowMismatch(ContainerError):
    """A model that doesn't predict what it did when it was trained."""
