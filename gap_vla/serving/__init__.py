"""Policies by name, over the network or from a checkpoint: openpi's wire, its client and its server."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "KeyMapping": "key_mapping",
        "LoadedPolicy": "loading",
        "PolicyServer": "server",
        "RemotePolicy": "client",
        "ServerLimits": "server",
        "load_checkpoint": "loading",
        "load_policy": "loading",
        "serve_forever": "server",
    },
)
