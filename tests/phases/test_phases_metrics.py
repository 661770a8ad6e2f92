"""How well ρ is calibrated."""

import numpy as np

from gap_vla.phases.measures import calibration


def test_a_calibrated_rho_has_no_error_and_an_overconfident_one_has():
    rng = np.random.default_rng(0)
    rho = rng.random(20_000)
    happened = (rng.random(20_000) < rho).astype(float)
    ones = np.ones(20_000)
    assert calibration(rho, happened, ones)["error"] < 0.02
    assert calibration(np.sqrt(rho), happened, ones)["error"] > 0.1
