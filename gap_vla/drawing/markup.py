"""Pages for a browser, from jinja2 templates, and tables as text and Markdown. A page is one file that fetches nothing.

A template is named by its path below `gap_vla`; it begins with `{% extends "drawing/templates/page.html" %}` and takes
`table`, `film`, … from `drawing/templates/parts.html`. What is not `Markup` is escaped.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gap_vla.core.files import replacing

PARTS = "drawing/templates/parts.html"


@functools.cache
def _templates() -> jinja2.Environment:
    folder = Path(__file__).parents[1]
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def render(template: str, **values: Any) -> str:
    """A page: the template with these values."""
    return _templates().get_template(template).render(values)


def save_page(path: Path, template: str, **values: Any) -> Path:
    """Writes `render`."""
    with replacing(path) as temporary:
        temporary.write_text(render(template, **values), encoding="utf-8")
    return path


def part(name: str, *values: Any, **named: Any) -> Markup:
    """A piece of a page: the macro `name` of `parts.html`."""
    return getattr(_templates().get_template(PARTS).module, name)(*values, **named)


def html_table(rows: Sequence[Sequence[Any]]) -> Markup:
    """A table of cells, the heading first."""
    return part("table", rows)


def note(text: str) -> Markup:
    return Markup('<p class="note">{}</p>').format(text)


def command_block(text: str) -> Markup:
    return Markup("<pre>{}</pre>").format(text)


def data_uri(content: bytes, kind: str) -> str:
    """
    >>> data_uri(b"x", "image/png")
    'data:image/png;base64,eA=='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for the macro `facts`: lists in a line, numbers with three decimals, nothing as a dash."""

    def shown(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value))
        return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else value

    return {name: shown(value) for name, value in facts.items()}


def untagged(text: str) -> str:
    """Markdown on one line in which nothing is a tag or a comment of HTML.

    >>> untagged("open < 1 cm, <b>, <!-- end -->")
    'open < 1 cm, &lt;b>, &lt;!-- end -->'
    """
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.splitlines()))


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """
    >>> print(markdown_table([["task", "success"], ["assembly", "94"]]))
    | task | success |
    |---|---|
    | assembly | 94 |
    """
    heading, *rest = ["| " + " | ".join(untagged(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([heading, "|" + "---|" * len(rows[0]), *rest])


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal; a row may end early.

    >>> print(text_table([["task", "success"], ["assembly", "94"]]))
    task      success
    assembly  94
    """
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
