"""Other methods that hold the proprioceptive branch back, by name: what GAP is compared with besides VP.

One small file each; a method is a `Rival`. Chosen with `--config.method=NAME`, its options with `config.rival`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from gap_vla.core.typed_config import ConfigError
from gap_vla.training.rivals.interface import Rival

RIVALS = {
    "constant_lr": "ConstantLearningRate",
    "gradnorm": "GradNorm",
    "ogm_ge": "OgmGe",
    "proprio_dropout": "ProprioDropout",
    "proprio_mask": "ProprioMask",
    "proprio_noise": "ProprioNoise",
}
"""Name, which is also that of its file, to class."""


def rival_of(method: str, options: Mapping[str, Any] | None = None) -> Rival | None:
    """The rival called `method`, or None for methods that are none (v, vp, vp_gap).

    Raises:
        ConfigError: an option that the rival does not have, or an impossible value.
    """
    if method not in RIVALS:
        if options:
            raise ConfigError(f"rival has the options {sorted(options)}, but method {method} is none of {list(RIVALS)}")
        return None
    kind = getattr(importlib.import_module(f"{__name__}.{method}"), RIVALS[method])
    known = [field for field in kind.__dataclass_fields__]
    unknown = sorted(set(options or {}) - set(known))
    if unknown:
        raise ConfigError(f"rival.{unknown[0]} is no option of method {method}; it has {', '.join(known) or 'none'}")
    return kind(**(options or {}))


__all__ = ["RIVALS", "Rival", "rival_of"]
