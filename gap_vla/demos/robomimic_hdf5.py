"""robomimic / MimicGen HDF5: `data/demo_i/{actions, obs/…}`, low-dim or with images.

robomimic stores quaternions xyzw; an Episode has wxyz. Positions are metres in the world frame in both.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gap_vla.demos.source import Source
from gap_vla.episode import Episode, EpisodeError

IMAGE_KEYS = {
    "image_primary": "image_primary",
    "image_wrist": "image_wrist",
    "agentview_image": "image_primary",
    "robot0_eye_in_hand_image": "image_wrist",
}
"""Observation names that are taken as cameras unless `image_keys` says otherwise."""

_USED = ("eef_pos", "eef_quat", "gripper_qpos")


class RobomimicHDF5(Source):
    """Demonstrations in robomimic's layout.

    Args:
        path: the HDF5 file.
        image_keys: observation name to camera name, e.g. `{"agentview_image": "image_primary"}`; default `IMAGE_KEYS`.
        language_instruction: used where the file has none.
        filter_key: a robomimic filter (`mask/<name>`), e.g. `"train"`; default: every demonstration.
        action_key: `"actions"`; other files use `"actions_abs"`.

    Raises:
        EpisodeError: truncated or foreign file, missing keys, no demonstrations.
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
    ) -> None:
        self.path = Path(path)
        self.options = {
            "image_keys": image_keys,
            "language_instruction": language_instruction,
            "filter_key": filter_key,
            "action_key": action_key,
        }
        self._image_keys = IMAGE_KEYS if image_keys is None else image_keys
        with self._open() as file:
            self._names = self._demo_names(file)
            self._language = self._file_language(file)
            first = file[f"data/{self._names[0]}"]
            self._dropped = self._unused(first)
            self._cameras = [key for key in self._image_keys if f"obs/{key}" in first]

    def __len__(self) -> int:
        return len(self._names)

    def mapping(self) -> dict[str, str]:
        names = {camera: f"obs/{key}" for key, camera in self._image_keys.items() if key in self._cameras}
        proprio = "obs/robot*_{eef_pos, eef_quat (xyzw to wxyz), gripper_qpos}"
        return names | {"proprio": proprio, "action": self.options["action_key"], "phase": "phase"}

    def dropped(self) -> dict[str, str]:
        return self._dropped

    def read(self, index: int, *, images: bool = True) -> Episode:
        name = self._names[index]
        with self._open() as file:
            try:
                return self._episode(file[f"data/{name}"], name, images).validate()
            except OSError as error:
                raise EpisodeError(
                    f"{self.path}, episode {name}: cannot be read ({error}); copy the file again"
                ) from None

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise EpisodeError(
                f"{self.path}: not a complete HDF5 file ({error}); the copy or the recording was cut off, get it again"
            ) from None

    def _demo_names(self, file: h5py.File) -> list[str]:
        if "data" not in file or not isinstance(file["data"], h5py.Group):
            raise EpisodeError(
                f"{self.path}: no group 'data' (found: {', '.join(file) or 'nothing'}); this is not robomimic's "
                "layout: give another --kind, or export it with robomimic's dataset_states_to_obs.py"
            )
        names = list(file["data"])
        filter_key = self.options["filter_key"]
        if filter_key is not None:
            if f"mask/{filter_key}" not in file:
                known = ", ".join(file["mask"]) if "mask" in file else "none"
                raise EpisodeError(f"{self.path}: no filter 'mask/{filter_key}' (filters: {known})")
            names = [_text(n) for n in file[f"mask/{filter_key}"][()]]
        if not names:
            raise EpisodeError(f"{self.path}: group 'data' holds no demonstrations; record some, or give another file")
        return sorted(names, key=_natural)

    def _file_language(self, file: h5py.File) -> str:
        attrs = file["data"].attrs
        if "language_instruction" in attrs:
            return _text(attrs["language_instruction"])
        if self.options["language_instruction"] is not None:
            return self.options["language_instruction"]
        try:
            env_args = json.loads(_text(attrs.get("env_args", "{}")))
        except json.JSONDecodeError:
            return ""
        return _text(env_args.get("lang", "")) if isinstance(env_args, dict) else ""

    def _unused(self, demo: h5py.Group) -> dict[str, str]:
        taken = {"obs", "phase", self.options["action_key"]}
        unused = {key: "not part of the schema" for key in demo if key not in taken}
        for key in demo.get("obs", ()):
            if key not in self._image_keys and not key.endswith(_USED):
                unused[f"obs/{key}"] = "neither a known camera (image_keys) nor end-effector state"
        return unused

    def _episode(self, demo: h5py.Group, name: str, images: bool) -> Episode:
        proprio = self._proprio(demo, name)
        action = np.asarray(self._get(demo, self.options["action_key"], name), np.float32)
        cameras: dict[str, np.ndarray] = {}
        for key, camera in self._image_keys.items():
            if key in demo["obs"] and images:
                cameras[camera] = demo[f"obs/{key}"][()]
            elif key in demo["obs"] and len(demo[f"obs/{key}"]) != len(proprio):
                raise EpisodeError(
                    f"{self.path}, episode {name}: obs/{key} has {len(demo[f'obs/{key}'])} images, "
                    f"obs/robot0_eef_pos has {len(proprio)} steps; cut them to the same steps or drop the episode"
                )
        phase = np.array([_text(p) for p in demo["phase"][()]]) if "phase" in demo else None
        return Episode(
            images=cameras,
            proprio=proprio,
            action=action,
            language_instruction=_text(demo.attrs.get("language_instruction", self._language)),
            success=bool(demo.attrs.get("success", True)),
            phase=phase,
            metadata={"file_path": str(self.path), "episode_id": name} | _scalars(demo.attrs),
        )

    def _proprio(self, demo: h5py.Group, name: str) -> np.ndarray:
        arms: list[np.ndarray] = []
        obs = self._get(demo, "obs", name)
        while f"robot{len(arms)}_eef_pos" in obs or not arms:
            arm = f"robot{len(arms)}"
            position, quaternion, gripper = (self._get(demo, f"obs/{arm}_{key}", name)[()] for key in _USED)
            if quaternion.shape != (len(position), 4):
                raise EpisodeError(
                    f"{self.path}, episode {name}: obs/{arm}_eef_quat has shape {quaternion.shape}, "
                    f"not ({len(position)}, 4); repair or drop the episode"
                )
            if len(gripper) != len(position):
                raise EpisodeError(
                    f"{self.path}, episode {name}: obs/{arm}_gripper_qpos has {len(gripper)} steps, "
                    f"eef_pos {len(position)}; cut them to the same steps or drop the episode"
                )
            arms.append(np.concatenate([position, np.roll(quaternion, 1, axis=1), gripper], axis=1))
        return np.concatenate(arms, axis=1).astype(np.float32)

    def _get(self, demo: h5py.Group, key: str, name: str) -> Any:
        if key not in demo:
            parent = demo["obs"] if key.startswith("obs/") and "obs" in demo else demo
            raise EpisodeError(
                f"{self.path}, episode {name}: no '{key}' (found: {', '.join(parent)}); "
                "export the file with it, for pictures and poses with robomimic's dataset_states_to_obs.py"
            )
        return demo[key]


def _scalars(attrs: Any) -> dict[str, Any]:
    plain = {}
    for key, value in attrs.items():
        if key == "language_instruction" or (isinstance(value, (str, bytes)) and len(value) > 200):
            continue  # robomimic keeps the whole model XML in an attribute
        if isinstance(value, (str, bytes)):
            plain[key] = _text(value)
        elif np.ndim(value) == 0:
            plain[key] = np.asarray(value).item()
    return plain


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
