"""Reads any RLDS dataset episode by episode and runs every check; memory holds one episode and the low-dim data."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gap_vla.core.episode import LABELS, EpisodeError, label_problems
from gap_vla.core.foreign import one_line, parsed, refusing, whole
from gap_vla.core.identity import flat
from gap_vla.core.marks import FOLDER_MARK
from gap_vla.demos.content import unchanging
from gap_vla.demos.fields import checked_limit
from gap_vla.demos.layout import StateLayout
from gap_vla.demos.source import READERS
from gap_vla.drawing.episode import EpisodeView, episode_png
from gap_vla.rlds.account import dataset_metadata, unlike_written
from gap_vla.rlds.checking.comparison_checks import COMPARISON_CHECKS
from gap_vla.rlds.checking.dataset_checks import DATASET_CHECKS
from gap_vla.rlds.checking.declared_checks import (
    DECLARED_CHECKS,
    check_description,
    check_names,
    known_of_metadata,
    not_looked_at,
    unread,
)
from gap_vla.rlds.checking.episode_checks import EPISODE_CHECKS
from gap_vla.rlds.checking.following import usable
from gap_vla.rlds.checking.picture_checks import PICTURE_CHECKS, glance, prints
from gap_vla.rlds.checking.record_checks import check_records, holds_quaternions
from gap_vla.rlds.checking.report import Finding, Recording, Report
from gap_vla.rlds.reader import declared_limit, read_steps
from gap_vla.rlds.schema import LANGUAGE, SCHEMA_VERSION, instruction_of, recorded
from gap_vla.rlds.statistics import STATISTICS, StatisticsError, dataset_statistics, load_statistics, unlike
from gap_vla.rlds.unread import OF_EPISODE, spoken
from gap_vla.rlds.version_files import open_version

CHANNELS = (1, 3, 4)
"""Of pictures that are looked at: grey, colours, and these with alpha, which is left out."""
_STATE_KEYS = ("proprio", "state", "eef_state", "EEF_state")
_LEVELS = {"error": 0, "warning": 1, "note": 2}


def check_dataset(
    version_dir: str | Path,
    *,
    state_key: str | None = None,
    layout: str | Mapping[str, Any] | StateLayout | None = None,
    pictures: int = 6,
    max_episodes: int | None = None,
    action_limit: float | None = None,
) -> Report:
    """Checks an RLDS dataset, whoever wrote it.

    Args:
        version_dir: the dataset, e.g. `data/threading/1.0.0`.
        state_key: step field with the robot's state, `"observation/state"`; default: the first that exists of
            `observation/{proprio, state, …}`.
        layout: columns of the state (`gap_vla.demos.layout.LAYOUTS`); default: by its width (9 per arm: this
            library's). Without a layout the checks of poses and conventions are left out, and that is said.
        pictures: episodes in the report, 0 or more.
        max_episodes: per split, 1 or more; default all.
        action_limit: the largest action; default: what the dataset says that it was converted with, else 1.

    Returns:
        The report; see `Report.exit_status`.

    Raises:
        EpisodeError: not a finished dataset, unreadable, without the field `state_key`, changed while it was read, or
            numbers that count nothing.
    """
    whole("pictures", pictures, 0, 2**31, EpisodeError)
    if max_episodes is not None:
        whole("max_episodes", max_episodes, 1, 2**31, EpisodeError)
    with unchanging(Path(version_dir)):
        return _checked(Path(version_dir), state_key, layout, pictures, max_episodes, action_limit)


def _checked(
    version_dir: Path,
    state_key: str | None,
    layout: str | Mapping[str, Any] | StateLayout | None,
    pictures: int,
    max_episodes: int | None,
    action_limit: float | None,
) -> Report:
    builder = open_version(version_dir)
    findings: list[Finding] = []
    kept: list[Recording] = []
    shown: list[tuple[bool, str, EpisodeView]] = []
    limit = declared_limit(version_dir) if action_limit is None else checked_limit(action_limit)
    key, resolved = _state(builder.info.features["steps"].feature, state_key, layout)
    said = dict(flat(dataset_metadata(version_dir)))
    kind = said.get("identity.data.kind")
    other = layout is not None and StateLayout.of(layout).columns != StateLayout().columns
    if other and kind in list(READERS) and state_key in (None, "observation/proprio"):
        raise EpisodeError(f"{version_dir}: its columns are those of 'gap', whatever it was made of; leave layout out")
    counts = [split.num_examples for split in builder.info.splits.values()]
    part = max_episodes is not None and max_episodes < max(counts, default=0)
    findings += check_description(version_dir, builder)
    features, unseen = builder.info.features, set[str]()
    findings += check_records(builder, max_episodes, known_of_metadata(features), unseen)
    if part:
        text = f"of each split, the first {max_episodes} alone are read, and the numbers of records not compared"
        findings.append(Finding("note", "structure", text))
    taken = {"action", *LABELS, *spoken(features), "phase", *([key] if key else ())}
    for field, feature in flat(features["steps"].feature, separator="/"):
        if isinstance(feature.np_dtype, Mapping) or len(feature.shape) != 3:
            continue
        dtype, small = np.dtype(feature.np_dtype), min(size or 8 for size in feature.shape[:2]) < 8
        if dtype == np.uint8 and feature.shape[-1] in CHANNELS:
            taken.add(field)
        if feature.shape[-1] not in CHANNELS if dtype == np.uint8 else not small and dtype.kind in "fiu":
            what = f"has {feature.shape[-1]} channels" if dtype == np.uint8 else f"is {dtype}"
            text = f"{field} {what}, and is not checked as a picture"
            findings.append(Finding("note", "picture", text))
    unseen |= unread(version_dir, features, taken)
    sizes: dict[str, dict[tuple[int, ...], str]] = {}
    by_width = resolved is not None and layout is None and "identity.schema_version" not in said
    if by_width and not holds_quaternions(version_dir, f"{key}", max_episodes):
        resolved = None
    if resolved is None:
        text = f"layout of {key or 'the state'} unknown; give --layout to check poses and conventions"
        findings.append(Finding("note", "layout", text))
    tensors = flat(builder.info.features.get_tensor_info()["steps"], separator="/")
    declared = {field for field, _ in tensors}
    for split in builder.info.splits:
        told = False
        for recording in _recordings(version_dir, split, key, resolved, max_episodes):
            recording = dataclasses.replace(recording, action_limit=limit)
            if (lost := sorted(declared.difference(recording.read))) and not told:
                text = f"from here on not checked: {one_line(', '.join(lost))}; of one of them the length changes from "
                text += "step to step: store it in one shape, or leave it out"
                findings.append(Finding("error", "structure", text, recording.name))
                told = True
            found = [finding for check in (*EPISODE_CHECKS, *DECLARED_CHECKS) for finding in check(recording)]
            findings += found
            for camera, frames in recording.images.items():
                sizes.setdefault(camera, {}).setdefault(frames.shape[1:3], recording.name)
            glances = {camera: glance(frames) for camera, frames in recording.images.items()}
            films = {camera: prints(frames) for camera, frames in recording.images.items()}
            fields = {key: recording.fields[key] for key in LABELS if key in recording.fields}
            about = {key: value for key, value in recording.about.items() if key in ("episode_id", "file_path")}
            left = dataclasses.replace(recording, images={}, fields=fields, language=recording.language[:1], texts={})
            kept.append(dataclasses.replace(left, glances=glances, prints=films, about=about, extra={}))
            suspicious = any(f.level != "note" for f in found)
            if len(shown) < pictures or (suspicious and sum(s for s, _, _ in shown) < pictures):
                caption = recording.name + "".join(f" | {f}" for f in found[:2])
                shown.append((suspicious, caption, _view(recording)))
    if not kept:
        raise EpisodeError(f"{version_dir}: the dataset holds no episodes")
    findings += check_names(kept)
    for camera, places in sizes.items():
        for size in [*places][1:]:
            both = " and ".join(f"{height}x{width}" for height, width in (size, next(iter(places))))
            text = f"{camera} has pictures of {both} in different episodes; a size must be given where they are read"
            findings.append(Finding("warning", "picture", text, places[size]))
    widths = {(e.action.shape[1], e.arms) for e in kept}
    if len(widths) > 1:
        findings.append(Finding("error", "structure", f"episodes of different widths (action, arms): {sorted(widths)}"))
    else:
        checks = (*DATASET_CHECKS, *COMPARISON_CHECKS, *PICTURE_CHECKS)
        findings += [finding for check in checks for finding in check(kept)]
    if resolved is not None and not usable(kept):
        text = "no episode has 7 actions per arm (xyz, rotation, gripper) and three steps, all of them numbers, so "
        text += "conventions of actions are not checked"
        findings.append(Finding("note", "layout", text))
    of_ours = said.get("identity.schema_version") == SCHEMA_VERSION
    other = (key, resolved) != _state(builder.info.features["steps"].feature, None, None)
    if of_ours and (other or part):
        why = "another state or layout is named" if other else "not all episodes were read"
        findings.append(Finding("note", "statistics", f"{STATISTICS} is not compared with the data: {why}"))
    elif of_ours and len(widths) == 1:
        findings += _statistics(version_dir, [e for e in kept if e.name.startswith("train[")])
    for name, how in unlike_written(version_dir).items():
        if name != STATISTICS:  # see above; a mask may be somebody's choice
            text = f"{name} {how}; copy it again, or remove {FOLDER_MARK} if the change is yours"
            findings.append(Finding("error", "files", text))
    called = {e.name: f"{e.name} ({e.source})" for e in kept if e.source}
    findings = [dataclasses.replace(f, episode=called.get(f.episode, f.episode)) for f in findings]
    shown.sort(key=lambda item: not item[0])
    return Report(
        version_dir,
        _summary(version_dir, builder, kept, key) | ({"not looked at": not_looked_at(unseen)} if unseen else {}),
        sorted(findings, key=lambda f: _LEVELS[f.level]),
        [(caption, episode_png(view, dpi=90)) for _, caption, view in shown[:pictures]],
    )


def _state(step: Any, key: str | None, layout: Any) -> tuple[str | None, StateLayout | None]:
    fields = dict(flat(step, separator="/"))
    shapes = {k: v.shape for k, v in fields.items()}
    if key is not None and key not in shapes:
        raise EpisodeError(f"no step field {key!r} for the state; there are: {', '.join(sorted(shapes))}")
    if key is not None and (len(shapes[key]) != 1 or np.dtype(fields[key].np_dtype).kind not in "fiuV"):
        raise EpisodeError(f"step field {key!r} is {fields[key]}, not a row of numbers; name the state with --state")
    if key is None:
        key = next((f"observation/{k}" for k in _STATE_KEYS if f"observation/{k}" in shapes), None)
    if layout is not None and key is None:
        raise EpisodeError(f"a layout but no state; name its step field, there are: {', '.join(sorted(shapes))}")
    if layout is not None:
        return key, StateLayout.of(layout)
    shape = shapes.get(key or "", ())
    return key, StateLayout() if len(shape) == 1 and shape[0] and shape[0] % 9 == 0 else None


def _statistics(version_dir: Path, train: list[Recording]) -> Iterator[Finding]:
    """The statistics of a dataset of ours are those of its training split."""
    file = version_dir / STATISTICS
    if not file.exists():
        yield Finding("error", "statistics", f"{file.name} is missing; copy the dataset, or write it, again")
        return
    with refusing(file, "write the dataset again", EpisodeError), np.errstate(all="ignore"):
        try:
            meant = dataset_statistics([e.action for e in train], [e.proprio for e in train if e.proprio is not None])
        except StatisticsError as problem:  # of numbers that are none, which another check names
            yield Finding("note", "statistics", f"{file.name} is not compared with the data: {problem}")
            return
        for name in unlike(load_statistics(file, EpisodeError), meant):
            text = f"{file.name}: {name} is not that of the training split; write the dataset again"
            yield Finding("error", "statistics", text)


def _recordings(
    version_dir: Path, split: str, key: str | None, layout: StateLayout | None, limit: int | None
) -> Iterator[Recording]:
    for index, (steps, metadata) in enumerate(itertools.islice(read_steps(version_dir, split), limit)):
        fields = dict(flat(steps, separator="/"))
        name = f"{split}[{index}]"
        with refusing(f"{version_dir}, {name}: episode_metadata", "convert the source again", EpisodeError):
            source = one_line(recorded(metadata)["episode_id"], 60)
            about = {key: _plain(value) for key, value in flat(metadata, separator="/")}
            extra = parsed(about.get("extra_json") or "{}")
        told = np.asarray(instruction_of(fields))
        is_text = told.ndim == 1 and all(isinstance(text, bytes) for text in told)
        films = {k: v for k, v in fields.items() if v.dtype == np.uint8 and v.ndim == 4 and v.shape[-1] in CHANNELS}
        names = _camera_names(films)
        numbers = {
            k: v
            for k, v in fields.items()
            if k in LABELS or v.dtype.kind == "f" or (v.dtype.kind in "iub" and v.ndim < 4)
        }
        if "action" not in numbers or numbers["action"].dtype.kind == "b":
            known = ", ".join(sorted(fields))
            raise EpisodeError(f"{version_dir}, {name}: no 'action' of numbers among the step fields ({known})")
        state, proprio, doubt = numbers.get(key or ""), None, ""
        if layout is not None and state is not None:
            proprio = layout.to_proprio(state, f"{version_dir}, {name}", check=False)
            if not layout.rotation_kind.startswith("quat"):  # how long those are, is a check of its own
                try:
                    layout.to_proprio(state, f"{key}")
                except EpisodeError as error:
                    doubt = str(error)
        if (action := fields["action"]).ndim != 2:
            raise EpisodeError(
                f"{version_dir}, {name}: a step of 'action' has shape {action.shape[1:]}, not one row of numbers; "
                "write the dataset with one action a step"
            )
        yield Recording(
            name=name,
            read=frozenset(fields),
            source=source,
            images={names[k]: np.repeat(v, 3, -1) if v.shape[-1] == 1 else v[..., :3] for k, v in films.items()},
            fields=numbers,
            language=[text.decode(errors="replace") for text in told] if is_text else [],
            unsaid="" if is_text else f"{'text' if told.dtype.kind == 'O' else told.dtype}{[*told.shape]}",
            proprio=proprio,
            action=action.astype(np.result_type(action, np.float32), copy=False),  # of int8, the size of -128 is -128
            doubt=doubt,
            state=state.reshape(len(state), -1) if state is not None and state.dtype.kind != "b" else None,
            texts={
                k: [_plain(text) for text in v.ravel()]
                for k, v in fields.items()
                if _names_something(k) and _is_text(v)
            },
            about=about,
            extra=extra,
        )


def _names_something(key: str) -> bool:
    return key in (*LANGUAGE, "phase") or key.rpartition("/")[2] in OF_EPISODE


def _is_text(values: Any) -> bool:
    return values is not None and values.size == len(values) and all(isinstance(one, bytes) for one in values.ravel())


def _plain(value: Any) -> Any:
    """Text, a number, or the array that it is."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if getattr(value, "size", 0) == 1 and value.dtype.kind in "biuf" else value


def _camera_names(keys: Collection[str]) -> dict[str, str]:
    """What pictures are called: the last part of their field, or where two end alike all below the observation; or the
    whole field, where one lies beside the observation under the same name."""
    last = [key.rsplit("/", 1)[-1] for key in keys]
    below = [key.removeprefix("observation/") for key in keys]
    longer = below if len({*below}) == len(below) else keys
    return {key: end if last.count(end) == 1 else name for key, end, name in zip(keys, last, longer)}


def _view(recording: Recording) -> EpisodeView:
    labels = {name: recording.fields[name] for name in LABELS if name in recording.fields}
    labels = {} if any(label_problems(labels)) else labels
    text = recording.language[0] if recording.language else ""
    return EpisodeView(
        f"{recording.name}, {len(recording)} steps: {text}",
        len(recording),
        frames=dict(sorted(recording.images.items())),
        rho=labels.get("rho"),
        change_points=np.flatnonzero(labels.get("change_point", ())),
    )


def _summary(version_dir: Path, builder: Any, kept: list[Recording], key: str | None) -> dict[str, Any]:
    lengths = np.array([len(e) for e in kept])
    alike = len({e.action.shape[1] for e in kept}) == 1
    actions = np.concatenate([e.action if alike else e.action[:, :0] for e in kept])
    texts = {e.language[0] for e in kept if e.language and e.language[0].strip()}
    instructions = "; ".join(one_line(text, 200) for text in sorted(texts)[:5])
    annotator = dataset_metadata(version_dir).get("annotator", {})
    with np.printoptions(precision=3, suppress=True):
        return {
            "episodes": len(kept),
            "splits": ", ".join(f"{name} {info.num_examples}" for name, info in builder.info.splits.items()),
            "steps": int(lengths.sum()),
            "length": f"min {lengths.min()}, median {np.median(lengths):.10g}, max {lengths.max()}",
            "instructions": f"{len(texts)}: {instructions}" if texts else "none",
            "state": key or "none",
            "annotator": f"{annotator.get('method')} {annotator.get('hash', '')}".strip() if annotator else "none",
            **({"action min": str(actions.min(0)), "action max": str(actions.max(0))} if alike else {}),
            **({"action std": str(actions.std(0, dtype=np.float64))} if alike else {}),
            "fields": {k: str(v) for k, v in sorted(flat(builder.info.features["steps"].feature, separator="/"))},
        }
