"""Programs for whoever writes a model: make new, make check, make export and make page."""
