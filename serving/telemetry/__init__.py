"""The telemetry process: metrics and traces by OpenTelemetry. It runs beside the server.

    nginx, workers ─→ one datagram per response and per batch ─→ events ─→ metrics ─→ Prometheus, OTLP
                                                                       └─→ traces  ─→ OTLP

Nginx and the workers never wait for it: datagrams that it cannot keep up with are dropped and
counted. It runs only if METRICS_PORT or OTEL_EXPORTER_OTLP_ENDPOINT is set.
"""
