"""An evaluation as one page that opens in a browser: figures, phases, errors, videos (failures first)."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gap_vla.core.whole import replacing
from gap_vla.rollouts.summary import describe, title

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .8rem; text-align: left }
tr { border-bottom: 1px solid #ddd } .bar { background: #3b7dd8; height: .8rem } .frame { background: #eee;
width: 20rem } figure { display: inline-block; margin: .5rem; width: 16rem; vertical-align: top }
video { width: 16rem; background: #000 }
.failure figcaption { color: #b3261e } .success figcaption { color: #1a7f37 } pre { white-space: pre-wrap }
"""


def write_page(folder: Path, summary: dict[str, Any]) -> Path:
    """Writes `folder/index.html`; it links to the videos beside it and needs nothing from elsewhere."""
    heading = title(summary)
    low, high = summary["interval"]
    what = {**summary["task"], "seed": summary["seed"], "source": summary.get("source") or "–"}
    parts = [
        f"<h1>{html.escape(heading)}</h1>",
        f"<p><strong>{100 * summary['success_rate']:.0f} %</strong> of {summary['episodes']} episodes succeeded "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %).</p>",
        _phases(summary["phases"]),
        _videos(summary),
        _errors(summary["errors"]),
        f"<h2>In words</h2><pre>{html.escape(describe(summary))}</pre>",
        f"<h2>What was evaluated</h2><table>{_rows(what)}{_rows(summary['policy'], 'policy ')}</table>",
    ]
    page = folder / "index.html"
    document = f"<!doctype html><meta charset=utf-8><title>{html.escape(heading)}</title><style>{STYLE}</style>"
    with replacing(page) as temporary:
        temporary.write_text("\n".join([document, *filter(None, parts), "</html>\n"]), encoding="utf-8")
    return page


def _rows(entries: dict[str, Any], prefix: str = "") -> str:
    return "".join(
        f"<tr><th>{html.escape(prefix + key)}</th><td>{html.escape(_plain(value))}</td></tr>"
        for key, value in entries.items()
    )


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _phases(phases: dict[str, Any] | None) -> str:
    if not phases:
        return ""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td><div class=frame><div class=bar style='width:{100 * share:.0f}%'></div>"
        f"</div></td><td>{100 * share:.0f} %</td><td>{phases['failed_in'].get(name, 0) or ''}</td></tr>"
        for name, share in phases["reached"].items()
    )
    return f"<h2>How far episodes got</h2><table><tr><th>phase<th>reached<th><th>failures in it</tr>{rows}</table>"


def _videos(summary: Mapping[str, Any]) -> str:
    if not summary["videos"]:
        return ""
    ended = dict(zip(summary["episode_numbers"], zip(summary["last_phases"], summary["steps"])))
    figures = []
    for name in summary["videos"]:
        _, number, outcome = Path(name).stem.split("_")
        phase, steps = ended.get(int(number), (None, None))
        where = f" in {phase}" if outcome == "failure" and phase else ""
        after = f", {steps} steps" if steps is not None else ""
        figures.append(
            f"<figure class={outcome}>"
            f"<video autoplay controls loop muted playsinline src='{html.escape(name)}'></video>"
            f"<figcaption>episode {int(number)}: {outcome}{html.escape(where)}{after}</figcaption></figure>"
        )
    kept, total = len(figures), summary["episodes"]
    return f"<h2>Rollouts</h2><p>{kept} of {total}, failures first.</p>" + "".join(figures)


def _errors(errors: list[dict[str, Any]]) -> str:
    if not errors:
        return ""
    rows = "".join(f"<tr><td>{e['episode']}</td><td>{html.escape(e['error'])}</td></tr>" for e in errors)
    return f"<h2>Cut short and counted as failed</h2><table>{rows}</table>"
