"""robomimic / MimicGen HDF5: `data/demo_i/{actions, obs/…}`, low-dim or with images.

robomimic stores quaternions xyzw; an Episode has wxyz. Positions are metres in the world frame in both.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.core.episode import OPENING_UNIT, Episode, EpisodeError
from gap_vla.core.foreign import one_line, parsed, refusing
from gap_vla.demos import fields, hdf5_unread
from gap_vla.demos import hdf5_attributes as hdf5
from gap_vla.demos import hdf5_members as members
from gap_vla.demos.layout import StateLayout
from gap_vla.demos.robomimic_groups import (
    arms_named,
    arms_of,
    demonstrations,
    own_language,
    require_one_instruction,
)
from gap_vla.demos.source import UNSAID, Source, account, stated

IMAGE_KEYS = {
    "image_primary": "image_primary",
    "image_wrist": "image_wrist",
    "agentview_image": "image_primary",
    "robot0_eye_in_hand_image": "image_wrist",
}
"""Observation names that are taken as cameras unless `image_keys` says otherwise."""

_USED = {"eef_pos": 3, "eef_quat": 4, "gripper_qpos": None}
"""What a robot's proprioception is made of, in this order, and how many columns each has; None: any."""


_NEXT = 0.01
"""Metres by which `next_obs` may differ from what is observed at the next step."""


class RobomimicHDF5(Source):
    """Demonstrations in robomimic's layout; `places` are their names below `data`, in order.

    Args:
        path: the HDF5 file.
        image_keys: observation name to camera name, e.g. `{"agentview_image": "image_primary"}`; default `IMAGE_KEYS`.
        language_instruction: used where the file has none.
        filter_key: a robomimic filter (`mask/<name>`), e.g. `"train"`; default: every demonstration.
        action_key: `"actions"`; other files use `"actions_abs"`.
        action_limit: the largest action; null: whatever is there.
        layout: columns of an arm's xyz, quaternion xyzw and `gripper_qpos` side by side, if the last has not two:
            `quaternion_xyzw` for one, of six e.g. `{"rotation_kind": "quat_xyzw", "gripper": [7, 10], "width": 13}`.

    Raises:
        EpisodeError: truncated or foreign file, missing keys, no demonstrations, fewer than the file says.
    """

    kind = "robomimic_hdf5"

    def __init__(
        self,
        path: Path,
        *,
        image_keys: dict[str, str] | None = None,
        language_instruction: str | None = None,
        filter_key: str | None = None,
        action_key: str = "actions",
        action_limit: float | None = fields.ACTION_LIMIT,
        layout: str | Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.options: dict[str, Any] = {
            "image_keys": None if image_keys is None else dict(image_keys),
            "language_instruction": language_instruction,
            "filter_key": filter_key,
            "action_key": action_key,
            **self.stated_limit(action_limit),
            **({} if layout is None else {"layout": copy.deepcopy(layout)}),
        }
        self._layout = own = StateLayout.of("robomimic" if layout is None else layout)
        if (own.position, own.rotation, own.rotation_kind) != (0, 3, "quat_xyzw"):
            raise EpisodeError(
                f"{path}: its columns are xyz and the quaternion xyzw by their names, the layout says {own.position}, "
                f"{own.rotation}, {own.rotation_kind!r}; give one of position 0, rotation 3 and rotation_kind quat_xyzw"
            )
        self._image_keys = IMAGE_KEYS if image_keys is None else dict(image_keys)
        members.require_sound(self.path)
        with members.opened(self.path) as file:
            parts = (action_key, "obs/robot0_eef_pos", *(f"obs/{key}" for key in self._image_keys))
            self.places = demonstrations(file, self.path, filter_key, *parts)
            self._language = self._file_language(file)
            self._said, self.kept, self._dropped = self._looked_through(file)
            where = f"{self.path}, episode {self.places[0]}"
            first = members.group_at(file, f"data/{self.places[0]}", where)
            self._cameras = self._cameras_of(first, f"{self.path}, {first.name}")
            observations = hdf5.names_in(members.group_at(first, "obs", where), where)
        if image_keys and (lost := sorted(set(image_keys) - set(self._cameras))):
            raise EpisodeError(
                f"{self.path}: no observation {one_line(lost[0], 60)!r}, which image_keys names; "
                f"there are {one_line(', '.join(observations), 300)}"
            )

    def mapping(self) -> dict[str, str]:
        names = {camera: f"obs/{key}" for key, camera in self._image_keys.items() if key in self._cameras}
        proprio = f"obs/robot*_{{eef_pos, eef_quat (xyzw to wxyz), gripper_qpos}} ({self._layout})"
        return names | {"proprio": proprio, "action": self.options["action_key"]} | self._said

    def dropped(self) -> list[str]:
        return self._dropped

    def account(self) -> str:
        kept = {"extra_json": f"attributes {', '.join(self.kept)}"} if self.kept else {}
        return account(self.path, UNSAID | self.mapping() | kept, self.dropped())

    def identity(self) -> dict[str, Any]:
        said = members.attributes_of_data(self.path)
        told = {"task": said.get("task"), "camera": members.view_of(said)}
        kept = {key: value for key, value in told.items() if isinstance(value, str) and value != "near"}
        of_robosuite = {"instructions": "ep_meta"} if "ep_meta" in self._said.get("language_instruction", "") else {}
        return super().identity() | kept | of_robosuite

    def look(self) -> None:
        fields.require_one_size(self._looked_at())

    def _looked_at(self) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
        for name in self.places:
            where = f"{self.path}, episode {name}"
            with members.opened(self.path, f", episode {name}") as file:
                demo = members.group_at(file, f"data/{name}", where)
                steps = members.length_at(demo, self.options["action_key"], where)
                members.require_consistent(demo, steps, where)
                for arm, part in itertools.product(range(arms_of(demo, where)), _USED):
                    members.form_at(demo, f"obs/robot{arm}_{part}", where)
                yield where, {self._image_keys[k]: self._size(demo, k, where) for k in self._cameras_of(demo, where)}

    def _size(self, demo: h5py.Group, key: str, where: str) -> tuple[int, int]:
        return fields.picture_size(*members.form_at(demo, f"obs/{key}", where), f"{where}: obs/{key}")

    def read(self, index: int, *, images: bool = True) -> Episode:
        name = self.places[index]
        with members.opened(self.path, f", episode {name}") as file:
            return self._episode(file, name, images).validate()

    def _file_language(self, file: h5py.File) -> str:
        data = members.group_at(file, "data", f"{self.path}")
        said = hdf5.attribute_of(data, "env_args")
        with refusing(f"{self.path}, data: the attribute 'env_args' is no JSON", "write it again", EpisodeError):
            parsed(said or "{}")
        stated = fields.as_instruction(hdf5.attribute_of(data, "language_instruction"), "", f"{self.path}, data")
        env_args = members.simulator_of({"env_args": said})
        require_one_instruction(stated, env_args.get("lang"), f"{self.path}, data: the attribute 'env_args'")
        own = (own_language(data[name]) for name in self.places)
        self._refuse_idle(self.options["language_instruction"], (stated.strip() or one for one in own))
        if stated.strip():
            return stated
        if self.options["language_instruction"] is not None:
            return self.options["language_instruction"]
        return fields.as_instruction(env_args.get("lang"), "", f"{self.path}: 'lang' in env_args")

    def _looked_through(self, file: h5py.File) -> tuple[dict[str, str], list[str], list[str]]:
        """Where success, instruction and phase are said, as in `mapping`; attributes that a dataset keeps; and what is
        not read of all demonstrations.

        Raises EpisodeError: a name that is read stands there in other letters, or a fact that is no attribute.
        """
        data = members.group_at(file, "data", f"{self.path}")
        of_file = {name for held in (file, file.attrs) for name in hdf5.names_in(held, f"{self.path}")}
        of_data = hdf5.names_in(data.attrs, f"{self.path}, data")
        fields.require_spelling(of_data, hdf5.FACTS, f"{self.path}, data: attributes")
        unread = hdf5_unread.of_file(file, self.options["filter_key"], f"{self.path}")
        if left := len(data) - len(self.places):
            unread.add(f"{left} of {len(data)} demonstrations")
        taken, said = {"obs", "phase", self.options["action_key"]}, _facts(data)
        successes, silent, kept = 0, 0, set[str]()
        for place in self.places:
            demo = members.group_at(data, place, where := f"{self.path}, episode {place}")
            held, own = hdf5.names_in(demo, where), hdf5.names_in(demo.attrs, where)
            fields.require_spelling(held, taken, where)
            fields.require_spelling(own, hdf5.FACTS, f"{where}: attributes")
            for key in {*held, *(of_file - {*of_data})}:
                if (fact := key.lower()) in hdf5.FACTS and fact not in own:
                    raise EpisodeError(
                        f"{where}: {key!r} is no attribute of it and not read; store it as {fact!r} there"
                    )
            said |= (facts := _facts(demo)) | ({*held} & {"phase"})
            successes += "success" in facts
            if "language_instruction" not in facts:
                told_beside = not fields.is_blank(own_language(demo) or "")
                silent, said = silent + (not told_beside), said | ({"ep_meta"} if told_beside else set())
            observed = hdf5.names_in(members.group_at(demo, "obs", where), where) if "obs" in held else []
            *used, another = ([f"robot{arm}_{part}" for part in _USED] for arm in range(arms_named(observed) + 1))
            fields.require_spelling(observed, [*self._image_keys, *itertools.chain(*used), *another], f"{where}: obs")
            metres, key = self._layout.opening_unit == "m", self.options["action_key"]
            read = hdf5_unread.read_of_arrays(len(used), self._image_keys, key, metres)
            kept |= (short := _kept(demo)).keys()
            unread |= hdf5_unread.of_demonstration(demo, read, short, where)
        places = {key: key for key in sorted(said - {"ep_meta"})}
        if "success" in places and "success" not in _facts(data):
            places["success"] = stated("success", "success", successes, len(self.places))
        option = "--reader" if self.options["language_instruction"] else "lang in env_args"
        told = {"language_instruction": "language_instruction" in said, "lang in ep_meta": "ep_meta" in said}
        silent *= "language_instruction" not in _facts(data)
        told[option] = bool(self._language and silent)
        if any(told.values()):
            lack, name = (0 if self._language else silent), " or ".join(filter(told.get, told))
            key, many = "language_instruction", len(self.places)
            places[key] = stated(key, name, many - lack, many)
        by_all = members.simulator_of({"env_args": hdf5.attribute_of(data, "env_args")}).get("lang")
        if not told.get("lang in env_args") and not fields.is_blank(by_all or ""):
            unread.add("lang in env_args")
        return places, sorted(kept), sorted(unread)

    def _episode(self, file: h5py.File, name: str, images: bool) -> Episode:
        where = f"{self.path}, episode {name}"
        demo = members.group_at(file, f"data/{name}", where)
        key = self.options["action_key"]
        action = fields.as_actions(members.numbers_at(demo, key, where), self.action_limit, f"{where}: {key!r}")
        members.require_consistent(demo, len(action), where)
        proprio = self._proprio(demo, where)
        if action.shape[1] % (arms := arms_of(demo, where)):
            raise EpisodeError(
                f"{where}: {key!r} has {action.shape[1]} columns, which do not divide among {arms} arms (obs/robot0_…, "
                "robot1_…); leave out the arm that is not moved"
            )
        cameras: dict[str, np.ndarray] = {}
        if (found := self._cameras_of(demo, where)) != self._cameras:
            known = [one_line(", ".join(keys) or "none", 80) for keys in (found, self._cameras)]
            raise EpisodeError(f"{where}: its cameras are {known[0]}, the first episode's {known[1]}; drop the episode")
        for key in found:
            hdf5.require_rgb(members.member(demo, f"obs/{key}", where), f"{where}: obs/{key}")
            if images:
                cameras[self._image_keys[key]] = fields.as_frames(members.numbers_at(demo, f"obs/{key}", where))
            else:
                self._size(demo, key, where)
        own, of_all = (hdf5.attribute_of(item, "success") for item in (demo, members.group_at(file, "data", where)))
        success = of_all if own is None else own
        return Episode(
            images=cameras,
            proprio=proprio,
            action=action,
            language_instruction=fields.as_instruction(own_language(demo), self._language, where),
            success=fields.as_truth(True if success is None else success, f"{where}: the attribute 'success'"),
            phase=self._phase(demo, where),
            metadata={**_kept(demo), "file_path": str(self.path), "episode_id": name, **self._layout.facts},
        )

    def _phase(self, demo: h5py.Group, where: str) -> np.ndarray | None:
        if not members.has(demo, "phase"):
            return None
        phase = np.array(members.texts_at(demo, "phase", where), str)
        if len(phase) > 1 and members.has(demo, "phase_switch"):
            switch = members.numbers_at(demo, "phase_switch", where)[1:].reshape(-1)
            if (wrong := (phase[1:] != phase[:-1]) & (switch == 0)).any():
                step = wrong.argmax() + 1
                raise EpisodeError(f"{where}: phase changes at step {step}, where phase_switch is false; correct one")
        return phase

    def _cameras_of(self, demo: h5py.Group, where: str) -> list[str]:
        keys = [key for key in self._image_keys if members.has(demo, f"obs/{key}")]
        fields.require_cameras([self._image_keys[key] for key in keys], f"{where}: obs/{', '.join(keys)}")
        return keys

    def _proprio(self, demo: h5py.Group, where: str) -> np.ndarray:
        columns: list[np.ndarray] = []
        for arm, (part, width) in itertools.product(range(arms_of(demo, where)), _USED.items()):
            key = f"obs/robot{arm}_{part}"
            rows = fields.as_rows(members.numbers_at(demo, key, where), f"{where}: {key!r}")
            hdf5.require_unit(demo[key], part, self._layout.opening_unit == "m", f"{where}: {key!r}")
            if width not in (None, rows.shape[1]):
                raise EpisodeError(
                    f"{where}: {key} has {rows.shape[1]} columns, not {width}; repair or drop the episode"
                )
            if part == "gripper_qpos" and 7 + rows.shape[1] != self._layout.width:
                advice = "not 2 fingers; say what they are with a layout, for one quaternion_xyzw"
                if "layout" in self.options:
                    advice = f"with xyz and quaternion {7 + rows.shape[1]} an arm; the layout has {self._layout.width} "
                    advice += "columns of numbers per arm; give another"
                raise EpisodeError(f"{where}: {key} has {rows.shape[1]} columns, {advice}")
            if part == "eef_pos" and members.has(demo, behind := f"next_obs/robot{arm}_{part}"):
                after = fields.as_rows(members.numbers_at(demo, behind, where)[: len(rows) - 1], f"{where}: {behind!r}")
                if after.shape != rows[1:].shape:
                    raise EpisodeError(f"{where}: {behind} is {[*after.shape]} without its last row; repair it")
                if len(off := np.flatnonzero((abs(after - rows[1:]) > _NEXT).any(axis=1))):
                    apart = f"{abs(after - rows[1:])[off[0]].max():.2g} m from obs at the next"
                    raise EpisodeError(
                        f"{where}: next_obs of robot{arm}_{part} at step {off[0]} is {apart}; steps are missing or of "
                        "another episode: repair or drop it"
                    )
            columns.append(rows)
        return self._layout.to_proprio(np.concatenate(columns, axis=1), where, named=True)


def _facts(item: h5py.Group) -> set[str]:
    """Those of `hdf5.FACTS` that attributes say."""
    values = {fact: hdf5.attribute_of(item, fact) for fact in hdf5.FACTS}
    return {fact for fact, value in values.items() if value is not None and not fields.is_blank(value)}


def _kept(demo: h5py.Group) -> dict[str, Any]:
    """The attributes that a dataset keeps in `extra_json`; robomimic has the whole model XML in one, which is not."""
    left = ("language_instruction", OPENING_UNIT, "file_path", "episode_id")  # said elsewhere, the unit by the layout
    attributes = hdf5.attributes_of(demo, hdf5.OF_DEMO)
    return {key: value for key, value in attributes.items() if key not in left and len(str(value)) <= 200}
