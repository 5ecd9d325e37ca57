"""Programs for authors of models: make new, make check, make export and make page."""
