"""Keys of a configuration that have no effect with its other values.

A file serves every method and source of data, so that its keys which do not apply are allowed. On the command line,
where somebody means one, they are errors (`gap_vla.cli.configured`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gap_vla.policies.registry import CONTROLS, METHODS, OF_THE_DATASET, RHO_SOURCES


def _stored_rho(config: Any, key: str) -> bool:
    return config.data.rlds and RHO_SOURCES.get(config.method, "dataset") in OF_THE_DATASET


def _unread_history(config: Any, key: str) -> bool:
    """The temporal transformer wants as many frames as states, even where one of them is not read."""
    return config.method == ("vision" if "proprio" in key else "proprio") and config.model.temporal == "none"


def _of_the_small_octo(config: Any, key: str) -> bool:
    """The MLP that makes tokens of a state is a new one, and as wide as that key says."""
    own = config.model.proprio_tokens and config.method != "v" and key == "model.token_embedding_size"
    return config.model.pretrained and not own


def _draws_nothing(config: Any, key: str) -> bool:
    return config.phases.method != "lstm" and config.phases.options.get("rho") != "lstm"


def _labels_undrawn(config: Any, key: str) -> bool:
    """None of the `RHO_SOURCES` draws by itself."""
    return config.data.rlds and config.phases.options.get("rho") != "lstm"


def _unchanged_camera(config: Any, key: str) -> bool:
    return key.split(".")[2] not in config.data.augment.cameras


def _unseen_view(config: Any, key: str) -> bool:
    """What is named must have been recorded through the view that is given, whoever looks at it."""
    return "primary" not in config.demos.cameras and not (config.data.rlds or config.demos.path or config.data.mixture)


def _no_simulator(config: Any, key: str) -> bool:
    return not config.eval.episodes and (config.data.rlds or config.demos.path)


def _other_rival(config: Any, key: str) -> bool:
    """Each of these keys begins with a word of the only method that reads it."""
    return re.split("[._]", key)[1] not in config.method.split("_")


def _empty_window(config: Any, key: str) -> bool:
    """A window of no steps is a way to train without GAP; the other keys say nothing then."""
    return config.adjustment.window == 0 and config.method != "gap_watched" and key != "adjustment.window"


def _one_step(config: Any, key: str) -> bool:
    """Octo's window, or the states of a small policy."""
    return (config.model.window_size if config.backend == "octo" else config.model.proprio_history) == 1


def _no_adjustment(config: Any, key: str) -> bool:
    """Whether this key of GAP's adjustment is not read; `gap_watched` finds λ and the end of its window itself."""
    name, fixed = key.partition(".")[2], CONTROLS.get(config.method, {})
    adjusts = config.method == "vp_gap" or METHODS.get(config.method) in ("methods:Gap", "watching:GapWatched")
    if not adjusts or name in fixed or (config.method == "gap_watched" and name in ("lam", "window")):
        return True
    if name == "rho" and RHO_SOURCES.get(config.method) == "mean":  # the same at all steps of a window
        return True
    read = {"none": ("mode",), "fixed": ("mode", "lam", "window", "fixed_rho")}
    return name not in read.get(fixed.get("mode", config.adjustment.mode), ("mode", "lam", "window", "rho"))


_IDLE: tuple[tuple[str, str, Callable[[Any, str], Any]], ...] = (
    (r"demos\.(path|kind|episodes|seed|action_noise)", "with data.rlds", lambda c, _: c.data.rlds),
    (r"data\.val_fraction", "with data.rlds", lambda c, _: c.data.rlds),
    (r"phases\..*", "with data.rlds", _stored_rho),
    (r"phases\.method", "with data.rlds", lambda c, _: c.data.rlds and not c.phases.options),  # it says which there are
    (r"phases\.seed", "with data.rlds and method {0.method}, which draws nothing", _labels_undrawn),
    (r"phases\.seed", "with phases.method {0.phases.method}, which draws nothing", _draws_nothing),
    (r"model\.fusion", "with method {0.method}", lambda c, _: c.method in ("vision", "proprio", "msbot")),
    (r"demos\.(episodes|seed|action_noise)", "with demos.path", lambda c, _: c.demos.path),
    (r"demos\.kind", "without demos.path", lambda c, _: not c.demos.path),
    (r"demos\.camera", "unless demos.cameras names primary, whose view it is", _unseen_view),
    (r"data\.(shuffle_images|augment\..*)", "with method proprio", lambda c, _: c.method == "proprio"),
    (r"data\.augment\..*\..*", "unless data.augment.cameras names it", _unchanged_camera),
    (r"model\.(token_|num_|mlp_|stem_).*", "with model.pretrained", _of_the_small_octo),
    (r"model\.proprio_(history|tokens)", "with method v", lambda c, _: c.method == "v"),
    (r"model\.proprio_layers", "with method vision", lambda c, _: c.method == "vision"),
    (r"model\.encoder.*|train\.precision", "with method proprio", lambda c, _: c.method == "proprio"),
    (r"model\.(proprio|image)_history", "with method {0.method} and no model.temporal", _unread_history),
    (r"model\.encoder_width", "unless model.encoder is small", lambda c, _: c.model.encoder != "small"),
    (r"model\.temporal_.*", "without model.temporal", lambda c, _: c.model.temporal == "none"),
    (r"model\.phases", "without phase_gate", lambda c, _: c.model.fusion != "phase_gate" and c.method != "msbot"),
    (r"adjustment\..*", "with method {0.method} and adjustment.mode {0.adjustment.mode}", _no_adjustment),
    (r"adjustment\..*", "with adjustment.window 0", _empty_window),
    (r"adjustment\.rho", "with one step of state in a sample", _one_step),
    (r"rivals\..*", "with method {0.method}", _other_rival),
    (r"rivals\.keyframe_radius", "with rivals.keyframe_weight 1", lambda c, _: c.rivals.keyframe_weight == 1),
    (r"train\.steps", "with train.epochs", lambda c, _: getattr(c.train, "epochs", 0)),
    (r"eval\.(seed|videos|variants?)", "without eval.episodes", lambda c, _: not c.eval.episodes),
    (r"eval\.workers", "without eval.episodes and demonstrations to collect", _no_simulator),
    (r"eval\.execute", "with eval.ensemble", lambda c, _: c.eval.ensemble),
)
"""Keys, when they have no effect, in words and as a question."""


def without_effect(config: Any, key: str) -> str:
    """Why the dotted key has no effect in an `Experiment`, such as "with data.rlds"; empty if it has one.

    >>> from gap_vla.training.torch import SmallConfig
    >>> without_effect(SmallConfig("threading", "concat"), "adjustment.lam")
    'with method concat and adjustment.mode sample'
    """
    found = (why for keys, why, idle in _IDLE if re.fullmatch(keys, key) and idle(config, key))
    return next(found, "").format(config)
