"""The methods by name, and the object behind a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gap_vla.policies import registry

if TYPE_CHECKING:
    from gap_vla.policies.config import RivalsConfig
    from gap_vla.policies.methods.base import Method

METHODS: tuple[str, ...] = tuple(registry.METHODS)
"""Every training method; each is one file in `gap_vla.policies.methods`."""


def method_of(name: str, options: RivalsConfig | None = None) -> Method:
    """The method of that name.

    Args:
        options: settings of the rival methods; default: the library's.

    Raises:
        ConfigError: unknown name; the message lists the names there are.
    """
    from gap_vla.core.typed_config import choose

    return registry.find(registry.METHODS, choose(name, METHODS, "method"))(options)
