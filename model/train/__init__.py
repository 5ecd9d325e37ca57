"""From scans to weights: `python -m model.train`. None of it is served."""
