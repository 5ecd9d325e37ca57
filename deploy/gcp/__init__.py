"""Clients of Google's APIs for one project and region. No other module of `deploy` but `buckets` calls Google."""
