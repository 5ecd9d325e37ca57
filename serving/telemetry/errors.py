"""The telemetry process's errors."""


class TelemetryError(Exception):
    """The base of this package's errors."""


class EventError(TelemetryError):
    """A datagram is not one that nginx or a worker sends."""


class ExportError(TelemetryError):
    """Nothing can be sent to the OTLP endpoint; the text is the reason."""
