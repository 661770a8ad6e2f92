"""The discrete head, its bins and the diffusion head's noise are upstream's."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from gap_vla.octo.diffusion import cosine_betas
from gap_vla.octo.heads import DiscreteActionHead
from gap_vla.octo.token_groups import TokenGroup
from gap_vla.octo.tokenizers import BinTokenizer
from tests.helpers import octo_golden as golden

TRANSFORMS = golden.arrays(golden.DATA / "data_transforms.npz")
DATA = {key.removeprefix("discrete/"): value for key, value in TRANSFORMS.items() if key.startswith("discrete/")}
KINDS: dict[str, dict[str, Any]] = {
    "per_dim": {"token_per": "action_dim_and_action_horizon"},
    "per_horizon_map": {"token_per": "action_horizon", "use_map": True},
    "single_map": {"token_per": "", "use_map": True},
}


def _discrete(kind: str) -> tuple[DiscreteActionHead, dict[str, Any], dict[str, TokenGroup]]:
    fields = {"action_horizon": 3, "action_dim": 2, "vocab_size": 8}
    head = DiscreteActionHead(readout_key="readout_action", **fields, **KINDS[kind])
    prefix = f"{kind}/params/"
    params = {key.removeprefix(prefix): value for key, value in DATA.items() if key.startswith(prefix)}
    outputs = {"readout_action": TokenGroup.create(jnp.asarray(DATA["tokens"]))}
    return head, {"params": unflatten_dict(params, sep="/")}, outputs


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("n_bins", [4, 256])
def test_bins_are_upstreams(kind: str, n_bins: int) -> None:
    prefix = f"bins/{kind}_{n_bins}"
    tokenizer = BinTokenizer(n_bins=n_bins, bin_type=kind, low=-2.0, high=2.0)
    np.testing.assert_allclose(tokenizer.thresholds(), TRANSFORMS[f"{prefix}/thresholds"], rtol=1e-5, atol=1e-7)
    bins = tokenizer(TRANSFORMS["bins/in"])
    np.testing.assert_array_equal(bins, TRANSFORMS[f"{prefix}/tokens"])
    np.testing.assert_allclose(tokenizer.decode(bins), TRANSFORMS[f"{prefix}/decoded"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_discrete_head_is_upstreams(kind: str) -> None:
    head, variables, outputs = _discrete(kind)
    learned = [DATA[key] for key in ("action", "timestep_pad_mask", "action_pad_mask")]

    def run(variables: Any) -> Any:
        logits = head.apply(variables, outputs, train=False)
        action = head.apply(variables, outputs, train=False, argmax=True, method="predict_action")
        return logits, head.apply(variables, outputs, *learned, train=False, method="loss"), action

    logits, (loss, metrics), action = golden.quick(run, variables)(variables)
    np.testing.assert_allclose(logits, DATA[f"{kind}/logits"], atol=1e-5)
    np.testing.assert_allclose(loss, DATA[f"{kind}/loss"], rtol=1e-5)
    for key in ("mse", "accuracy"):
        np.testing.assert_allclose(metrics[key], DATA[f"{kind}/{key}"], rtol=1e-5)
    np.testing.assert_allclose(action, DATA[f"{kind}/argmax_action"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["a", "c"])
def test_the_noise_schedule_is_upstreams(name: str) -> None:
    expected = golden.load(name).outputs
    betas = cosine_betas(20)
    np.testing.assert_allclose(betas, expected["diffusion/betas"], rtol=2e-5)
    np.testing.assert_allclose(np.cumprod(1 - betas), expected["diffusion/alpha_hats"], rtol=1e-4)
