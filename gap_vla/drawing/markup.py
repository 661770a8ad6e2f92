"""Pieces of HTML that the report is made of; every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence


def command_block(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def chart_image(uri: str | None, alt: str) -> str:
    return f'<img class="chart" alt="{html.escape(alt)}" src="{uri}">' if uri else ""


def html_table(rows: Sequence[Sequence[str]]) -> str:
    heading, *rest = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rest)
    return f'<div class="wide"><table><tr>{cells}</tr>{lines}</table></div>'
