"""M6 for each predicted action (`rho="chunk"`) in Octo. The head that regresses: `test_octo_adjusted_step.py`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_vla.adjustment.jax import adjusted_gradients, chunk_gradients, match_group, path_of
from gap_vla.core.errors import ConfigError
from gap_vla.octo.heads import ActionHead, DiscreteActionHead
from gap_vla.octo.module import OctoModule
from gap_vla.octo.parameters import parameter_shapes
from gap_vla.octo.presets import example_batch, small_config
from gap_vla.octo.spec import ModuleSpec
from tests.helpers.octo_golden import quick

jax.config.update("jax_default_matmul_precision", "highest")  # as on a processor; a GPU would multiply in TF32

HEADS = ("diffusion", "discrete")
SHAPE = (3, 2, 4)  # batch, window, actions
BATCH = example_batch(image_size=8, proprio_dim=5, batch_size=SHAPE[0], window_size=SHAPE[1])
BATCH["action_pad_mask"][1, 1, 2:] = False
WEIGHT = np.random.default_rng(2).uniform(size=SHAPE).astype(np.float32)


class Octo:
    def __init__(self, head):
        sizes = dict(image_size=8, proprio_dim=5, token_embedding_size=32, num_layers=1, stem_features=(32,))
        config = small_config(**sizes, head="diffusion")
        if head == "discrete":
            fields = {"readout_key": "readout_action", "action_horizon": 4, "token_per": "", "use_map": True}
            head = ModuleSpec.create(DiscreteActionHead, **fields, normalization_type="normal")
            config["model"]["heads"]["action"] = head
        self.module, rng = OctoModule.create(**config["model"]), np.random.default_rng(1)
        shapes = parameter_shapes(self.module, BATCH)
        self.params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)

    def bound(self, params):
        return self.module.bind({"params": params}, rngs={"dropout": jax.random.PRNGKey(0)})

    @staticmethod
    def outputs(bound):
        observation = BATCH["observation"]
        return bound.octo_transformer(observation, BATCH["task"], observation["timestep_pad_mask"], train=False)

    @staticmethod
    def loss(bound, outputs, weight=None):
        mask = BATCH["observation"]["timestep_pad_mask"]
        given = BATCH["action"], mask, BATCH["action_pad_mask"]
        return bound.heads["action"].loss(outputs, *given, train=False, weight=weight)

    def in_two_passes(self, params):
        """The loss of w·head(v, p) + (1 - w)·head(v, stop_gradient(p)), as METHOD writes it."""
        whole = self.outputs(self.bound(params))
        with adjusted_gradients(jnp.zeros(SHAPE[:2])):
            stopped = self.outputs(self.bound(params))

        def both(head, args, kwargs, context):
            if not isinstance(context.module, ActionHead) or context.method_name != "__call__":
                return head(*args, **kwargs)
            one, other = (head(outputs, *args[1:], **kwargs) for outputs in (whole, stopped))
            w = WEIGHT[..., None] if one.ndim != 5 else WEIGHT[..., None, None]  # actions, logits
            w = w if one.shape[-2] == SHAPE[2] or one.ndim == 5 else np.repeat(WEIGHT, one.shape[-1] // SHAPE[2], -1)
            return w * one + (1 - w) * other

        with nn.intercept_methods(both):
            return self.loss(self.bound(params), whole)[0]


@pytest.fixture(scope="module", params=HEADS)
def octo(request):
    return Octo(request.param)


def leaves(tree):
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_each_action_has_its_own_factor_as_in_two_passes_and_the_loss_is_the_plain_one(octo):
    group = match_group(octo.params)

    def plain(params):
        bound = octo.bound(params)
        return octo.loss(bound, octo.outputs(bound))[0]

    def losses(params):
        bound = octo.bound(params)
        loss, metrics = octo.loss(bound, octo.outputs(bound), WEIGHT)
        return (loss, metrics["weighted"]), metrics

    def compare(params):
        ours, reference = chunk_gradients(losses, params, group), jax.grad(octo.in_two_passes)(params)
        return jax.value_and_grad(plain)(params), ours, reference

    (value, without), ((loss, _), found), expected = quick(compare, octo.params)(octo.params)
    assert value == loss
    without, found, expected = map(leaves, (without, found, expected))
    others = [path for path in found if path not in group]  # together: some biases learn from rounding alone
    for paths in (*([path] for path in group), others):
        of_plain, of_ours, of_reference = (
            np.concatenate([np.ravel(tree[path]) for path in paths]) for tree in (without, found, expected)
        )
        assert np.linalg.norm(of_ours - of_reference) < 1e-4 * np.linalg.norm(of_reference), paths[0]
        differs = np.linalg.norm(of_ours - of_plain) > 1e-2 * np.linalg.norm(of_plain)
        assert differs == (paths[0] in group), paths[0]


def test_rho_of_another_number_of_actions_is_refused(octo):
    bound = octo.bound(octo.params)
    with pytest.raises(ConfigError, match=r"\[3, 2, 3\]"):
        octo.loss(bound, {}, WEIGHT[..., :3])
