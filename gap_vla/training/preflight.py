"""What can be known before any work begins, and refused then: folders, data, devices, memory, disk.

None of it takes longer than a second or two, and nothing is made; a run that would fail after its demonstrations were
collected, or after it was trained, does not start.
"""

from __future__ import annotations

import ctypes
import fnmatch
import glob
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gap_vla.core.foreign import Section
from gap_vla.core.resources import require_writable
from gap_vla.core.typed_config import ConfigError
from gap_vla.policies.config import SmallConfig
from gap_vla.rlds.shards import plan_splits
from gap_vla.sim import require_rendering, task_spec
from gap_vla.training.config import FinetuneConfig, SharedStages
from gap_vla.training.estimates import require_data_space, require_training_memory

if TYPE_CHECKING:
    from gap_vla.training.pipeline import Stages


def require_ready(config: FinetuneConfig | SmallConfig, stages: Stages) -> None:
    """Checks everything that `finetune` or `train_small` needs.

    Raises:
        ConfigError: data, weights or a device that do not fit the configuration, or are not there.
        ResourceError: a folder that cannot be written to; less memory or disk than is needed.
        RenderingError: no EGL or OSMesa library, and pictures are to be drawn.
        EpisodeError: demonstrations that cannot be read.
    """
    require_writable(config.runs, "runs")
    data = config.data_stages if isinstance(config, SmallConfig) else config
    if config.eval.episodes:
        require_rendering()
    if isinstance(config, SmallConfig):
        _require_torch_device(config.train.device)
        if config.model.encoder_weights and not Path(config.model.encoder_weights).is_file():
            raise ConfigError(f"model.encoder_weights is {config.model.encoder_weights!r}, which is no file")
    else:
        _require_trainable(config)
        _require_weights(config)
        _require_devices(config)
    if not (stages.store / "store.json").exists():
        _require_data(data, stages, _needs_rho(config))
    on_cpu = config.train.device == "cpu" if isinstance(config, SmallConfig) else not _accelerators()
    require_training_memory(config, on_cpu)


def _needs_rho(config: FinetuneConfig | SmallConfig) -> bool:
    """Whether the dataset must carry ρ."""
    if not isinstance(config, SmallConfig):
        return config.schedule.needs_rho
    from gap_vla.policies import method_of  # loads torch

    method = method_of(config.method)
    return method.needs_rho and method.rho_source == "dataset" and method.schedule(config.adjustment).needs_rho


def _require_data(config: FinetuneConfig | SharedStages, stages: Stages, needs_rho: bool) -> None:
    """What the stages before training need, as far as they have not been made."""
    require_writable(config.data.root, "data.root")
    if stages.rlds.exists():
        require_dataset(stages.rlds, config, needs_rho)
        return
    if needs_rho and config.phases.method == "none":
        raise ConfigError("phases.method is 'none', and this method needs ρ; choose another, or a method without it")
    steps = task_spec(config.task).horizon / 2
    episodes = config.demos.episodes
    if config.demos.path:
        episodes, steps = _require_source(config)
    splits = plan_splits(episodes, config.data.val_fraction)
    if not splits["train"] or not splits.get("val"):
        raise ConfigError(
            f"data.val_fraction is {config.data.val_fraction}; of {episodes} episodes, {len(splits['train'])} would be "
            "left for training; lower it, or give more episodes"
        )
    if not stages.demos.exists():
        require_rendering()
    require_data_space(config, episodes, steps, stages.store.parent)


def _require_source(config: FinetuneConfig | SharedStages) -> tuple[int, int]:
    """Episodes of the named demonstrations and steps of the first, which must have the cameras that are asked for."""
    from gap_vla.demos import open_source

    source = open_source(config.demos.path, config.demos.kind)
    if len(source) == 0:
        raise ConfigError(f"demos.path is {config.demos.path!r}, which holds no episodes")
    first = source.read(0)
    for camera in config.demos.cameras:
        picture = first.images.get(f"image_{camera}")
        if picture is None:
            raise ConfigError(_no_camera(config.demos.path, camera, sorted(first.images)))
        _require_size(config.demos.path, picture.shape[1:3], config)
    return len(source), len(first)


def require_dataset(directory: Path, config: FinetuneConfig | SharedStages, needs_rho: bool) -> None:
    """Checks an RLDS dataset's own description: splits, cameras, their size, and ρ.

    Raises:
        ConfigError: says what is missing or differs, and what to do.
    """
    fields = _step_fields(directory)
    if fields is None:
        return  # a description of another kind; reading it will say what is wrong
    info = Section.read(directory / "dataset_info.json", ConfigError)
    splits = {split.text("name") for split in info.list("splits", Section.section)}
    for split in {"train", "val"} - splits:
        raise ConfigError(f"{directory} has no split {split!r}; build it with data.val_fraction above 0")
    if needs_rho and "rho" not in fields:
        raise ConfigError(
            f"{directory} has no steps/rho, which this method needs; add it with scripts/annotate.py, or choose a "
            "method without it"
        )
    pictures = fields.get("observation", {})
    pictures = pictures if isinstance(pictures, dict) else {}
    for camera in config.demos.cameras:
        if f"image_{camera}" not in pictures:
            raise ConfigError(_no_camera(directory, camera, [k for k in pictures if k.startswith("image_")]))
        shape = pictures[f"image_{camera}"]
        if shape:
            _require_size(directory, shape[:2], config)


def _no_camera(where: Path | str, camera: str, known: list[str]) -> str:
    return f"{where} has no camera {camera!r} (demos.cameras); it has {', '.join(known) or 'none'}"


def _require_size(where: Path | str, found: Any, config: FinetuneConfig | SharedStages) -> None:
    height, width = (int(n) for n in found)
    if config.eval.episodes and (height, width) != (config.demos.image_size, config.demos.image_size):
        raise ConfigError(
            f"{where} holds images of {height} × {width}, demos.image_size is {config.demos.image_size}; rollouts "
            f"would show others than training: set --config.demos.image_size={height}"
        )


def _step_fields(directory: Path) -> dict[str, Any] | None:
    """The fields of a step by name, with the shapes of pictures; None if this is not TFDS' usual description."""
    try:
        tree = json.loads((directory / "features.json").read_text())
        return _described(tree["featuresDict"]["features"]["steps"]["sequence"]["feature"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _described(feature: dict[str, Any]) -> Any:
    if "featuresDict" in feature:
        return {name: _described(part) for name, part in feature["featuresDict"]["features"].items()}
    if "image" in feature:
        return [int(n) for n in feature["image"]["shape"].get("dimensions", [])]
    return ""


def _require_weights(config: FinetuneConfig) -> None:
    pretrained = config.model.pretrained
    if not pretrained:
        return
    if not pretrained.startswith("hf://"):
        folder = Path(pretrained).expanduser()
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.pretrained is {pretrained!r}, which holds no checkpoint (config.json)")
    from gap_vla.octo.checkpoint import local_directory, read_config
    from gap_vla.octo.text import tokenizer_file

    folder = local_directory(pretrained)  # downloads come first: without a network nothing else is begun
    words = read_config(folder).get("text_processor") or {}
    if name := words.get("kwargs", {}).get("tokenizer_name"):
        tokenizer_file(name, str(folder))


def _require_trainable(config: FinetuneConfig) -> None:
    if not config.optimizer.frozen_keys or config.schedule.mode == "none":
        return
    for leaf in ("projection.kernel", "projection.bias", "pos_embedding"):  # M8
        path = f"octo_transformer.obs_proprio_{leaf}"
        if any(fnmatch.fnmatch(path, pattern) for pattern in config.optimizer.frozen_keys):
            raise ConfigError(
                f"optimizer.frozen_keys is {config.optimizer.frozen_keys}, which freezes {path}; method "
                f"{config.method} adjusts its gradient"
            )


def _require_devices(config: FinetuneConfig) -> None:
    if config.train.fsdp > 1:
        from gap_vla.training.mesh import make_mesh

        make_mesh(config.train.fsdp, config.train.batch_size // config.train.accumulate)


def _require_torch_device(device: str) -> None:
    """Asks the driver itself, for importing torch takes longer than two seconds on a busy machine."""
    if device != "cuda":
        return
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        found = False
    if not found:
        raise ConfigError("train.device is 'cuda', but there is no such device; use --config.train.device=cpu")


def _accelerators() -> bool:
    return bool(glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/accel*"))
