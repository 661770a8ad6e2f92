"""Pages for a browser: one shell with one style, pieces of HTML, in which every text is escaped; tables as texts.

A page is one file that fetches nothing.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 20px 24px 64px;
  color: #1c2430; background: #fff; }
h1 { font-size: 22px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 32px 0 8px; }
h3 { font-size: 16px; margin: 24px 0 6px; overflow-wrap: anywhere; }
nav { margin: 10px 0 0; } nav a { margin-right: 16px; } a { color: #2b6fd9; }
table { border-collapse: collapse; margin: 10px 0 16px; font-variant-numeric: tabular-nums; }
td, th { padding: 4px 18px 4px 0; text-align: left; border-bottom: 1px solid #e3e8ee; vertical-align: top; }
th { font-weight: 600; } .error td:first-child { color: #b3261e; font-weight: 600; }
.warning td:first-child { color: #a05a00; }
img { max-width: 100%; } img.chart { height: auto; display: block; margin: 10px 0; }
pre { background: #f5f7fa; padding: 8px 12px; border-radius: 4px; font-size: 13px; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: 8px 0; }
p.note { margin: 0; color: #4a5666; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.bar { background: #eef1f5; width: 18rem; height: .8rem; margin-top: .35rem; }
.bar i { background: #2b6fd9; height: 100%; display: block; }
.videos { display: flex; flex-wrap: wrap; gap: 14px; } figure { margin: 0; width: 240px; }
video { width: 240px; background: #111; display: block; } figcaption { font-size: 13px; color: #4a5666; }
.failure figcaption b { color: #b3261e; } .success figcaption b { color: #1a7f37; }
"""


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""No document may hold these, and a terminal that shows one is steered by them."""


class Html(str):
    """Text that is HTML already. Everything else is escaped."""


def escaped(value: Any) -> str:
    r"""
    >>> escaped("a < b\33[31m"), escaped(Html("<b>"))
    ('a &lt; b\ufffd[31m', '<b>')
    """
    return value if isinstance(value, Html) else html.escape(_CONTROL.sub("\ufffd", str(value)))


def page(title: str, *parts: str, style: str = "", script: str = "") -> str:
    """A whole document: title, which is also its heading, HTML parts one below the other, CSS beside that of every
    page, and JavaScript that runs when all is there.
    """
    name, code = escaped(title), f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}{style}</style></head><body><h1>{name}</h1>"
        f"{''.join(parts)}{code}</body></html>\n"
    )


def note(text: str) -> str:
    return f'<p class="note">{escaped(text)}</p>'


def command_block(text: str) -> str:
    return f"<pre>{escaped(text)}</pre>"


def html_table(rows: Sequence[Sequence[Any]], classes: Sequence[str] = ()) -> str:
    """A table of cells, the heading first; `classes`, such as `error`, are of the rows below it."""
    heading, *rest = rows
    cells = "".join(f"<th>{escaped(cell)}</th>" for cell in heading)
    starts = [f'<tr class="{name}">' for name in classes] or ["<tr>"] * len(rest)
    lines = [
        f"{start}{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>"
        for start, row in zip(starts, rest, strict=True)
    ]
    return f'<div class="wide"><table><tr>{cells}</tr>{"".join(lines)}</table></div>'


def untagged(text: str) -> str:
    """Markdown on one line in which nothing is a tag or a comment of HTML.

    >>> untagged("open < 1 cm, <b>, <!-- end -->")
    'open < 1 cm, &lt;b>, &lt;!-- end -->'
    """
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.splitlines()))


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """What stands in a cell, be it a name from a file, cannot leave it.

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


def fact_table(facts: Mapping[str, Any]) -> str:
    """A line for each fact; lists in a line, mappings in one line for each key."""
    rows = "".join(f"<tr><th>{escaped(name)}</th><td>{_fact(value)}</td></tr>" for name, value in facts.items())
    return f'<div class="wide"><table>{rows}</table></div>'


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(escaped(f"{key}: {one}") for key, one in value.items())
    return escaped(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)


def bar(share: float) -> Html:
    """A share from 0 to 1 as a bar."""
    return Html(f'<div class="bar"><i style="width:{100 * share:.0f}%"></i></div>')


def link(target: str, text: str) -> Html:
    return Html(f'<a href="{escaped(target)}">{escaped(text)}</a>')


def film(source: str, caption: str, outcome: str, after: str = "", *, autoplay: bool = False) -> str:
    """A video that loops, from a path beside the page or a data URI. The caption stands before the outcome, which is
    "success" or "failure", and `after` behind it.
    """
    options = f"{'autoplay ' if autoplay else ''}controls loop muted playsinline"
    return (
        f'<figure class="{escaped(outcome)}"><video {options} src="{escaped(source)}"></video>'
        f"<figcaption>{escaped(caption)}: <b>{escaped(outcome)}</b>{escaped(after)}</figcaption></figure>"
    )


def films(figures: Sequence[str]) -> str:
    return f'<div class="videos">{"".join(figures)}</div>'


def chart_image(uri: str | None, alt: str) -> str:
    """A figure as a data URI; nothing where there is none."""
    return f'<img class="chart" alt="{escaped(alt)}" src="{uri}">' if uri else ""


def data_uri(content: bytes, kind: str) -> str:
    """
    >>> data_uri(b"x", "image/png")
    'data:image/png;base64,eA=='
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
