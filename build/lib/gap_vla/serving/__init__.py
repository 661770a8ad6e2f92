"""Policies by name, over the network or from a checkpoint: openpi's wire, its client and its server."""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "key_mapping": "KeyMapping",
        "loading": "LoadedPolicy load_checkpoint load_policy",
        "server": "PolicyServer ServerLimits serve_forever",
        "client": "RemotePolicy",
    },
)
