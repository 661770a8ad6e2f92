"""Octo in current Flax: the same parameters, checkpoints and results as upstream's.

OctoModel          a model with its parameters: load, save, create_tasks, sample_actions
OctoModule         the Flax module inside; its file documents how losses and embeddings are computed
OctoTransformer    tokenizers, projections and the block-wise causal transformer
BlockTransformer   where GAP's interceptor acts, on `TimestepGroup`s
ModuleSpec         classes named in configs
Compute            arithmetic type, looped layers, rematerialisation
create_optimizer   upstream's optimizer and schedules
merge_params       pretrained parameters into a changed model, with an account
small_config       configs of small models
"""

from gap_vla.core.lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "model": "OctoModel",
        "normalization": "NormalizationType",
        "module": "OctoModule OctoTransformer",
        "block_transformer": "BlockTransformer",
        "token_groups": "PrefixGroup TimestepGroup TokenGroup",
        "spec": "ModuleSpec",
        "blocks": "Compute",
        "optimizer": "create_optimizer",
        "parameters": "merge_params",
        "presets": "small_config",
        "checkpoint": "CheckpointError",
        "batches": "BatchError",
    },
)
