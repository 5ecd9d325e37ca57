"""Why a model cannot be served."""


class ServingError(Exception):
    """The base of this package's errors; the text is one sentence for the user."""


class ArchiveError(ServingError):
    """An archive, or what is to become one, cannot be served."""
