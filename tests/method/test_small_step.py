"""From a stored ρ to the parameters after a step (M6, M7): small policies beside the equations, sample by sample.

What is expected is computed from the store's own ρ, the plain loss of one sample at a time, and AdamW written out.
"""

import copy

import numpy as np
import pytest
import torch

from gap_vla.policies.methods import build_policy
from gap_vla.training.torch_trainer import SmallTrainer
from tests.helpers.toy_store import toy_config, write_store

STEPS, LAST = 9, 4  # λ and ρ act during the first half: steps 0 to 4
LAM, SLOW, FIXED, CLIP, DECAY = 0.3, 0.2, 0.6, 0.05, 0.1
TOLERANCE = 2e-3  # of what a branch moves; any other factor changes that by several per cent

ADJUSTED = {
    # method and mode: factor of each sample, of the summed gradient, and of the update
    ("vp_gap", "sample"): lambda rho: (1 - rho, 1.0, LAM),
    ("vp_gap", "batch"): lambda rho: (np.ones_like(rho), 1 - LAM * rho.max(), 1.0),
    ("vp_gap", "update"): lambda rho: (np.ones_like(rho), 1.0, LAM * (1 - rho.mean())),
    ("rho_only", "sample"): lambda rho: (1 - rho, 1.0, 1.0),
    ("vp_slow", "sample"): lambda rho: (np.ones_like(rho), 1.0, SLOW),
    ("lambda_only", "sample"): lambda rho: (np.ones_like(rho), 1.0, LAM),
    ("fixed_rho", "sample"): lambda rho: (np.full_like(rho, 1 - FIXED), 1.0, LAM),
    ("vp", "sample"): lambda rho: (np.ones_like(rho), 1.0, 1.0),
}

PER_STEP = dict(temporal="transformer", temporal_layers=1, temporal_heads=2, temporal_head_dim=8, image_history=3)


CASES = [(*case, "current") for case in ADJUSTED]
CASES += [("vp_gap", "sample", kind) for kind in ("step", "chunk", "chunk_max")]


def configured(root, method, mode, kind):
    return toy_config(
        root,
        method,
        model=PER_STEP if kind == "step" else {},
        adjustment=dict(mode=mode, lam=LAM, constant=SLOW, window=0.5, fixed_rho=FIXED, rho=kind),
        optimizer=dict(clip_gradient=CLIP, weight_decay=DECAY),
        train=dict(steps=STEPS),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def training(request, store):
    """(method, mode, ρ of what), its configuration, and its steps: (state before, batch, state after, measurements)."""
    config = configured(store.directory, *request.param)
    trainer, steps = SmallTrainer.on(config, store), []
    for step in range(STEPS):
        before, batch = copy.deepcopy(trainer.state()), trainer.batch(step)
        values = trainer.step(batch, step).values()
        steps.append((before, batch, copy.deepcopy(trainer.state()), values))
    return request.param, config, steps


def policy_of(config, state):
    policy = build_policy(config.model, config.method, (32, 32, 3), 9, 7)
    policy.load_state_dict(state["policy"])
    return policy


def stored_rho(store, windows, kind):
    """ρ [B, …] read from the store's column: of the windows that end at these steps, or of the four actions there."""
    data, found = store.split("train"), []
    for end in windows:
        start = max(offset for offset in data.offsets if offset <= end)
        last = min(offset for offset in data.offsets if offset > end) - 1
        steps = range(end, end + 4) if kind.startswith("chunk") else range(end - 2, end + 1)
        found.append([data.fields["rho"][min(max(step, start), last)] for step in steps])
    rho = np.array(found, np.float64)
    return {"current": rho[:, -1:], "chunk_max": rho.max(1, keepdims=True)}.get(kind, rho)


def gradients_by_sample(policy, batch, kind):
    """Of the plain loss: {name: whole gradient}, and {name: {(sample, part): gradient}} of the branch, whose parts are
    what flows through one token alone, or comes from one action alone."""
    whole, single = {}, {}
    counted = batch["action_pad_mask"].sum()
    for b in range(len(batch["action"])):
        one = {key: value[b : b + 1] for key, value in batch.items()}
        vision, proprio = policy.branch_features(one)
        for part in range(4 if kind == "chunk" else proprio.shape[1]):
            through, mask = proprio, one["action_pad_mask"].clone()
            if kind == "chunk":
                mask[:, [h for h in range(4) if h != part]] = False
            else:
                through = proprio.detach().clone()
                through[:, part] = proprio[:, part]
            loss = policy.head.loss(policy.embed(vision, through), one["action"], None)
            policy.zero_grad()
            ((loss * mask).sum() / counted).backward(retain_graph=True)
            for name, parameter in policy.named_parameters():
                gradient = parameter.grad.double()
                if name.startswith("proprio_encoder."):
                    single.setdefault(name, {})[b, part] = gradient
                elif part == 0 or kind == "chunk":
                    whole[name] = whole.get(name, 0) + gradient
    return whole, single


def expected_parameters(config, policy, optimizer, gradients, step, lam):
    """AdamW (Loshchilov & Hutter 2019) after clipping; λ on the normalised direction, not on the decay."""
    warmup, peak = config.optimizer.warmup_steps, config.optimizer.learning_rate
    part = (step - warmup) / (STEPS - warmup)
    rate = peak * (step + 1) / warmup if step < warmup else peak * (1 + np.cos(np.pi * part)) / 2
    norm = float(torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt())
    assert norm > CLIP, "clipping should act, so that it is seen which gradients it measures"
    found = {}
    for number, (name, parameter) in enumerate(policy.named_parameters()):
        moments, p = optimizer["state"][number], parameter.detach().double()
        gradient, count = gradients[name] * CLIP / norm, float(moments["step"]) + 1
        m = (0.9 * moments["exp_avg"].double() + 0.1 * gradient) / (1 - 0.9**count)
        v = (0.999 * moments["exp_avg_sq"].double() + 0.001 * gradient.square()) / (1 - 0.999**count)
        scale = lam if name.startswith("proprio_encoder.") else 1.0
        found[name] = p - rate * scale * m / (v.sqrt() + 1e-8) - rate * DECAY * p
    return found


def test_the_step_moves_every_branch_as_the_equations_say(training, store):
    (method, mode, kind), config, steps = training
    for step in (1, LAST):
        before, batch, after, _ = steps[step]
        policy = policy_of(config, before)
        rho = stored_rho(store, batch["window"].tolist(), kind)
        assert np.ptp(rho) > 0.5, "the batch should hold transitions and consistent motion"
        factor, summed, lam = ADJUSTED[method, mode](rho)
        gradients, single = gradients_by_sample(policy, batch, kind)
        for name, parts in single.items():
            gradients[name] = summed * sum(factor[place] * gradient for place, gradient in parts.items())
        expected = expected_parameters(config, policy, before["optimizer"], gradients, step, lam)
        moved, should = {}, {}
        for name, value in expected.items():  # of a branch together: a bias before a softmax learns from rounding alone
            start, branch = before["policy"][name].double(), name.split(".")[0]
            moved.setdefault(branch, []).append((after["policy"][name].double() - start).ravel())
            should.setdefault(branch, []).append((value - start).ravel())
        for branch in moved:
            found, wanted = torch.cat(moved[branch]), torch.cat(should[branch])
            assert (found - wanted).norm() < TOLERANCE * wanted.norm(), (step, branch)


def test_from_the_end_of_the_window_on_a_step_is_the_plain_one_to_the_bit(training, store):
    (method, _, kind), config, steps = training
    for step in (LAST, LAST + 1, STEPS - 1):
        before, batch, after, _ = steps[step]
        plain, windows = configured(store.directory, "vp", "none", kind), None  # the batch is given
        trainer = SmallTrainer(plain, policy_of(config, before), STEPS, windows, windows)
        trainer.optimizer.load_state_dict(copy.deepcopy(before["optimizer"]))
        trainer.step(batch, step)
        found, wanted = after["policy"], trainer.policy.state_dict()
        differing = {name.split(".")[0] for name in wanted if not torch.equal(wanted[name], found[name])}
        adjusted = step == LAST and method != "vp"
        assert ("proprio_encoder" in differing) == adjusted, step
        assert adjusted or not differing, step


def test_the_logged_factors_are_those_that_acted_and_the_distance_that_the_branchs(training, store):
    (method, mode, kind), _, steps = training
    start = steps[0][0]["policy"]
    for step, (_, batch, after, values) in enumerate(steps):
        moved = [after["policy"][name] - value for name, value in start.items() if name.startswith("proprio_encoder.")]
        distance = float(torch.cat([part.ravel() for part in moved]).norm())
        assert values["train/branch_moved"] == pytest.approx(distance, rel=1e-5)
        if method == "vp":
            continue  # nothing acts, nothing is logged
        rho = stored_rho(store, batch["window"].tolist(), kind)
        sample, gradient, update = ADJUSTED[method, mode](rho) if step <= LAST else (np.ones(rho.shape), 1, 1)
        counted = batch["action_pad_mask"].numpy() if kind == "chunk" else ...
        assert values["gap/update_factor"] == pytest.approx(update)
        assert values["gap/sample_factor"] == pytest.approx(sample[counted].mean())
        assert values.get("gap/gradient_factor", 1.0) == pytest.approx(gradient)
