"""From a stored ρ to Octo's parameters after a step (M6, M7): the loop beside the equations, token by token.

What is expected is computed from the store's own ρ, the plain loss of one sample at a time, and AdamW written out. The
gradient at a single proprioceptive token is that of its own entry of the positional embedding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from gap_vla.adjustment.schedule import Factors
from gap_vla.rlds.statistics import normalize
from gap_vla.rlds.store import EpisodeStore, write_store
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import OctoTrainer, make_loader
from gap_vla.training.step import compilation, head_loss
from tests.helpers.made_up_demos import made_up_episodes

MODEL = {
    "token_embedding_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "mlp_dim": 32,
    "stem_features": [32, 32],
    "window_size": 2,
    "action_horizon": 3,
}
STEPS, LAST = 7, 3  # λ and ρ act during the first half: steps 0 to 3
LAM, CLIP, DECAY, WARMUP, PEAK = 0.3, 0.5, 0.1, 2, 1e-2
TOLERANCE = 2e-3  # of what a leaf moves; any other factor changes that by several per cent
KERNEL, BIAS, PLACE = (
    f"octo_transformer/obs_proprio_{end}" for end in ("projection/kernel", "projection/bias", "pos_embedding")
)


ADJUSTED = {
    # factor of each token's gradient, of the summed gradient, and of the update; `real` tells steps from padding
    "sample": ("vp_gap", {}, lambda rho, real: (1 - rho, 1.0, LAM)),
    "chunk_max": ("vp_gap", {"rho": "chunk_max"}, lambda rho, real: (1 - rho.max(-1), 1.0, LAM)),
    "chunk": ("vp_gap", {"rho": "chunk"}, lambda rho, real: (1 - rho, 1.0, LAM)),
    "batch": ("vp_gap", {"mode": "batch"}, lambda rho, real: (np.ones_like(rho), 1 - LAM * rho[real].max(), 1.0)),
    "update": (
        "vp_gap",
        {"mode": "update"},
        lambda rho, real: (np.ones_like(rho), 1.0, LAM * (1 - rho[real].mean())),
    ),
    "neutral": (
        "vp_gap",
        {"mode": "fixed", "fixed_rho": 0.0, "lam": 1.0},
        lambda rho, real: (np.ones_like(rho), 1.0, 1.0),
    ),
    "slow": ("vp_slow", {"constant": 0.2}, lambda rho, real: (np.ones_like(rho), 1.0, 0.2)),
    "vp": ("vp", {}, lambda rho, real: (np.ones_like(rho), 1.0, 1.0)),
}


def flattened(tree):
    return traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def configured(method, adjustment):
    values = {"task": "threading", "method": method, "model": MODEL, "eval": {"execute": 1}, "adjustment": adjustment}
    values["train"] = {"steps": STEPS, "batch_size": 6, "log_every": 1, "validate_every": 99, "save_every": 99}
    values["optimizer"] = {"warmup_steps": WARMUP, "learning_rate": PEAK, "weight_decay": DECAY}
    values["optimizer"] |= {"clip_gradient": CLIP, "moment_dtype": "float32"}
    return FinetuneConfig.from_dict(values)


class Training:
    """One training from the trainer's first state; `steps` holds (state before, batch, state after, measurements)."""

    def __init__(self, config, store, trainer, first):
        self.store, self.trainer, self.steps = store, trainer, []
        trainer.schedule, trainer.state = config.schedule, jax.tree_util.tree_map(jnp.copy, first)
        for step, batch in zip(range(STEPS), make_loader(config, store, "train", train=True)):
            before, inputs = jax.device_get(trainer.state), trainer.built.inputs(batch)
            measured = trainer.step(inputs, step, measure=False).values()
            self.steps.append((before, jax.device_get(inputs), jax.device_get(trainer.state), measured))

    def tree(self, packed):
        return flattened(self.trainer.built.packing.unpack(packed))

    def stored_rho(self, batch, name):
        """ρ [B, W] from the store's column, at the steps whose proprioception and number the batch holds, or
        [B, W, H] of the three actions there."""
        data, observation = self.store.split("train"), batch["observation"]
        states = normalize(np.asarray(data.fields["proprio"]), self.store.statistics["proprio"], "normal")
        steps = np.concatenate([np.arange(n) for n in np.diff(data.offsets)])
        found = np.zeros((*observation["timestep"].shape, 3))
        for place in np.ndindex(found.shape[:2]):
            same = (states == observation["proprio"][place]).all(1) & (steps == observation["timestep"][place])
            step = int(np.flatnonzero(same).item())
            last = min(end for end in data.offsets if end > step) - 1
            found[place] = [data.fields["rho"][min(step + h, last)] for h in range(3)]
        return found if name.startswith("chunk") else found[..., 0]


@functools.cache
def plain_gradient(module):
    def loss(params, batch, rng):
        return head_loss(module, params, batch, rng, True, None)[0]

    return jax.jit(jax.grad(loss), compiler_options=compilation(quick=True))


def expected_gradients(training, params, batch, rng, sample, summed):
    """Σ over samples of the plain gradient, the proprioceptive leaves' token by token with their factors; with a factor
    for every action, Σ over actions."""
    tree = traverse_util.unflatten_dict(params, sep="/")
    mask = batch["action_pad_mask"] & batch["observation"]["timestep_pad_mask"][:, :, None, None]
    total, parts = {}, np.ndindex(sample.shape if sample.ndim == 3 else sample.shape[:1])
    for part in parts:
        alone, b = np.zeros_like(mask), part[0]
        alone[part] = mask[part]  # the others stay in the batch, since the head's dropout is drawn for all of it
        if not alone.any():
            continue
        gradients = plain_gradient(training.trainer.built.model.module)(tree, {**batch, "action_pad_mask": alone}, rng)
        flat = {path: np.float64(g) for path, g in flattened(gradients).items()}
        tokens, states = flat[PLACE][0], batch["observation"]["proprio"][b]  # gradients [W, P, E] at the tokens
        np.testing.assert_allclose(flat[KERNEL][0], np.einsum("wp,wpe->e", states, tokens), rtol=1e-3, atol=1e-4)
        tokens = summed * (sample[part] if sample.ndim == 3 else sample[b][:, None, None]) * tokens
        flat |= {PLACE: tokens[None], BIAS: tokens.sum((0, 1)), KERNEL: np.einsum("wp,wpe->e", states, tokens)[None]}
        for path, gradient in flat.items():
            total[path] = total.get(path, 0) + alone.sum() / mask.sum() * gradient
    return total


def expected_parameters(training, before, gradients, step, lam):
    """AdamW after clipping; λ on the normalised direction, not on the decay, which kernels alone have."""
    params = training.tree(before.params)
    moments = [training.tree(optax.tree_utils.tree_get(before.opt_state, name)) for name in ("mu", "nu")]
    part = max(step - WARMUP, 0) / (STEPS - WARMUP)
    rate = PEAK * min(step / WARMUP, (1 + np.cos(np.pi * part)) / 2)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradients.values()))
    assert norm > CLIP, "clipping should act, so that it is seen which gradients it measures"
    found = {}
    for path, p in params.items():
        gradient = gradients[path] * CLIP / norm
        m = (0.9 * moments[0][path] + 0.1 * gradient) / (1 - 0.9 ** (step + 1))
        v = (0.999 * moments[1][path] + 0.001 * gradient**2) / (1 - 0.999 ** (step + 1))
        direction = m / (np.sqrt(v) + 1e-8) * (lam if path in (KERNEL, BIAS, PLACE) else 1)
        found[path] = p - rate * (direction + ("kernel" in path) * DECAY * p)
    return found


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The finished training of each name in `ADJUSTED`; one compiled step serves all but `chunk`."""
    folder, episodes = tmp_path_factory.mktemp("dots"), made_up_episodes()
    write_store(folder, {"train": episodes[:-1], "val": episodes[-1:]}, source="made up", source_hash="dots")
    store = EpisodeStore.open(folder)
    trainer = OctoTrainer.on(configured("vp_gap", {}), store)
    first = jax.tree_util.tree_map(jnp.copy, trainer.state)

    @functools.cache
    def of(name):
        method, adjustment, _ = ADJUSTED[name]
        config = configured(method, {"lam": LAM, "window": 0.5, **adjustment})
        return Training(config, store, OctoTrainer.on(config, store) if name == "chunk" else trainer, first)

    return of


@pytest.mark.parametrize("name", [name for name in ADJUSTED if name != "neutral"])  # which is vp, below
def test_the_step_moves_every_leaf_as_the_equations_say(name, trainings):
    training, factors_of = trainings(name), ADJUSTED[name][2]
    for step in (1, LAST):
        before, batch, after, _ = training.steps[step]
        rho, params = training.stored_rho(batch, name), training.tree(before.params)
        assert np.ptp(rho) > 0.5, "the batch should hold transitions and consistent motion"
        sample, summed, lam = factors_of(rho, batch["observation"]["timestep_pad_mask"])
        rng = jax.random.split(before.rng)[1]
        gradients = expected_gradients(training, params, batch, rng, sample, summed)
        expected, found = expected_parameters(training, before, gradients, step, lam), training.tree(after.params)
        others = sorted(set(expected) - {KERNEL, BIAS, PLACE})  # together: some biases learn from rounding alone
        for paths in ((KERNEL,), (BIAS,), (PLACE,), others):
            moved, should = (np.concatenate([(t[p] - params[p]).ravel() for p in paths]) for t in (found, expected))
            assert np.linalg.norm(moved - should) < TOLERANCE * np.linalg.norm(should), (step, paths[0])


@pytest.mark.parametrize("name", ADJUSTED)
def test_from_the_end_of_the_window_on_a_step_is_the_plain_one_to_the_bit(name, trainings):
    training = trainings(name)
    for step in (LAST, LAST + 1, STEPS - 1):
        before, batch, after, _ = training.steps[step]
        ones = Factors(np.ones(batch["rho"].shape, np.float32), np.float32(1), np.float32(1))
        batch.pop("target_rho", None)
        plain = trainings("vp").trainer.train_step
        wanted, found = (training.tree(state.params) for state in (plain(before, batch, ones)[0], after))
        differing = {path for path in wanted if not np.array_equal(wanted[path], found[path])}
        acts = step == LAST and name not in ("vp", "neutral")
        assert {KERNEL, BIAS, PLACE} <= differing if acts else not differing, step


@pytest.mark.parametrize("name", ADJUSTED)
def test_the_logged_factors_are_those_that_acted_and_padded_steps_are_not_counted(name, trainings):
    training, factors_of = trainings(name), ADJUSTED[name][2]
    padded = 0
    for step, (_, batch, _, row) in enumerate(training.steps):
        real = batch["observation"]["timestep_pad_mask"]
        real = real[..., None] & batch["action_pad_mask"][..., 0] if name == "chunk" else real
        sample, gradient, update = np.ones(real.shape), 1.0, 1.0
        if step <= LAST:
            sample, gradient, update = factors_of(training.stored_rho(batch, name), real)
        assert row["gap/update_factor"] == pytest.approx(update)
        assert row["gap/sample_factor"] == pytest.approx(sample[real].mean())
        assert row.get("gap/gradient_factor", 1.0) == pytest.approx(gradient)
        padded += (~real).sum()
    assert padded, "some windows should reach before their episode"


def test_a_whole_training_without_rho_and_lambda_is_vp_to_the_bit(trainings):
    plain, found = (flattened(trainings(n).steps[STEPS - 1][2].params) for n in ("vp", "neutral"))
    assert plain.keys() == found.keys() and all(np.array_equal(plain[path], found[path]) for path in plain)


def test_how_far_the_branch_has_moved_is_measured_where_there_is_one(trainings):
    training = trainings("vp")
    trainer, (before, batch, after, _) = training.trainer, training.steps[0]
    trainer.state = jax.tree_util.tree_map(jnp.asarray, before)
    values = trainer.step(batch, 0, measure=True).values()
    start, end = training.tree(before.params), training.tree(after.params)
    moved = np.concatenate([(end[path] - start[path]).ravel() for path in (KERNEL, BIAS, PLACE)])
    assert values["train/branch_moved"] == pytest.approx(np.linalg.norm(moved), rel=1e-4)
