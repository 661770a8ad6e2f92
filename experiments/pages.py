"""Generated parts of Markdown pages, between markers."""

from __future__ import annotations

from pathlib import Path

from gap_vla.core.errors import UserError
from gap_vla.core.files import replacing


def replace_between(page: Path, name: str, generated: str) -> None:
    """Puts `generated` between the page's markers of that name; what people wrote around them stays.

    A page without the markers gets them at its end. Raises UserError: only one of the two is there.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    if (begin in text) != (end in text):
        raise UserError(f"{page}: of the lines {begin!r} and {end!r} one is missing")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2] or "\n"
    with replacing(page) as temporary:
        temporary.write_text(f"{before.rstrip()}\n\n{begin}\n\n{generated}\n\n{end}{after}", encoding="utf-8")
