"""The telemetry process: metrics and traces by OpenTelemetry. It runs beside the server.

    nginx, workers ─→ totals, in files ────────────────────────→ metrics ─→ Prometheus, OTLP
                  └─→ a datagram per sampled request and batch ─→ events ─→ traces ─→ OTLP

Nginx and the workers never wait for it. Datagrams that it cannot keep up with are dropped and
counted. It runs only if METRICS_PORT or OTEL_EXPORTER_OTLP_ENDPOINT is set.
"""
