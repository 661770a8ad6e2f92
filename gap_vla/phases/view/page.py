"""Self-contained HTML: everything is inside the file, nothing is fetched."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from gap_vla.phases.measures import notes
from gap_vla.phases.view.episode_view import EpisodeView
from gap_vla.phases.view.svg import episode_svg
from gap_vla.phases.view.tables import report_tables

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 16px 20px 48px;
  color: #1c2430; background: #fff; }
h1 { font-size: 20px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 28px 0 8px; }
p.fact { margin: 0; color: #4a5666; overflow-wrap: anywhere; }
.legend { margin: 10px 0 14px; color: #4a5666; }
.legend span { margin-right: 18px; display: inline-block; }
.key { display: inline-block; width: 26px; height: 0; vertical-align: middle; margin-right: 6px;
  border-top: 2px solid; }
.episode { display: grid; grid-template-columns: minmax(200px, 280px) 1fr; gap: 20px; align-items: start; }
.episode.blind { grid-template-columns: 1fr; }
.screen { position: sticky; top: 12px; }
.screen img { width: 100%; display: block; border: 1px solid #c8d0da; border-radius: 4px; image-rendering: pixelated; }
.controls { display: flex; gap: 8px; align-items: center; margin-top: 8px; }
.controls input { flex: 1; min-width: 0; }
button { font: inherit; padding: 2px 10px; }
output { display: block; margin-top: 6px; font-variant-numeric: tabular-nums; }
svg.plots { width: 100%; height: auto; display: block; cursor: crosshair; touch-action: none; }
svg .frame { fill: none; stroke: #d5dbe3; }
svg text { font: 12px system-ui, sans-serif; fill: #4a5666; }
svg text.name { fill: currentColor; font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 4px; }
svg text.phase { text-anchor: middle; fill: #1c2430; }
svg .change { stroke: #c22; stroke-width: 1.4; }
svg .switch { stroke: #333; stroke-width: 1.2; stroke-dasharray: 4 4; }
svg .cursor { stroke: #111; stroke-width: 1; opacity: .65; }
.cards { display: flex; flex-wrap: wrap; gap: 8px 48px; align-items: start; }
.cards > div { max-width: 352px; }
.cards h2 { margin-top: 8px; font-size: 15px; }
.cards td, .cards th { padding: 2px 14px 2px 0; }
svg.chart { width: 340px; max-width: 100%; height: auto; display: block; }
svg.chart .bar { fill: #1f6feb; opacity: .75; }
svg.chart .ideal { stroke: #8792a2; stroke-dasharray: 4 4; }
svg.chart .dot { fill: #d4572a; opacity: .85; }
table { border-collapse: collapse; margin: 8px 0 16px; }
td, th { padding: 3px 14px 3px 0; text-align: left; border-bottom: 1px solid #e3e8ee;
  font-variant-numeric: tabular-nums; }
@media (max-width: 760px) { .episode { grid-template-columns: 1fr; } .screen { position: static; max-width: 320px; } }
"""

SCRIPT = """
document.querySelectorAll('.episode').forEach(box => {
  const data = JSON.parse(box.querySelector('script').textContent);
  const plots = box.querySelector('svg.plots'), cursor = plots.querySelector('.cursor');
  const image = box.querySelector('img'), slider = box.querySelector('input'), text = box.querySelector('output');
  const play = box.querySelector('button'), left = +plots.dataset.left, right = +plots.dataset.right;
  let timer = null;
  function show(step) {
    step = Math.max(0, Math.min(data.steps - 1, step));
    slider.value = step;
    const x = left + (right - left) * step / Math.max(data.steps - 1, 1);
    cursor.setAttribute('x1', x); cursor.setAttribute('x2', x);
    if (image) image.src = 'data:image/jpeg;base64,' + data.frames[step];
    text.textContent = 'step ' + step + (data.rho ? ', ρ = ' + data.rho[step].toFixed(2) : '')
      + (data.phases ? ', ' + data.phases[step] : '');
  }
  function stop() { clearInterval(timer); timer = null; play.textContent = 'play'; }
  slider.addEventListener('input', () => show(+slider.value));
  play.addEventListener('click', () => {
    if (timer) return stop();
    if (+slider.value >= data.steps - 1) show(0);
    play.textContent = 'stop';
    timer = setInterval(() => { if (+slider.value >= data.steps - 1) stop(); else show(+slider.value + 1); }, 60);
  });
  function point(event) {
    const area = plots.getBoundingClientRect();
    const x = (event.clientX - area.left) / area.width * plots.viewBox.baseVal.width;
    show(Math.round((x - left) / (right - left) * (data.steps - 1)));
  }
  plots.addEventListener('pointerdown', event => { plots.setPointerCapture(event.pointerId); stop(); point(event); });
  plots.addEventListener('pointermove', event => { if (event.buttons) point(event); });
  show(data.start);
});
"""


def episode_page(view: EpisodeView) -> str:
    """The HTML page of one episode: frames with a slider, ρ, change points, true switches and motion signals."""
    return _page(view.title, [f"<h1>{html.escape(view.title)}</h1>", *_facts(view), _legend([view]), _episode(view)])


def report_page(title: str, report: dict[str, Any], identity: dict[str, Any], views: Sequence[EpisodeView]) -> str:
    """The HTML page of an annotated data set: figures, calibration, identity, and some episodes.

    Args:
        report: `Annotation.report`.
        identity: `Annotation.identity`.
        views: the episodes to show.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f'<p class="fact">Note: {html.escape(note)}.</p>' for note in notes(report)]
    body.append(report_tables(report, identity))
    if views:
        body.append(_legend(views))
    for view in views:
        body += [f"<h2>{html.escape(view.title)}</h2>", *_facts(view), _episode(view)]
    return _page(title, body)


def _page(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"{''.join(body)}<script>{SCRIPT}</script></body></html>\n"
    )


def _facts(view: EpisodeView) -> list[str]:
    return [f'<p class="fact">{html.escape(fact)}</p>' for fact in view.facts]


def _legend(views: Sequence[EpisodeView]) -> str:
    items = [('style="border-color:#c22"', "change point")]
    if any(view.phases is not None for view in views):
        items.append(('style="border-top-style:dashed;border-color:#333"', "true switch of the expert"))
    spans = "".join(f'<span><i class="key" {style}></i>{text}</span>' for style, text in items)
    return f'<div class="legend">{spans}<span>drag over the plots to move through the episode</span></div>'


def _episode(view: EpisodeView) -> str:
    data = {
        "steps": len(view),
        "start": int(view.change_points[0]) if len(view.change_points) else 0,
        "rho": None if view.rho is None else [round(float(r), 4) for r in view.rho],
        "phases": None if view.phases is None else [str(name) for name in view.phases],
        "frames": None if view.frames is None else [jpeg(frame) for frame in view.frames],
    }
    image = "" if view.frames is None else '<img alt="camera image of the chosen step">'
    controls = (
        f'<div class="controls"><button type="button">play</button><input type="range" min="0" '
        f'max="{len(view) - 1}" value="0" aria-label="step"></div><output></output>'
    )
    text = json.dumps(data).replace("</", "<\\/")
    kind = "episode blind" if view.frames is None else "episode"
    return (
        f'<section class="{kind}"><div class="screen">{image}{controls}</div>{episode_svg(view)}'
        f'<script type="application/json">{text}</script></section>'
    )


def jpeg(frame: np.ndarray) -> str:
    """A frame as base64 JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()
