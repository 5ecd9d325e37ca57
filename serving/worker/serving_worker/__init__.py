"""The process that runs a model: messages, requests, telemetry and logs of one worker."""
