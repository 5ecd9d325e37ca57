"""The errors of this package: each program prints the text as its last line and ends."""


class ServingError(Exception):
    """An error whose text is one sentence for the user."""


class ArchiveError(ServingError):
    """An archive cannot be built or served."""
