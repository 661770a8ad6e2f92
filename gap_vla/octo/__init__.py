"""Octo in current Flax: the same parameters, checkpoints and results as upstream's.

model              OctoModel: a model with its parameters: load, save, create_tasks, sample_actions
module             OctoModule, the Flax module inside; documents how losses and embeddings are computed
spec               ModuleSpec: classes named in configs
blocks             Compute: arithmetic type; BlockTransformer: where GAP intercepts
optimizer          create_optimizer: upstream's optimizer and schedules
parameters         merge_params: pretrained parameters into a changed model, with an account
presets            small_config, published_config: configs
"""
