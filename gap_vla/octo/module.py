"""The Octo model as a Flax module.

How it is called (`params` is the tree of `OctoModel.params`, `key` a PRNG key):

    # groups of tokens after the transformer, by name; ["readout_action"].tokens is float32[B, W, n, D]
    outputs = module.apply({"params": params}, observations, tasks, timestep_pad_mask, train=True,
                           rngs={"dropout": key}, method="octo_transformer")

    # the loss of a head, differentiable in params
    bound = module.bind({"params": params}, rngs={"dropout": key})
    outputs = bound.octo_transformer(observations, tasks, timestep_pad_mask, train=True, only=["readout_action"])
    loss, metrics = bound.heads["action"].loss(
        outputs, batch["action"], timestep_pad_mask, batch["action_pad_mask"], train=True)

Parameter names are upstream's: `octo_transformer/...` and `heads_<name>/...`, children of dictionary fields as
`<field>_<key>`, for example `octo_transformer/observation_tokenizers_primary/SmallStem16_0/StdConv_0/kernel`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Bool

from gap_vla.core.errors import ConfigError
from gap_vla.octo.blocks import BlockTransformer, Compute
from gap_vla.octo.spec import ModuleSpec, hashable
from gap_vla.octo.token_groups import AttentionRule, PrefixGroup, TimestepGroup, TokenGroup

_TASK_RULES: FrozenDict[str, AttentionRule] = FrozenDict({"task_*": AttentionRule.CAUSAL})
_OBSERVATION_RULES: FrozenDict[str, AttentionRule] = FrozenDict(
    {"task_*": AttentionRule.CAUSAL, "obs_*": AttentionRule.CAUSAL}
)


class OctoTransformer(nn.Module):
    """Tokenizes, projects, embeds positions and runs the block-wise causal transformer.

    Attributes:
        observation_tokenizers, task_tokenizers: by name; their order is the order in the sequence.
        readouts: name to number of tokens; readouts look at everything up to their timestep, nothing looks at them.
        transformer_kwargs: fields of `Transformer`.
        token_embedding_size: D.
        max_horizon: longest window; positions are embedded per timestep.
        repeat_task_tokens: also show the task's tokens at every timestep.
        use_correct_attention: False for the models of December 2023, see `layout_mask`.
    """

    observation_tokenizers: Mapping[str, nn.Module]
    task_tokenizers: Mapping[str, nn.Module]
    readouts: Mapping[str, int]
    transformer_kwargs: Mapping[str, Any]
    token_embedding_size: int
    max_horizon: int
    repeat_task_tokens: bool = False
    use_correct_attention: bool = False
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        observations: Mapping[str, Any],
        tasks: Mapping[str, Any],
        timestep_pad_mask: Bool[Array, "B W"],
        train: bool = False,
        only: Collection[str] | None = None,
    ) -> dict[str, TokenGroup]:
        """Token groups by name: `task_*`, `obs_*`, `readout_*`, and the concatenations `task` and `obs`.

        Args:
            observations: leading axes (B, W): `image_*` uint8[B, W, h, w, 3], `proprio` float32[B, W, P],
                `pad_mask_dict` of bool[B, W]; other entries are ignored.
            tasks: leading axis (B,): goal images `image_*`, `language_instruction`, `pad_mask_dict` of bool[B].
            timestep_pad_mask: bool[B, W], False for steps before the episode.
            only: names of timestep groups, such as the head's `readout_key`; if they all are, nothing else is
                returned and most of the last layer is not computed.
        """
        batch, horizon = timestep_pad_mask.shape
        if horizon > self.max_horizon:
            raise ConfigError(f"the window is {horizon} steps long; this model embeds at most {self.max_horizon}")

        prefix, steps = [], []
        for name, tokenizer in self.task_tokenizers.items():
            group = tokenizer(observations, tasks, train=train)
            if group is None:
                continue
            tokens = self._project(f"task_{name}", group.tokens, per_timestep=False)
            prefix.append(PrefixGroup.create(tokens, group.mask, name=f"task_{name}", attention_rules=_TASK_RULES))
        for name, tokenizer in self.observation_tokenizers.items():
            group = tokenizer(observations, tasks, train=train)
            if group is None:
                continue
            tokens = self._project(f"obs_{name}", group.tokens, per_timestep=True)
            mask = group.mask & timestep_pad_mask.astype(bool)[:, :, None]
            steps.append(TimestepGroup.create(tokens, mask, name=f"obs_{name}", attention_rules=_OBSERVATION_RULES))
        if not steps:
            raise ConfigError(
                f"no observation tokenizer found its keys; the observations are {sorted(observations)}, the tokenizers "
                f"{sorted(self.observation_tokenizers)}: use data with their cameras, or another checkpoint"
            )
        if self.repeat_task_tokens:
            for task in prefix:
                shape = (batch, horizon, *task.tokens.shape[1:])
                steps.append(
                    TimestepGroup.create(
                        jnp.broadcast_to(task.tokens[:, None], shape),
                        jnp.broadcast_to(task.mask[:, None], shape[:-1]),
                        name=f"obs_{task.name}",
                        attention_rules=_OBSERVATION_RULES,
                    )
                )
        for name, number in self.readouts.items():
            shape = (batch, horizon, number, self.token_embedding_size)
            tokens = self._embed_position(f"readout_{name}", jnp.zeros(shape), per_timestep=True)
            rules: FrozenDict[str, AttentionRule] = FrozenDict(
                {**_OBSERVATION_RULES, f"readout_{name}": AttentionRule.CAUSAL}
            )
            steps.append(TimestepGroup.create(tokens, name=f"readout_{name}", attention_rules=rules))

        if only is not None and not set(only) <= {group.name for group in steps}:
            only = None
        prefix, steps = BlockTransformer(
            self.transformer_kwargs,
            use_correct_attention=self.use_correct_attention,
            compute=self.compute,
            name="BlockTransformer_0",
        )(prefix, steps, train, only=only)
        return self._outputs(prefix, steps) if only is None else _float_groups(steps)

    def _project(self, name: str, tokens: jax.Array, *, per_timestep: bool) -> jax.Array:
        dense = nn.Dense(self.token_embedding_size, name=f"{name}_projection", dtype=self.compute.dtype)
        return self._embed_position(name, dense(tokens), per_timestep=per_timestep)

    def _embed_position(self, name: str, tokens: jax.Array, *, per_timestep: bool) -> jax.Array:
        """Adds the learned embedding of the token's place; a shorter window takes the first of the timesteps."""
        shape = (1, self.max_horizon, *tokens.shape[2:]) if per_timestep else (1, *tokens.shape[1:])
        embedding = self.param(f"{name}_pos_embedding", nn.initializers.normal(0.02), shape)
        return tokens + (embedding[:, : tokens.shape[1]] if per_timestep else embedding).astype(tokens.dtype)

    def _outputs(self, prefix: Sequence[PrefixGroup], steps: Sequence[TimestepGroup]) -> dict[str, TokenGroup]:
        outputs = _float_groups([*prefix, *steps])
        if prefix:
            outputs["task"] = TokenGroup.concatenate([outputs[group.name] for group in prefix])
        outputs["obs"] = TokenGroup.concatenate(
            [outputs[group.name] for group in steps if group.name.startswith("obs_")]
        )
        return outputs


def _float_groups(groups: Sequence[PrefixGroup | TimestepGroup]) -> dict[str, TokenGroup]:
    return {group.name: TokenGroup(group.tokens.astype(jnp.float32), group.mask) for group in groups}


class OctoModule(nn.Module):
    """The transformer and its heads; see the module's documentation for how it is called."""

    octo_transformer: OctoTransformer
    heads: Mapping[str, nn.Module]

    def __call__(
        self,
        observations: Mapping[str, Any],
        tasks: Mapping[str, Any],
        timestep_pad_mask: Bool[Array, "B W"],
        train: bool = True,
    ) -> tuple[dict[str, TokenGroup], dict[str, Any]]:
        """Runs everything once, for initialisation."""
        outputs = self.octo_transformer(observations, tasks, timestep_pad_mask, train=train)
        return outputs, {name: head(outputs, train=train) for name, head in self.heads.items()}

    @classmethod
    def create(
        cls,
        observation_tokenizers: Mapping[str, Mapping[str, Any]],
        task_tokenizers: Mapping[str, Mapping[str, Any]],
        heads: Mapping[str, Mapping[str, Any]],
        compute: Compute | None = None,
        **transformer: Any,
    ) -> OctoModule:
        """The module of `config["model"]`: module specs and fields of `OctoTransformer`; `compute` is how, not what."""
        compute = Compute() if compute is None else compute

        def tokenizer(spec: Mapping[str, Any]) -> nn.Module:
            target = ModuleSpec.instantiate(spec)
            fields = getattr(target.func, "__dataclass_fields__", {})  # type: ignore[attr-defined]
            return target(compute=compute) if "compute" in fields else target()

        octo_transformer = OctoTransformer(
            observation_tokenizers=FrozenDict({n: tokenizer(spec) for n, spec in observation_tokenizers.items()}),
            task_tokenizers=FrozenDict({n: tokenizer(spec) for n, spec in task_tokenizers.items()}),
            compute=compute,
            **{name: hashable(value) for name, value in transformer.items()},
        )
        return cls(octo_transformer, FrozenDict({n: ModuleSpec.instantiate(spec)() for n, spec in heads.items()}))
