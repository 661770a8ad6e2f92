"""Samples, bounds and episodes are whole numbers; masks and fractions would be taken for others in silence."""

import jaxtyping
import numpy as np
import pytest

from gap_vla.core.episode import Episode
from gap_vla.phases import MotionError, annotate, segment
from gap_vla.phases.methods import Options

CORNER = np.concatenate([np.linspace([0, 0, 0], [0.1, 0, 0], 20), np.linspace([0.1, 0, 0], [0.1, 0.1, 0], 20)])


@pytest.mark.parametrize("free", [np.array([10.5]), np.arange(40) == 20, np.array(["20"])])
def test_free_samples_are_numbers_of_samples(free):
    with pytest.raises(MotionError, match=r"free is .*; give the numbers of samples"):
        segment(CORNER, free=free)


@pytest.mark.parametrize("bound", ["min_size", "max_segment", "jump", "n_change_points"])
@pytest.mark.parametrize("value", [True, -1])
def test_bounds_of_segments_are_whole_numbers(bound, value):
    with pytest.raises(MotionError, match=f"{bound} is .*; it must be a whole number from"):
        segment(CORNER, **{bound: value})


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.float16])
def test_numbers_of_few_bits_are_compared_as_any_others(dtype):
    actions = np.array([10, 30, 41, 40, 20], dtype)[:, None].repeat(7, axis=1)
    with np.errstate(all="raise"):
        assert Episode({}, np.zeros((5, 9), np.float32), actions).validate().action is actions


def test_a_bound_of_few_bits_is_the_same_bound(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    assert segment(CORNER, min_size=np.uint8(130)).tolist() == segment(CORNER, min_size=130).tolist() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dead_band": (1,)}, "dead_band is 3 or 4 numbers"),
        ({"dead_band": 1.0}, "dead_band is 3 or 4 numbers"),
        ({"dead_band": (1, 1, "a")}, "dead_band must be finite"),
        ({"dead_band": ([1], [2, 3], [3])}, "dead_band must be finite"),
        ({"dead_band": {"position": None}}, "dead_band must be finite"),
        ({"smooth": 3.0}, "smooth is 3.0; it must be a whole number"),
        ({"smooth": "3"}, "smooth is '3'; it must be a whole number"),
        ({"smooth": None}, "smooth is None; it must be a whole number"),
        ({"penalty": "a"}, "penalty must be a number, finite and not negative, got 'a'"),
        ({"penalty": True}, "penalty must be a number, finite and not negative, got True"),
        ({"alpha": None}, "alpha, beta, extra_weight and rest must be finite"),
        ({"rest": "1"}, "alpha, beta, extra_weight and rest must be finite"),
    ],
)
def test_weights_widths_and_windows_are_numbers(options, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(MotionError, match=said):
        segment(CORNER, **options)
    if "dead_band" in options and not isinstance(options["dead_band"], dict):
        with pytest.raises(MotionError, match=said):
            Options(**options)


@pytest.mark.parametrize("rho", [["lstm"], {"a": 1}, "nothing"])
def test_a_way_to_make_rho_is_one_of_those_there_are(rho, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users call it
    with pytest.raises(MotionError, match="rho is one of lstm, hard, gaussian, fixed, not "):
        Options.of({"rho": rho})


@pytest.mark.parametrize("fit", [[True, False], [-1], [2]])
def test_episodes_to_fit_on_are_named_by_their_place(fit):
    proprio = np.concatenate([CORNER, np.tile([1.0, 0, 0, 0, 0.04, -0.04], (40, 1))], 1).astype(np.float32)
    episodes = [Episode(images={}, proprio=proprio, action=np.zeros((40, 7), np.float32))] * 2
    with pytest.raises(MotionError, match=r"an episode of fit is .*; it must be a whole number from 0 to 1"):
        annotate(episodes, method="gaussian", fit=fit)
