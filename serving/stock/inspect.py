"""Find what a stock archive needs by reading its files; none of its code is run."""

from collections.abc import Iterator

from serving.stock.changes import check_changes
from serving.stock.contents import Contents, Finding, read_archive
from serving.stock.handlers import check_handler
from serving.stock.imports import Code, check_imports
from serving.stock.packages import check_requirements

__all__ = ["Contents", "Finding", "inspect_archive", "read_archive"]


def inspect_archive(contents: Contents) -> Iterator[Finding]:
    """Yield the findings about an archive."""
    code = Code(contents)
    yield from check_handler(code)
    missing = list(check_imports(code))
    yield from missing
    yield from check_requirements(
        contents, {found.requirement for found in missing if found.requirement}
    )
    yield from check_changes(code)
