"""Tables between marks in a Markdown page: ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""

import os
from pathlib import Path


def filled(page: str, name: str, text: str) -> str:
    """The page with ``text`` between its marks of this name.

    Raises:
        ValueError: if it has none.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"the page has no place for the table: put it between {begin} and {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def write_between(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks of this name in a file; the file is whole at any moment.

    Raises:
        ValueError: if the file has no such marks.
    """
    try:
        page = filled(path.read_text(encoding="utf-8"), name, text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    writing = path.with_name(path.name + ".writing")
    writing.write_text(page, encoding="utf-8")
    os.replace(writing, path)
