"""The base class of the errors that end `make serve`, `make migrate` or the container."""


class ServingError(Exception):
    """An error whose text is one sentence for the user."""


class ArchiveError(ServingError):
    """An archive cannot be built or served."""
