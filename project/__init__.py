"""Which model a command is about, and where its files are: MODEL=name, MODEL=../folder or MODEL=file.mar.

This package uses only the standard library, so that every program of the project can import it; requirements.py also
needs `packaging`.
"""
