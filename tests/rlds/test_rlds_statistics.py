"""Statistics that contradict themselves are refused where they are to be normalised with; real ones are taken."""

import copy

import numpy as np
import pytest

from gap_vla.core.errors import UserError
from gap_vla.core.foreign import CheckpointError
from gap_vla.rlds.statistics import (
    StatisticsError,
    check_statistics,
    dataset_statistics,
    load_statistics,
    normalize,
    save_statistics,
    statistics_digest,
)

WIDTHS = {"action": 7, "proprio": 9}


def checked(statistics, kind="normal"):
    for field, width in WIDTHS.items():
        check_statistics(statistics, field, kind, "dataset_statistics.json", widest=width)


def of_data(seed=0, scale=1.0, steps=200):
    rng = np.random.default_rng(seed)
    return dataset_statistics(
        *([scale * rng.standard_normal((steps, width)).astype(np.float32)] for width in WIDTHS.values())
    )


@pytest.mark.parametrize("kind", ["normal", "bounds", "min_max", "none"])
def test_statistics_of_data_are_taken(kind):
    for scale in (1e-3, 1.0, 1e3):
        checked(of_data(scale=scale), kind)
    two_valued = [np.repeat([[0.0], [1.0]], 20, axis=0) * np.ones(width) for width in WIDTHS.values()]
    checked(dataset_statistics(*([values] for values in two_valued)), kind)  # the greatest deviation that there is
    resting = [np.repeat([[-1.0], [0.0], [1.0]], (11, 978, 11), axis=0) * np.ones(width) for width in WIDTHS.values()]
    checked(dataset_statistics(*([values] for values in resting)), kind)  # about the least beside its quantiles


def test_a_column_that_rests_in_nearly_all_steps_has_no_bounds():
    action, proprio = (np.random.default_rng(0).standard_normal((1000, width)) for width in WIDTHS.values())
    action[:, 4] = 0.8 * (np.arange(1000) % 170 == 0)
    statistics = dataset_statistics([action], [proprio])
    assert statistics["action"]["mask"][4]
    for kind in ("normal", "min_max", "none"):
        checked(statistics, kind)
    with pytest.raises(UserError, match=r"action\.p01 is p99 at index 4: .*; take data\.normalization normal$"):
        checked(statistics, "bounds")
    with pytest.raises(
        CheckpointError, match=r"at index 4: what rests in nearly all steps has no range; copy it again$"
    ):
        check_statistics(statistics, "action", "bounds", "dataset_statistics.json", CheckpointError, widest=7)


@pytest.mark.parametrize("names", [("p01", "p99"), ("q01", "q99")])
def test_statistics_with_one_name_of_the_quantiles_or_without_counts_and_masks_are_taken(names):
    statistics = of_data()
    for field in WIDTHS:
        for key in ("mask", *names):
            del statistics[field][key]
    del statistics["num_transitions"], statistics["num_trajectories"]
    checked(statistics)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("std", 9.0, r"action\.std is 9 at index 2, above half the range from min to max; copy the file again"),
        ("std", 1e-7, r"action\.std is 1e-07 at index 2, below 7 % of the range from p01 to p99; copy the file again"),
        ("min", 9.0, r"action\.mean lies beyond min at index 2; copy"),
        ("p01", -9.0, r"action\.min is -[0-9.]+ and p01 -9 at index 2, which cannot both be; copy"),
        ("q99", 9.0, r"action\.q99 is 9 and max [0-9.]+ at index 2, which cannot both be; copy"),
        ("q99", -5.0, r"action\.q01 is -[0-9.]+ and q99 -5 at index 2, which cannot both be; copy"),
        ("q01", 0.0, r"action\.q01 is 0 and p01 -[0-9.]+ at index 2, which cannot both be; copy"),
    ],
)
def test_vectors_that_contradict_one_another_are_refused_by_key_and_index(key, value, message):
    statistics = of_data()
    statistics["action"][key][2] = value
    with pytest.raises(UserError, match=message):
        checked(statistics)
    unused = copy.deepcopy(statistics)
    unused["action"]["mask"][2] = False
    if key == "std":  # of what is left as it is, it may be anything
        checked(unused)
    else:
        with pytest.raises(UserError, match=message):
            checked(unused)


@pytest.mark.parametrize("steps", [1, 3])
def test_so_few_steps_deviate_by_more_where_their_range_is_as_wide(steps):
    told = r"action\.std is [0-9.]+ at index 0, the range [0-9.]+, and num_transitions [13], which cannot all be; copy"
    with pytest.raises(UserError, match=told):
        checked({**of_data(), "num_transitions": steps, "num_trajectories": 1})
    spread = [np.repeat([[-1.0], [0.0], [1.0]], (1, 98, 1), axis=0) * np.ones(width) for width in WIDTHS.values()]
    checked(dataset_statistics(*([values] for values in spread)))  # the least that so many can


def test_the_digest_is_of_what_is_normalised_with_before_and_after_writing(tmp_path):
    statistics = of_data()
    digest = statistics_digest(statistics, "normal")
    save_statistics(statistics, tmp_path / "statistics.json")
    assert statistics_digest(load_statistics(tmp_path / "statistics.json"), "normal") == digest
    assert statistics_digest({**statistics, "num_transitions": 1}, "normal") == digest
    changed = copy.deepcopy(statistics)
    changed["proprio"]["mean"][8] = np.nextafter(changed["proprio"]["mean"][8], np.float32(9))
    assert len({digest, *(statistics_digest(of, "normal") for of in (changed, of_data(seed=1)))}) == 3
    assert statistics_digest(statistics, "bounds") != digest


@pytest.mark.parametrize("key", ["num_transitions", "num_trajectories"])
def test_counts_below_one_are_refused(key):
    with pytest.raises(UserError, match=rf"dataset_statistics\.json: {key} is 0; it must be a number from 1 to"):
        checked({**of_data(), key: 0})
    with pytest.raises(
        UserError, match=rf"dataset_statistics\.json: {key} is 1\.5 \(float\); it must be a whole number"
    ):
        checked({**of_data(), key: 1.5})
    checked({**of_data(), key: np.array(200 if key == "num_transitions" else 1)})  # as Octo's checkpoints are read


def test_fewer_steps_than_episodes_are_refused():
    with pytest.raises(UserError, match=r"num_transitions is 2, num_trajectories 4; an episode has a step at least"):
        checked({**of_data(), "num_transitions": 2, "num_trajectories": 4})


def test_no_statistics_at_all_are_named():
    with pytest.raises(
        StatisticsError, match=r"statistics are None; give those of one field, as statistics\['proprio'\]"
    ):
        normalize(np.zeros((2, 9)), None)


@pytest.mark.parametrize("odd, said", [(np.ma.masked, "masked in places"), (1e300, "NaN or infinite")])
def test_values_that_are_masked_or_infinite_in_float32_have_no_statistics(odd, said):
    actions = np.ma.array(np.random.default_rng(0).normal(size=(9, 7)))
    actions[3, 2] = odd
    with pytest.raises(StatisticsError, match=said):
        dataset_statistics([actions], [np.zeros((9, 2))])
    if odd is np.ma.masked:
        with pytest.raises(StatisticsError, match=said):
            normalize(actions, dataset_statistics([actions.data], [np.zeros((9, 2))])["action"])


@pytest.mark.parametrize("x", [None, 3.0])
def test_one_number_is_no_array_to_normalise(x):
    own = dataset_statistics([np.random.default_rng(0).normal(size=(9, 7))], [np.zeros((9, 2))])["action"]
    with pytest.raises(StatisticsError, match=rf"array is {x}; give numbers \[\.\.\., 7\]"):
        normalize(x, own)
