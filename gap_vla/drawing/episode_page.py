"""Pages about episodes: frames with a slider beside ρ, change points, true switches and motion signals."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence

import numpy as np

from gap_vla.drawing.episode import CHANGE, SWITCH, EpisodeView, episode_figure
from gap_vla.drawing.figures import svg_text
from gap_vla.drawing.markup import escaped, note, page

STYLE = f"""
.legend {{ margin: 10px 0 14px; color: #4a5666; }}
.legend span {{ margin-right: 18px; display: inline-block; }}
.key {{ display: inline-block; width: 26px; height: 0; vertical-align: middle; margin-right: 6px;
  border-top: 2px solid {CHANGE}; }} .key.switch {{ border-top: 2px dashed {SWITCH}; }}
.episode {{ display: grid; grid-template-columns: minmax(200px, 280px) 1fr; gap: 20px; align-items: start; }}
.episode.blind {{ grid-template-columns: 1fr; }}
.screen {{ position: sticky; top: 12px; }}
.screen img {{ width: 100%; display: block; border: 1px solid #c8d0da; image-rendering: pixelated; }}
.controls {{ display: flex; gap: 8px; align-items: center; margin-top: 8px; }}
.controls input {{ flex: 1; min-width: 0; }}
button {{ font: inherit; padding: 2px 10px; }}
output {{ display: block; margin-top: 6px; font-variant-numeric: tabular-nums; }}
.plots {{ position: relative; cursor: crosshair; touch-action: none; }}
.plots svg {{ width: 100%; height: auto; display: block; }}
.cursor {{ position: absolute; top: 0; bottom: 0; width: 1px; background: #111; opacity: .65; }}
@media (max-width: 760px) {{ .episode {{ grid-template-columns: 1fr; }}
  .screen {{ position: static; max-width: 320px; }} }}
"""

SCRIPT = """
document.querySelectorAll('.episode').forEach(box => {
  const data = JSON.parse(box.querySelector('script').textContent);
  const plots = box.querySelector('.plots'), cursor = plots.querySelector('.cursor');
  const image = box.querySelector('img'), slider = box.querySelector('input'), text = box.querySelector('output');
  const play = box.querySelector('button'), left = +plots.dataset.left, right = +plots.dataset.right;
  let timer = null;
  function show(step) {
    step = Math.max(0, Math.min(data.steps - 1, step));
    slider.value = step;
    cursor.style.left = 100 * (left + (right - left) * step / Math.max(data.steps - 1, 1)) + '%';
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
    const x = (event.clientX - area.left) / area.width;
    show(Math.round((x - left) / (right - left) * (data.steps - 1)));
  }
  plots.addEventListener('pointerdown', event => { plots.setPointerCapture(event.pointerId); stop(); point(event); });
  plots.addEventListener('pointermove', event => { if (event.buttons) point(event); });
  show(data.start);
});
"""


def episodes_page(title: str, views: Sequence[EpisodeView], *before: str) -> str:
    """The page of some episodes, each under its own title unless that is the page's.

    Args:
        before: HTML above the episodes.
    """
    switches = any(view.phases is not None for view in views)
    keys = [("key", "change point"), *([("key switch", "true switch of the expert")] if switches else [])]
    spans = "".join(f'<span><i class="{kind}"></i>{text}</span>' for kind, text in keys)
    legend = f'<div class="legend">{spans}<span>drag over the plots to move through the episode</span></div>'
    parts = [*before, *([legend] if views else [])]
    for view in views:
        parts += [f"<h2>{escaped(view.title)}</h2>"] if view.title != title else []
        parts += [*map(note, view.facts), _section(view)]
    return page(title, *parts, style=STYLE, script=SCRIPT)


def _section(view: EpisodeView) -> str:
    frames = view.shown_frames
    data = {
        "steps": len(view),
        "start": int(view.change_points[0]) if len(view.change_points) else 0,
        "rho": None if view.rho is None else [round(float(r), 4) for r in view.rho],
        "phases": None if view.phases is None else [str(name) for name in view.phases],
        "frames": None if frames is None else [_jpeg(frame) for frame in frames],
    }
    image = "" if frames is None else '<img alt="camera image of the chosen step">'
    controls = (
        f'<div class="controls"><button type="button">play</button><input type="range" min="0" '
        f'max="{len(view) - 1}" value="0" aria-label="step"></div><output></output>'
    )
    text = json.dumps(data).replace("<", "\\u003c")
    kind = "episode blind" if frames is None else "episode"
    return (
        f'<section class="{kind}"><div class="screen">{image}{controls}</div>{_plots(view)}'
        f'<script type="application/json">{text}</script></section>'
    )


def _jpeg(frame: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def _plots(view: EpisodeView) -> str:
    """The plots, with the element of class `cursor` that the page's script moves between `left` and `right`, shares of
    the width.
    """
    figure = episode_figure(view, with_frames=False)
    text = svg_text(figure, fonts="none")
    idle = r'<metadata>.*?</metadata>| xmlns(:\w+)?="[^"]*"| font-family: [^;]*;'
    text = re.sub(idle, "", text[text.index("<svg") :], flags=re.DOTALL)
    place = figure.axes[0].get_position()  # known now that it is drawn
    return (
        f'<div class="plots" data-left="{place.x0:.4f}" data-right="{place.x1:.4f}">{text}'
        '<div class="cursor"></div></div>'
    )
