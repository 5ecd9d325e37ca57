"""Errors that end a benchmark; the message says what is wrong and what to do."""


class BenchmarkError(Exception):
    """Base class of the benchmarks' errors."""


class WrkMissingError(BenchmarkError):
    """The load generator wrk is not installed."""


class StartError(BenchmarkError):
    """A server did not become ready, or its requests fail."""


class AnswerError(BenchmarkError):
    """A server does not answer, or predicts otherwise than the model."""
