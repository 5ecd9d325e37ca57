"""Tests of the dashboard and the alerts in deploy/monitoring."""
