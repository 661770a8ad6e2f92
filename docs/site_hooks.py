"""What `mkdocs build` adds to the pages of docs/: the help of commands, the Python of rooms, links out of docs/.

Links into the repository become links to `repo_url` where mkdocs.yml names one, and else the name of the file. A link
to what is not there is a warning, and warnings are errors.
"""

import ast
import contextlib
import io
import logging
import os
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
log = logging.getLogger("mkdocs.hooks.gap_vla")

ROOMS = {
    "phases": "Change points and ρ",
    "adjustment": "Gradient adjustment",
    "core": "Episodes and their columns",
    "demos": "Readers of demonstrations",
    "rlds": "Datasets with ρ",
    "octo": "Octo",
    "policies": "Small policies",
    "sim": "Simulated tasks",
    "rollouts": "Rollouts and diagnosis",
    "serving": "Serving",
}
PUBLIC = {
    "phases": {
        "annotation": "annotate Annotation Annotator load_annotator",
        "segmentation": "segment",
        "estimator": "PhaseEstimator EstimatorSettings",
        "motion": "Motion DeadBand",
    },
    "adjustment": {
        "schedule": "AdjustmentSchedule",
        "torch": "attach attach_columns Adjustment",
        "jax": "adjusted_gradients match_group scale_gradient scale_group_updates",
    },
    "core": {"episode": "Episode", "columns": "Columns", "errors": "UserError ConfigError EpisodeError"},
    "demos": {"source": "open_source Source", "fields": "Fields"},
    "rlds": {
        "convert": "build_dataset write_rlds",
        "annotate": "annotate_source",
        "store": "EpisodeStore",
        "loader": "WindowLoader",
    },
    "octo": {"model": "OctoModel", "presets": "small_config published_config", "optimizer": "create_optimizer"},
    "policies": {"config": "SmallModelConfig", "methods": "build_policy Method", "policy": "SmallPolicy"},
    "sim": {"environment": "make SimEnv", "specs": "TaskSpec task_spec", "collection": "collect_demos"},
    "rollouts": {"evaluation": "evaluate", "policy": "Policy", "task": "Task", "diagnose": "open_loop closed_loop"},
    "serving": {"loading": "load_checkpoint load_policy", "wire": "KeyMapping", "server": "PolicyServer"},
}
"""Room to module to the names that its page documents."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/python.md", content=python_overview()))
    for room, title in ROOMS.items():
        files.append(File.generated(config, f"reference/python/{room}.md", content=room_page(room, title)))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The rooms' pages join the navigation below Reference, Python."""
    [reference] = [entry["Reference"] for entry in config.nav or [] if "Reference" in entry]
    [python] = [entry["Python"] for entry in reference if "Python" in entry]
    python += [{title: f"reference/python/{room}.md"} for room, title in ROOMS.items()]
    return config


def commands_page() -> str:
    """Every command's own `--help`."""
    from gap_vla.cli import COMMANDS

    os.environ["COLUMNS"] = "90"
    parts = [
        "# The help of every command",
        "What the commands print for `--help`. How they behave, and what they share, is said in "
        "[How commands behave](../COMMANDS.md).",
    ]
    for name, what in COMMANDS.items():
        parts += [f"## {name}", f"{what[0].upper()}{what[1:]}.", f"```text\n{help_of(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def help_of(name: str) -> str:
    from gap_vla.cli import main

    said = io.StringIO()
    before = sys.argv
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            main([name, "--help"])
    finally:
        sys.argv = before
    if not said.getvalue().startswith("usage:"):
        log.warning("gap-vla %s --help says nothing that could be shown", name)
    return said.getvalue().strip()


def python_overview() -> str:
    rows = [f"| [{title}](python/{room}.md) | `gap_vla.{room}` | {first_line(room)} |" for room, title in ROOMS.items()]
    head = [
        "# Python",
        "What the rooms of the library offer, from their docstrings. How they hang together: "
        "[ARCHITECTURE](../ARCHITECTURE.md).",
        "| room | import | what it is for |\n|---|---|---|",
    ]
    return "\n\n".join(head) + "\n" + "\n".join(rows) + "\n"


def first_line(room: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / "gap_vla" / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def room_page(room: str, title: str) -> str:
    parts = [f"# {title}", first_line(room)]
    for module, names in PUBLIC[room].items():
        parts.append(f"## `from gap_vla.{room}.{module} import …`")
        parts += [f"::: gap_vla.{room}.{module}.{name}" for name in names.split()]
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    folder = posixpath.dirname(page.file.src_uri)
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation", "toc"]

    def replace(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join("docs", folder, path))
        if re.match(r"[a-z]+:", target) or not path or place == "docs" or place.startswith("docs/"):
            return match.group(0)
        if not (ROOT / place).exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_uri, place)
        if config.repo_url:
            return f"{image}[{text}]({config.repo_url.rstrip('/')}/blob/main/{place}{'#' + anchor if anchor else ''})"
        shown = place + ("/" if (ROOT / place).is_dir() else "")
        return f"`{shown}`" if text.strip("`") in (place, posixpath.basename(place), shown) else f"{text} (`{shown}`)"

    fences = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    return "".join(
        part if part.startswith("```") else re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", replace, part) for part in fences
    )
