"""The root of every error that code in a training container raises on purpose."""


class ContainerError(Exception):
    """An error whose message says what was found, what was expected and what to do.

    Its message, without a stack trace, is what the job's failure file says. The root is this
    package's own, because the package travels into the container without the rest of the project.
    """
