"""The data of an experiment: where each stage lies, how it is made, and what it is made from.

A stage's folder carries the hash of the settings that made it, so other settings never meet the same data. What made a
run's outcome besides its configuration is its origin: versions of the code and the content of the data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gap_vla.core.foreign import content, parsed, whole
from gap_vla.core.identity import differences, digest, flat, in_words, plain
from gap_vla.core.locks import alone
from gap_vla.core.progress import Agenda
from gap_vla.core.typed_config import ConfigError
from gap_vla.demos.content import content_digest
from gap_vla.demos.hdf5_members import attributes_of_data, simulator_of
from gap_vla.phases import LABELS_VERSION
from gap_vla.rlds.account import dataset_metadata, require_unchanged
from gap_vla.rlds.statistics import STATISTICS
from gap_vla.rlds.version_files import BUILDERS
from gap_vla.rollouts.recordings import require_scene, view_of
from gap_vla.sim import task_spec
from gap_vla.training.config import Experiment
from gap_vla.training.octo_weights import require_same_weights

if TYPE_CHECKING:
    from gap_vla.rlds import EpisodeStore

TRAINING_VERSION = {"small": 2, "octo": 2}
"""By backend. Raise it whenever a change of code gives the same configuration and data other parameters or other
outcomes of rollouts than another machine's rounding does: tests/training/test_training_version.py says how much that
is. Runs get other directories then, and recorded cells of tables become stale.

2: normalisation statistics are those of the training episodes. (That methods which label their data themselves fit on
these alone came later and raised nothing: docs/PROTOCOL.md, Changes.)
"""

_STEPS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Stages:
    """Where each stage of one configuration lies, and what it is made of."""

    demos: Path  # HDF5 file in robomimic's layout
    rlds: Path  # RLDS dataset, …/name/version
    store: Path  # decoded, memory-mapped episodes
    demos_identity: Mapping[str, Any]
    rlds_identity: Mapping[str, Any]
    mixture: Mapping[Path, Path] = dataclasses.field(default_factory=dict)  # further RLDS datasets and their stores

    @property
    def lock(self) -> Path:
        """Of runs started side by side, the one that has it makes the data."""
        return self.store.with_name(f".{self.store.name}.making")

    def made_from(self, backend: str) -> dict[str, Any]:
        """What the data are made from, and the version of the code that trains on them."""
        mixture = {"mixture": [str(path.absolute()) for path in self.mixture]} if self.mixture else {}
        return {**self.rlds_identity, **mixture, "training_version": TRAINING_VERSION[backend]}


def stages_of(config: Experiment) -> Stages:
    """The stages that a configuration needs; nothing is made.

    Raises:
        ConfigError: a named demonstration file or dataset does not exist, or shows another view.
    """
    root = Path(config.data.root)
    demos = dataclasses.asdict(config.demos)
    if config.demos.path:
        demos_path = Path(config.demos.path)
        if not demos_path.exists():
            raise ConfigError(f"demos.path is {config.demos.path!r}, which does not exist")
        demos_identity = {"path": str(demos_path.absolute()), "content": content_digest(demos_path)}
        if demos_path.is_dir() and config.demos.kind != "lerobot":  # of which several readers may find something
            demos_identity["kind"] = config.demos.kind
    else:
        pictures = task_spec(config.task).pictures_version
        demos_identity = {
            "task": config.task,
            **({"pictures_version": pictures} if pictures > 1 else {}),
            **{k: v for k, v in demos.items() if k not in ("path", "kind", "camera")},
            **({"camera": config.demos.camera} if config.demos.camera != "near" else {}),
        }
        demos_path = root / "demos" / f"{config.task}-{digest(demos_identity)}" / "demos.hdf5"
    rlds_identity = {
        "demos": demos_identity,
        "phases": {**dataclasses.asdict(config.phases), "labels_version": LABELS_VERSION},
        "val_fraction": config.data.val_fraction,
    }
    name = f"{config.task}-{digest(rlds_identity)}"
    rlds_path = root / "rlds" / name / config.task / "1.0.0"
    if config.data.rlds:
        rlds_path = Path(config.data.rlds)
        rlds_identity, name = _existing(config, rlds_path, "data.rlds")
    _require_view(config)
    stores = root / "store"
    mixture = {Path(path): stores / _existing(config, Path(path), "data.mixture")[1] for path, _ in config.data.mixture}
    if len({os.path.realpath(path) for path in (rlds_path, *mixture)}) <= len(config.data.mixture):
        raise ConfigError(f"data.mixture is {config.data.mixture}, beside {rlds_path}; name each dataset once")
    return Stages(demos_path, rlds_path, stores / name, demos_identity, rlds_identity, mixture)


def _existing(config: Experiment, path: Path, key: str) -> tuple[dict[str, Any], str]:
    """The identity of an RLDS dataset that is there, and the name of its store."""
    if not (path / "dataset_info.json").exists():
        raise ConfigError(f"{key} is {str(path)!r}, which holds no RLDS dataset (dataset_info.json)")
    identity = {"rlds": str(path.absolute())}
    return identity, f"{config.task}-{digest(identity)}"


def prepare_data(config: Experiment, stages: Stages, collect_only: bool = False) -> None:
    """Makes what is missing of demonstrations and RLDS dataset.

    Where the episode store is there already, neither needs to be: who copies it needs no TensorFlow and no simulator.

    Args:
        collect_only: the demonstrations alone, which takes no extra but the simulators, also beside a dataset of them.

    Raises:
        ConfigError: demonstrations of `demos.path` are no longer those that the stages are named after.
    """
    if stages.rlds.exists() and (config.data.rlds or not collect_only):
        print(f"dataset: reusing {stages.rlds}", flush=True)
        return
    if (stages.store / "store.json").exists() and not collect_only:
        print(f"dataset: only its store is here, {stages.store}", flush=True)
        return
    if not stages.demos.exists():
        from gap_vla.sim import collect_demos

        Agenda.begin("demonstrations")
        print(f"collect: {config.demos.episodes} demonstrations of {config.task} → {stages.demos}", flush=True)
        how = {k: v for k, v in vars(config.demos).items() if k not in ("episodes", "path", "kind")}
        collect_demos(config.task, config.demos.episodes, stages.demos, **how, workers=config.eval.workers)
    else:
        from gap_vla.demos import open_source

        there = len(open_source(stages.demos, config.demos.read_as))
        print(f"collect: reusing {stages.demos}, {there} episodes", flush=True)
    if collect_only:
        return
    from gap_vla.rlds import dataset_builder

    Agenda.begin("phases and dataset")
    print(f"dataset: finding phases and writing {stages.rlds}", flush=True)
    builder = dataset_builder(config.task, stages.rlds.parent.parent, kind=config.demos.read_as)
    how = {**vars(config.phases), "val_fraction": config.data.val_fraction}
    reader = {READER: dict(builder.READER_OPTIONS)} if builder.READER_OPTIONS else {}
    source = builder.open(stages.demos)  # from here on it refuses files that change
    if config.demos.path and content_digest(stages.demos) != stages.demos_identity["content"]:
        raise ConfigError(f"{stages.demos} was changed meanwhile; start again")
    builder.convert(source, **how, identity={**stages.rlds_identity, **reader})


def require_own_stages(config: Experiment, stages: Stages) -> None:
    """Raises ConfigError if what lies in a stage's place says that it was made with other settings."""
    if config.data.rlds:
        return
    made: dict[Path, Any] = {}
    if (stages.store / "store.json").is_file():
        made[stages.store] = dict(flat(parsed(content(stages.store / "store.json"))))
        made[stages.store] = {k.removeprefix("metadata."): v for k, v in made[stages.store].items()}
    if stages.rlds.exists():
        made[stages.rlds] = dict(flat(dataset_metadata(stages.rlds)))
    wanted = {f"identity.data.{key}": value for key, value in flat(json.loads(json.dumps(stages.rlds_identity)))}
    if stages.rlds in made and not wanted.keys() & made[stages.rlds].keys():
        raise ConfigError(f"{stages.rlds} was not made by a run, so with what settings is not known; move it away")
    reader = reader_options(config, stages) if made else None
    for place, said in made.items():
        _require_alike(place, {key: value for key, value in said.items() if key in wanted}, wanted)
        read = {key: value for key, value in said.items() if key.startswith(f"identity.data.{READER}.")}
        now = dict(flat(reader, f"identity.data.{READER}.")) if reader is not None else read
        if changed := differences(read, now):
            raise ConfigError(f"{place} was made with other READER_OPTIONS ({in_words(changed)}); move it away")
    require_own_demos(config, stages)


READER = "reader_options"
"""Key of a dataset's identity: READER_OPTIONS of the builder that it was made by, if it has some."""


def reader_options(config: Experiment, stages: Stages) -> dict[str, Any] | None:
    """What a class in `rlds_builders` gives to the reader of this task's demonstrations, as JSON; None if TFDS is away,
    without which no class can be asked."""
    if config.data.rlds or not (BUILDERS / config.task / f"{config.task}_dataset_builder.py").is_file():
        return {}
    try:
        from gap_vla.rlds.tfds_builder import dataset_builder
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "tensorflow_datasets"):
            raise
        return None
    builder = dataset_builder(config.task, stages.rlds.parent.parent, kind=config.demos.read_as)
    return dict(json.loads(json.dumps(plain(builder.READER_OPTIONS, "READER_OPTIONS", ConfigError))))


def require_own_demos(config: Experiment, stages: Stages) -> None:
    """Raises ConfigError if collected demonstrations say that they were collected with other settings."""
    if stages.demos.is_file() and not config.demos.path:
        own = attributes_of_data(stages.demos)
        if {"attempts", "failures"} <= {*own}:
            counts = (whole(f"{stages.demos}: {k}", own[k], 0, 2**31, ConfigError) for k in ("attempts", "failures"))
            own["episodes"] = next(counts) - next(counts)
        own |= {key.removeprefix("env_kwargs."): value for key, value in flat(simulator_of(own))}
        demos = {key: getattr(config.demos, key) for key in ("episodes", "action_noise", "image_size", "camera")}
        demos |= {"pictures_version": task_spec(config.task).pictures_version}
        demos |= {"task": config.task, "collection_seed": config.demos.seed, "cameras": list(config.demos.cameras)}
        _require_alike(stages.demos, {key: own.get(key, value) for key, value in demos.items()}, demos)


def _require_alike(place: Path, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if made and (changed := differences(made, wanted)):
        raise ConfigError(f"{place} was made with other settings ({in_words(changed)}); move it away")


def open_store(config: Experiment, stages: Stages) -> EpisodeStore:
    """The episode store of a configuration, made if it is missing; see `prepare_data`."""
    from gap_vla.rlds import EpisodeStore

    with alone(stages.lock, f"{stages.store}", wait=True, there=stages.store / "store.json"):
        prepare_data(config, stages)
        if not stages.rlds.exists():
            return EpisodeStore.open(stages.store, verify=True)
        return EpisodeStore.build(stages.rlds, stages.store)


def require_unchanged_data(stages: Stages) -> None:
    """Raises EpisodeError if a dataset or store that is there is not as it was written: all of its files are read."""
    from gap_vla.rlds import EpisodeStore

    for version, store in {stages.rlds: stages.store, **stages.mixture}.items():
        if (store / "store.json").exists():
            EpisodeStore.open(store, verify=True)
        if version.exists():
            require_unchanged(version, but=STATISTICS)


def require_data_of(summary: Mapping[str, Any], config: Experiment, stages: Stages, build: bool = True) -> None:
    """Raises ConfigError: `data.rlds` or `data.mixture` holds other data than a finished run was trained on, or
    `model.pretrained` or `model.encoder_weights` other parameters than it was trained from."""
    from gap_vla.rlds import EpisodeStore
    from gap_vla.rlds.store import source_hash_of

    require_same_weights(config.model, summary.get("training", {}))
    added = summary.get("origin", {}).get("mixture", [])
    for (version, store), trained_on in zip(stages.mixture.items(), added):
        held = (store / "store.json").exists()
        if not version.exists() or not (build or held):
            continue
        stale = held and not build and EpisodeStore.open(store).source_hash != source_hash_of(version)
        if stale or digests(EpisodeStore.build(version, store)) != trained_on:
            raise ConfigError(f"{version} holds other data than this run was trained on; give another --run-name")
    said = summary.get("dataset", {}).get("hash")
    if not (said and config.data.rlds and stages.rlds.exists()):
        return
    if source_hash_of(stages.rlds) != said:
        raise ConfigError(
            f"{stages.rlds} holds other data than this run was trained on, or another version of gap_vla trained on "
            "them; give another --run-name"
        )


def open_mixture(stages: Stages) -> list[EpisodeStore]:
    """The episode stores of `data.mixture` in its order, made if they are missing."""
    from gap_vla.rlds import EpisodeStore

    return [EpisodeStore.build(path, store) for path, store in stages.mixture.items()]


def _require_view(config: Experiment) -> None:
    """Raises ConfigError if named data were recorded through another view than `demos.camera`, PolicyError if those of
    ours (but in `data.mixture`) were collected in another task."""
    datasets = [path for path in (config.data.rlds, *dict(config.data.mixture)) if path]
    for source in datasets if config.data.rlds or not config.demos.path else [*datasets, config.demos.path]:
        if source not in dict(config.data.mixture):
            require_scene(source, config.task)
        if (found := view_of(Path(source))) not in (None, config.demos.camera):
            raise ConfigError(
                f"{source} was recorded through the view {found!r}, and demos.camera is {config.demos.camera!r}; "
                f"rollouts would show another view than training: set --config.demos.camera={found}"
            )


def versions(backend: str, task: str) -> dict[str, Any]:
    """The versions of the code that a run of this backend (`small` or `octo`) depends on."""
    return {
        "training_version": TRAINING_VERSION[backend],
        "labels_version": LABELS_VERSION,
        "pictures_version": task_spec(task).pictures_version,
    }


def digests(store: EpisodeStore) -> dict[str, str]:
    """Hashes of the values that a store holds, whatever its layout: `episodes` of pictures, states, actions, phases,
    instructions and splits, and `labels` of ρ and change points, where there are any."""
    episodes, labels = hashlib.sha256(), hashlib.sha256()
    for name in sorted(store.splits):
        split = store.splits[name]
        lengths = np.diff(split.offsets)
        texts = [split.languages[code] for code in split.language]
        episodes.update(f"{name} {lengths.tolist()} {texts}".encode())
        labels.update(f"{name} {lengths.tolist()}".encode())
        for key in sorted(split.fields):
            if key in ("rho", "change_point"):
                _add(labels, key, split.fields[key], np.float32 if key == "rho" else np.bool_)
            elif key == "phase":
                episodes.update(f"phase {[split.phases[code] for code in split.fields[key]]}".encode())
            elif key in ("proprio", "action") or key.startswith("image_"):
                _add(episodes, key, split.fields[key], np.uint8 if key.startswith("image_") else np.float32)
    labelled = any({"rho", "change_point"} & set(split.fields) for split in store.splits.values())
    found = {"episodes": episodes.hexdigest()[:16]}
    return {**found, "labels": labels.hexdigest()[:16]} if labelled else found


def _add(total: Any, key: str, values: np.ndarray, dtype: type) -> None:
    total.update(f"{key} {values.shape[1:]}".encode())
    for start in range(0, len(values), _STEPS_AT_ONCE):
        total.update(np.ascontiguousarray(values[start : start + _STEPS_AT_ONCE], dtype).data)


def origin(backend: str, task: str, store: EpisodeStore, *mixture: EpisodeStore) -> dict[str, Any]:
    """What a run on these stores is made from; kept in its summary."""
    more = {"mixture": [digests(other) for other in mixture]} if mixture else {}
    return {**versions(backend, task), **digests(store), **more}
