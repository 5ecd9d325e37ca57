"""The error of the programs that write a model."""


class NewModelError(Exception):
    """The model cannot be written. The text says why, and what to do."""
