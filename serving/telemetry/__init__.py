"""The process beside the server that knows how it fares: metrics and traces, by OpenTelemetry.

    nginx, workers ─→ a datagram for each answer and each batch ─→ facts ─→ instruments ─→ Prometheus, OTLP
                                                                        └─→ spans ─→ OTLP

Nobody waits for it: what it has no time for is lost, and counted. It runs only where METRICS_PORT
or OTEL_EXPORTER_OTLP_ENDPOINT is set.
"""
