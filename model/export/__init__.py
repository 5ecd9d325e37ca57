"""python -m model.export: the fastest engine that keeps the answers. It stays at home."""
