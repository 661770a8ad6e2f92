"""`OctoModel`: the module with its parameters, and everything that a checkpoint carries."""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float

from gap_vla.core.errors import ConfigError
from gap_vla.core.hub import local_directory
from gap_vla.octo import checkpoint
from gap_vla.octo.blocks import Compute
from gap_vla.octo.language import HFTokenizer, recall_language
from gap_vla.octo.module import OctoModule
from gap_vla.octo.normalization import needed_statistics, stated_normalization, unnormalize
from gap_vla.octo.parameters import initialize, initialize_around, parameter_shapes
from gap_vla.octo.spec import ModuleSpec
from gap_vla.octo.tokenizers import without_input


@struct.dataclass
class OctoModel:
    """An Octo model that can act, be fine-tuned and be saved. A pytree; `replace` gives changed copies.

    Example:
        >>> model = OctoModel.load_pretrained("runs/threading/checkpoint")          # doctest: +SKIP
        >>> task = model.create_tasks(texts=["thread the needle"])                  # doctest: +SKIP
        >>> actions = model.sample_actions(observation, task, rng=key,              # doctest: +SKIP
        ...     unnormalization_statistics=model.dataset_statistics["action"])      # (B, H, A)
    """

    module: OctoModule = struct.field(pytree_node=False)
    text_processor: Any = struct.field(pytree_node=False)
    config: Any = struct.field(pytree_node=False)
    params: Any
    example_batch: Any
    dataset_statistics: Any

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        example_batch: Mapping[str, Any],
        text_processor: Any = None,
        rng: jax.Array | None = None,
        dataset_statistics: Mapping[str, Any] | None = None,
        compute: Compute | None = None,
        pretrained: Mapping[str, Any] | None = None,
    ) -> OctoModel:
        """A model with fresh parameters, except for those that `pretrained` has under the same name and shape.

        Args:
            config: as in `config.json`; the model is `config["model"]`.
            example_batch: `observation` and `task` (and `action`, ...) whose shapes the model is built for; a tokenizer
                that finds nothing in it is left out, with a warning.
            compute: see `Compute`; the default computes everything in float32.
            pretrained: parameters of another model, to fine-tune; what is taken over and what not is printed.
        """
        module = OctoModule.create(**config["model"], compute=compute)
        example = jax.tree.map(lambda leaf: leaf[:1], dict(example_batch))
        rng = jax.random.PRNGKey(0) if rng is None else rng
        if pretrained is None:
            params = initialize(module, example, rng)
        else:
            params, _ = initialize_around(module, example, rng, pretrained)
        _warn_of_missing_inputs(module, example)
        return cls(
            module=module,
            params=params,
            text_processor=text_processor,
            example_batch=example,
            config=copy.deepcopy(config),
            dataset_statistics=copy.deepcopy(dataset_statistics),
        )

    @classmethod
    def load_pretrained(
        cls, checkpoint_path: str | Path, step: int | None = None, compute: Compute | None = None
    ) -> OctoModel:
        """Load upstream's directory layout, from disk or from `"hf://<owner>/<repository>"`.

        Args:
            step: which parameters, the latest if None.

        Raises:
            UserError: a file cannot be read, or the parameters are of another architecture; names what differs.
        """
        root = local_directory(checkpoint_path)
        config = checkpoint.read_config(root)
        example = checkpoint.read_example_batch(root)
        params, step = checkpoint.read_params(root, step)
        module = OctoModule.create(**config["model"], compute=compute)
        checkpoint.check_params(params, parameter_shapes(module, example), checkpoint.params_path(root, step))
        text_processor = config["text_processor"] and ModuleSpec.instantiate(config["text_processor"])()
        if isinstance(text_processor, HFTokenizer):  # the checkpoint may carry the file it needs
            text_processor = dataclasses.replace(text_processor, directory=str(root.absolute()))
        _warn_of_missing_inputs(module, example)
        return cls(
            module=module,
            params=jax.tree.map(jnp.asarray, params),
            text_processor=text_processor,
            example_batch=example,
            config=config,
            dataset_statistics=checkpoint.read_statistics(root),
        )

    def save_pretrained(self, step: int, checkpoint_path: str | Path) -> None:
        """Write upstream's directory layout; config, example batch and statistics only where they do not exist yet.

        So is the tokenizer that the model's checkpoint carried.

        Raises:
            UserError: the step is there already, or a config of another model.
        """
        root = Path(checkpoint_path).expanduser()
        words = self.text_processor.carried() if isinstance(self.text_processor, HFTokenizer) else {}
        described = (self.config, self.example_batch, self.dataset_statistics)
        checkpoint.write_checkpoint(root, step, self.params, *described, beside=words)

    def create_tasks(
        self, goals: Mapping[str, Any] | None = None, texts: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The `tasks` argument of the other methods, from goal images and/or instructions.

        Args:
            goals: for example `{"image_primary": uint8[B, h, w, 3]}`.
            texts: one instruction per batch entry; needs the model's text processor.

        With texts alone, the pictures of the example batch are zeros, and marked as padding; what goals lack is left
        out, with a warning.
        """
        if isinstance(texts, str):
            raise ConfigError(f"texts is the one text {texts!r:.60}; give a list with one for each task")
        if texts is not None and self.text_processor is None:
            raise ConfigError("this model has no text processor, so it takes no texts; give goals")
        example = self.example_batch["task"]
        if goals is not None:
            batch = len(next(iter(goals.values())))
            task: dict[str, Any] = dict(goals)
            masks = {key: np.ones(batch, bool) for key in goals}
        else:
            assert texts is not None, "give goals, texts or both"
            batch = len(texts)
            pictures = {key: example[key] for key in example if key not in ("pad_mask_dict", "language_instruction")}
            task = {key: np.zeros((batch, *value.shape[1:]), value.dtype) for key, value in pictures.items()}
            masks = {key: np.zeros(batch, bool) for key in pictures}
        if "language_instruction" not in masks:  # a goal of this name is an embedding
            if self.text_processor is not None:
                said = [""] * batch if texts is None else list(texts)
                task["language_instruction"] = self.text_processor.encode(said)
            masks["language_instruction"] = np.full(batch, texts is not None)
        task["pad_mask_dict"] = masks
        check_batch("task", task, example, leading=1)
        return task

    def sample_actions(
        self,
        observations: Mapping[str, Any],
        tasks: Mapping[str, Any],
        unnormalization_statistics: Mapping[str, Any] | None = None,
        normalization_type: str | None = None,
        timestep_pad_mask: Bool[Array, "B W"] | None = None,
        train: bool = False,
        argmax: bool = False,
        sample_shape: Sequence[int] = (),
        rng: jax.Array | None = None,
        temperature: float = 1.0,
        embodiment_action_dim: int | None = None,
    ) -> Float[Array, "*sample B H A"]:
        """float32[*sample_shape, B, H, A]: what to do from the last window step on.

        Args:
            observations: as in training: `proprio` is normalised (`gap_vla.rlds.normalize`), pictures are uint8.
            unnormalization_statistics: `dataset_statistics["action"]` for actions in the robot's units; None for
                normalised ones. Dimensions beyond its length are dropped; those its `mask` excludes are left as is.
            normalization_type: "normal" or "bounds"; None: as the config says, else "normal".
            timestep_pad_mask: bool[B, W], True where a step was seen, as the present one was; the observations' own by
                default.
            argmax, temperature: how the discrete head samples; the other heads ignore them.
            embodiment_action_dim: dimensions of the robot's actions, for a diffusion head that predicts more; those of
                the statistics by default.
            rng: needed by heads that sample; `jax.random.PRNGKey(0)` by default, so pass your own.
        """
        check_batch("observation", observations, self.example_batch["observation"], leading=2)
        check_batch("task", tasks, self.example_batch["task"], leading=1)
        mask = observations["timestep_pad_mask"] if timestep_pad_mask is None else timestep_pad_mask
        statistics, dims = unnormalization_statistics, embodiment_action_dim
        kind = normalization_type or stated_normalization(self.config) or "normal"
        if statistics is not None and dims is None:
            dims = len(next(iter(needed_statistics(statistics, kind).values())))
        tasks = recall_language(self.module, self.params, tasks)
        static = (self.module, train, argmax, tuple(sample_shape))
        rng = jax.random.PRNGKey(0) if rng is None else rng
        actions = _sample_actions(static, self.params, dict(observations), dict(tasks), mask, rng, temperature, dims)
        return actions if statistics is None else unnormalize(actions, statistics, kind)

    def get_pretty_spec(self) -> str:
        """Observations, tasks and actions with their shapes, the parts of the model and its number of parameters."""
        observation, task = self.example_batch["observation"], self.example_batch["task"]
        transformer = self.module.octo_transformer
        lines = ["Observations (batch B, window W):", *_shapes(observation, ("B", "W"))]
        lines += ["Task (batch B):", *_shapes(task, ("B",))]
        lines += [f"Longest window: {transformer.max_horizon}"]
        lines += ["Tokenizers:"]
        for kind, tokenizers in (("obs", transformer.observation_tokenizers), ("task", transformer.task_tokenizers)):
            deaf = without_input(tokenizers, self.example_batch)
            lines += [f"  {kind}_{n}: {type(t).__name__}{' (no input)' * (n in deaf)}" for n, t in tokenizers.items()]
        lines += ["Heads:"]
        for name, head in self.module.heads.items():
            gives = f"(B, {head.action_horizon}, {head.action_dim})"
            lines += [f"  {name}: {type(head).__name__} reads {head.readout_key}, gives {gives}"]
        lines += [f"Parameters: {optax.tree_utils.tree_size(self.params):,}"]
        return "\n".join(lines)


def check_batch(kind: str, data: Mapping[str, Any], example: Mapping[str, Any], leading: int) -> None:
    """Compares shapes with the example the model was built for, apart from the first `leading` axes.

    Missing and additional keys are allowed (a missing camera is padding) and warned about, but for a missing
    instruction; an instruction may be word pieces in one and an embedding in the other.

    Raises:
        ConfigError: an entry has another shape, or a picture is not uint8.
    """
    found, expected = checkpoint.flatten(data), checkpoint.flatten(example)
    # pad_mask_dict may lack entries, and say of an instruction that there is none.
    extra, missing = (
        sorted(key for key in keys if not key.startswith(("pad_mask_dict/", "language_instruction")))
        for keys in (set(found) - set(expected), set(expected) - set(found))
    )
    if extra:
        warnings.warn(f"{kind}: ignored or unknown to the model: {extra}", stacklevel=3)
    if missing:
        warnings.warn(f"{kind}: the model was built with {missing}, which are missing here", stacklevel=3)
    for key in sorted(set(found) & set(expected)):
        shape, wanted = np.shape(found[key]), np.shape(expected[key])
        if len(shape) != len(wanted) or shape[leading:] != wanted[leading:]:
            axes = ", ".join([*"BW"[:leading], *map(str, wanted[leading:])])
            raise ConfigError(f"{kind}/{key} is {shape}, the model was built for ({axes})")
        if key.startswith("image_") and found[key].dtype != np.uint8:
            raise ConfigError(f"{kind}/{key} is {found[key].dtype}, the model takes pictures as uint8")


def _warn_of_missing_inputs(module: OctoModule, example: Mapping[str, Any]) -> None:
    transformer = module.octo_transformer
    for kind, tokenizers in (("obs", transformer.observation_tokenizers), ("task", transformer.task_tokenizers)):
        for name, why in without_input(tokenizers, example).items():
            what = f"{kind}_{name}, which {why} in the example batch"
            warnings.warn(f"the model is without {what}; give an example that holds it, or take it out", stacklevel=3)


def _shapes(tree: Mapping[str, Any], leading: tuple[str, ...]) -> list[str]:
    return [
        f"  {key}: {np.asarray(leaf).dtype}[{', '.join([*leading, *map(str, leaf.shape[len(leading) :])])}]"
        for key, leaf in sorted(checkpoint.flatten(tree).items())
    ]


@functools.partial(jax.jit, static_argnums=0)
def _sample_actions(
    static: tuple[Any, ...],
    params: Any,
    observations: Any,
    tasks: Any,
    timestep_pad_mask: jax.Array,
    rng: jax.Array,
    temperature: float,
    dims: int | None,
) -> jax.Array:
    module, train, argmax, sample_shape = static

    def act(bound: OctoModule) -> jax.Array:
        head = bound.heads["action"]
        read = [head.readout_key]
        outputs = bound.octo_transformer(observations, tasks, timestep_pad_mask, train=train, only=read)
        return head.predict_action(
            outputs,
            rng=rng,
            train=train,
            argmax=argmax,
            sample_shape=sample_shape,
            temperature=temperature,
            embodiment_action_dim=dims,
        )

    return module.apply({"params": params}, method=act)
