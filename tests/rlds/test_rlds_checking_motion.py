"""Frozen cameras, repeated and constant steps, and what else the checker judges by how a state moves."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_rlds_foreign_fields import written

from gap_vla.core.episode import EpisodeError
from gap_vla.demos.layout import to_quaternion
from gap_vla.rlds.checking import check_dataset
from gap_vla.rlds.checking.comparison_checks import check_grippers, check_lag, check_scale
from gap_vla.rlds.checking.dataset_checks import check_conventions, check_duplicates
from gap_vla.rlds.checking.episode_checks import check_pictures, check_pose, check_recorded, check_time
from gap_vla.rlds.checking.jump_checks import check_jumps
from gap_vla.rlds.checking.report import Finding, Recording

STEPS = 200
ALONG = np.arange(STEPS)[:, None] / STEPS
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)


def arm(metres: float = 0.0, radians: float = 0.0, opening: float = 0.0) -> np.ndarray:
    """A state that goes this far along x, about z, and with its fingers, evenly."""
    position, turn = ALONG * [metres, 0, 0], to_quaternion(ALONG * [0, 0, radians], "rotvec")
    return np.concatenate([position, turn, 0.04 - opening * np.repeat(ALONG, 2, 1)], 1).astype(np.float32)


def frozen(*arms: np.ndarray, camera: str = "image_primary", **changes: Any) -> Recording:
    """An episode that shows one picture throughout."""
    proprio = np.concatenate(arms, 1) if arms else None
    steps = STEPS if proprio is None else len(proprio)
    made = Recording("train[0]", {camera: PICTURE.repeat(steps, 0)}, {}, [], proprio, np.zeros((steps, 7), np.float32))
    return dataclasses.replace(made, **changes)


def told(check: Callable[..., Any], *recordings: Any) -> list[str]:
    found: list[Finding] = list(check(*recordings))
    return [f"{f.level}: {f.check}: {f.message}" for f in found]


@pytest.mark.parametrize(
    "arms",
    [
        [arm(metres=0.18)],
        [arm(), arm(metres=1.0)],
        [arm(), arm(metres=0.18)],
        [arm(radians=1.0)],
        [arm(radians=4.0)],
        [arm(opening=0.04)],
    ],
    ids=["slow", "second arm", "second arm, slow", "turning slowly", "turning", "gripper"],
)
def test_one_picture_while_anything_of_the_robot_moves_is_a_frozen_camera(arms: list[np.ndarray]) -> None:
    said = "warning: still: image_primary is one picture at all 200 steps, and the arm moves; the camera was frozen"
    assert told(check_pictures, frozen(*arms)) == [said]


def test_one_picture_of_what_stands_still_is_none() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, (STEPS, 9)).astype(np.float32)
    for still in (arm(), arm() + noise, arm(metres=1.0)[:4]):
        assert not told(check_pictures, frozen(still))
    unknown = frozen(state=np.ones((STEPS, 8)))
    assert not told(check_pictures, unknown)
    assert "frozen" in told(check_pictures, dataclasses.replace(unknown, state=ALONG))[0]


def test_a_camera_on_a_hand_that_is_held_need_not_see_the_other_arm() -> None:
    held, both = [arm(), arm(metres=1.0)], [arm(radians=1.0), arm(metres=1.0)]
    assert not told(check_pictures, frozen(*held, camera="image_wrist"))
    assert "frozen" in told(check_pictures, frozen(*both, camera="image_wrist"))[0]


def test_stuttering_shows_where_the_hand_only_turns() -> None:
    turning = frozen(arm(radians=4.0))
    film = np.random.default_rng(0).integers(0, 256, (STEPS // 2, 8, 8, 3), dtype=np.uint8).repeat(2, 0)
    (said,) = told(check_pictures, dataclasses.replace(turning, images={"image_primary": film}))
    assert "repeats the frame before at 100 of 199 steps in which the arm moves" in said


def test_a_state_of_unknown_columns_that_never_changes_or_was_stored_twice_is_found() -> None:
    zeros = frozen(state=np.zeros((STEPS, 8)), action=ALONG.repeat(7, 1))
    assert told(check_recorded, zeros) == ["warning: constant: the state is the same at every step; was it recorded?"]
    twice = dataclasses.replace(zeros, state=ALONG[::2].repeat(2, 0), action=ALONG[::2].repeat(2, 0))
    assert "50% of the steps repeat the step before" in told(check_recorded, twice)[0]


@pytest.mark.parametrize(("again", "found"), [(2, 0), (3, 1)])
def test_the_share_of_repeated_steps_is_that_of_all_steps(again: int, found: int) -> None:
    rows = np.maximum(np.arange(10) - again, 0)
    repeated = frozen(arm(metres=1.0)[rows], action=ALONG[rows].repeat(7, 1))
    assert len(told(check_recorded, repeated)) == found


def test_a_position_is_as_far_away_as_its_three_coordinates_together() -> None:
    far = arm(metres=0.1)
    far[:, :3] += 9.0
    said = "warning: reach: a position 15.65 m away from the origin; are these metres?"
    assert said in told(check_recorded, frozen(far))


def test_the_same_actions_with_other_states_are_no_duplicate() -> None:
    first = frozen(state=ALONG, action=ALONG.repeat(7, 1))
    other = dataclasses.replace(first, name="val[0]", state=2 * ALONG)
    assert not told(check_duplicates, [first, other])
    leak = "error: duplicate: the same actions{} as train[0]; the splits overlap"
    assert told(check_duplicates, [first, dataclasses.replace(first, name="val[0]")]) == [leak.format(" and states")]
    stateless = [dataclasses.replace(one, state=None) for one in (first, other)]
    assert told(check_duplicates, stateless) == [leak.format("")]


def legs(number: int, steps: int, *ways: tuple[float, float, float]) -> Recording:
    """A hand that goes these ways, metres in so many steps each, as its actions (decimetres) say."""
    moved = np.repeat(ways, steps, axis=0) / steps
    state = np.zeros((len(moved) + 1, 9), np.float32)
    state[1:, :3], state[:, 3] = np.cumsum(moved, axis=0), 1
    action = np.zeros((len(state), 7), np.float32)
    action[:-1, :3] = 10 * moved
    return dataclasses.replace(frozen(state, action=action), name=f"train[{number}]")


def test_one_great_action_makes_no_actions_late() -> None:
    ways = (0.2, 0.1, 0), (0, 0, -0.25), (0, -0.2, 0)
    sound = [legs(i, steps, *ways) for i, steps in enumerate((18, 22, 27, 31))]
    for one in sound:
        one.action[7, 2] = 12 * abs(one.action).max()
    assert not told(check_lag, sound)
    late = [dataclasses.replace(one, action=np.roll(one.action, 3, axis=0)) for one in sound]
    assert "motion comes 3 steps before its actions" in told(check_lag, late)[0]


def stirring(number: int, period: float, lag: int, pace: float = 1.0, noise: float = 0.0) -> Recording:
    """A hand that goes round, 1 cm a step, so many steps after its actions, and a little up and down."""
    rng = np.random.default_rng(number)
    angle = 2 * np.pi * (np.arange(STEPS) + 7 * number) / period
    moved = 0.01 * pace * np.stack([np.cos(angle), np.sin(angle), rng.uniform(-0.3, 0.3, STEPS)], axis=1)
    late = np.concatenate([np.zeros((lag, 3)), moved])[: STEPS - 1]
    state = np.zeros((STEPS, 9), np.float32)
    state[1:, :3], state[:, 3] = np.cumsum(late, axis=0), 1
    state[:, :3] += rng.normal(0, noise, (STEPS, 3))
    action = np.concatenate([50 * moved, np.zeros((STEPS, 4))], axis=1).astype(np.float32)
    return dataclasses.replace(frozen(state, action=action), name=f"train[{number}]")


@pytest.mark.parametrize(("period", "lag"), [(10, 1), (10, 4), (20, 3), (40, 4)])
def test_a_hand_that_stirs_and_lags_is_in_its_own_frame(period: int, lag: int) -> None:
    sound = [stirring(i, period, lag) for i in range(4)]
    assert not told(check_conventions, sound)
    flipped = [dataclasses.replace(one, action=one.action * np.float32([1, 1, -1, 1, 1, 1, 1])) for one in sound]
    (said,) = told(check_conventions, flipped)
    assert "z moves against its action" in said


@pytest.mark.parametrize("period", [6, 10])
def test_a_flipped_hand_that_shakes_is_not_taken_for_one_that_lags(period: int) -> None:
    """Half a period later its sign is right."""
    rng, sound = np.random.default_rng(0), []
    for number in range(4):
        shaking = np.cos(2 * np.pi * (np.arange(STEPS - 1) + 7 * number) / period)
        moved = 0.01 * (shaking[:, None] * [1, 0, 0] + rng.normal(0, 0.1, (STEPS - 1, 3)))
        state, action = np.zeros((STEPS, 9), np.float32), np.zeros((STEPS, 7), np.float32)
        state[1:, :3], state[:, 3], action[:-1, :3] = np.cumsum(moved, axis=0), 1, 50 * moved
        sound.append(dataclasses.replace(frozen(state, action=action), name=f"train[{number}]"))
    assert not told(check_conventions, sound)
    flipped = [dataclasses.replace(one, action=one.action * np.float32([-1, 1, 1, 1, 1, 1, 1])) for one in sound]
    assert "x moves against its action" in told(check_conventions, flipped)[0]


def test_a_flipped_axis_that_moves_a_few_millimetres_by_actions_in_metres_is_found() -> None:
    sound = []
    for number in range(4):
        state, action = np.zeros((STEPS, 9), np.float32), np.zeros((STEPS, 7), np.float32)
        turns = np.arange(STEPS)[:, None] / (10 + number) + np.arange(3)
        state[:, :3], state[:, 3] = 0.002 * (np.sin(turns) - np.sin(turns[0])), 1
        action[:-1, :3] = np.diff(state[:, :3], axis=0)
        sound.append(dataclasses.replace(frozen(state, action=action), name=f"train[{number}]"))
    assert not told(check_conventions, sound)
    flipped = [dataclasses.replace(one, action=one.action * np.float32([-1, 1, 1, 1, 1, 1, 1])) for one in sound]
    assert "x moves against its action" in told(check_conventions, flipped)[0]


def roaming(number: int, lag: int = 0, noise: float = 0.0, held: int = 0) -> Recording:
    """A hand that goes where it is sent, 1 cm per unit, another way every 12 steps; it is held over step 30, and then
    goes at once where it was sent meanwhile."""
    rng = np.random.default_rng(number)
    asked = 0.35 * np.repeat(rng.normal(size=(5, 3)), 12, axis=0) + 0.08 * rng.normal(size=(60, 3))
    moved = 0.01 * np.concatenate([np.zeros((lag, 3)), asked])[:59]
    moved += noise * moved.std() * rng.normal(size=moved.shape)
    state = np.zeros((60, 9), np.float32)
    state[1:, :3], state[:, 3] = np.cumsum(moved, axis=0), 1
    state[30 : 30 + held, :3] = state[30, :3]
    action = np.concatenate([asked, np.zeros((60, 4))], axis=1).astype(np.float32)
    return dataclasses.replace(frozen(state, action=action), name=f"train[{number}]")


def without(recording: Recording, *steps: int) -> Recording:
    kept = np.delete(np.arange(len(recording)), steps)
    state, action = recording.proprio[kept], recording.action[kept]  # type: ignore[index]
    return dataclasses.replace(recording, proprio=state, action=action)


@pytest.mark.parametrize(("lag", "noise"), [(0, 0.0), (2, 0.0), (0, 0.2), (3, 0.2)])
def test_missing_steps_of_a_slow_stretch_show_by_what_was_commanded(lag: int, noise: float) -> None:
    sound = [roaming(i, lag, noise) for i in range(8)]
    assert not told(check_jumps, sound)
    lost = without(sound[5], *range(27, 35))
    assert not told(check_pose, lost)
    (found,) = check_jumps([*sound[:5], lost, *sound[6:]])
    assert (found.level, found.check, found.episode, found.step) == ("warning", "jump", "train[5]", 27)
    assert "beyond what its actions command; frames missing" in found.message


def test_a_hand_that_is_held_or_makes_up_for_it_or_ignores_its_actions_does_not_jump() -> None:
    for held in (5, 12, 30):
        assert not told(check_jumps, [roaming(i, held=held if i == 3 else 0) for i in range(8)])
    far = [roaming(i) for i in range(8)]
    far[3].action[20, :3] = 5  # it is sent farther than a step can be, and does not go
    assert not told(check_jumps, far)
    lost = [without(roaming(i), *range(27, 35)) for i in range(8)]
    assert len(told(check_jumps, lost)) == 4
    others = [dataclasses.replace(one, action=lost[i - 1].action) for i, one in enumerate(lost)]
    assert not told(check_jumps, others)
    for hopping in others:
        hopping.proprio[:, :3] = 0.015 * (np.arange(52)[:, None] > [10, 25, 40])  # type: ignore[index]
    assert not told(check_jumps, others)


def test_steps_are_judged_by_their_actions_where_there_are_enough_to_tell() -> None:
    lost, sound = without(roaming(5), *range(27, 35)), [roaming(i) for i in range(4)]
    assert told(check_jumps, [lost, sound[0]])
    assert not told(check_jumps, [lost])
    for steps, found in ((20, 0), (21, 1)):
        assert len(told(check_jumps, [*sound, without(lost, *range(20), *range(20 + steps, 52))])) == found


def test_what_is_far_greater_than_other_steps_is_told_once() -> None:
    sound = [roaming(i) for i in range(4)]
    sound[2].proprio[20:, 0] += 0.9  # type: ignore[index]
    assert len(told(check_pose, sound[2])) == 1
    assert not told(check_jumps, sound)
    assert not told(check_jumps, [without(sound[0], *range(3, 60))])


def circling(number: int, late: int = 0, noise: float = 0.0, exchanged: bool = False) -> Recording:
    """Two hands, 2 cm per unit, each on slow waves of its own; their actions come late, or are those of the other."""
    rng, along = np.random.default_rng(number), 2 * np.pi * np.arange(60)[:, None] / 60
    sizes, speeds, starts = (rng.uniform(*of, (2, 1, 6)) for of in ((0.15, 0.4), (0.6, 2.5), (0, 6)))
    waves = (sizes * np.sin(speeds * along + starts)).sum(0)
    state, action = np.zeros((60, 18), np.float32), np.zeros((60, 14), np.float32)
    for arm, asked in enumerate(np.split(waves, 2, axis=1)):
        moved = 0.02 * asked + noise * 0.02 * asked.std() * rng.normal(size=asked.shape)
        state[1:, 9 * arm : 9 * arm + 3] = np.cumsum(moved, axis=0)[:-1]
        state[:, 9 * arm + 3] = 1
        to = 7 * (1 - arm if exchanged else arm)
        action[:, to : to + 3] = np.roll(asked, late, axis=0)
    return dataclasses.replace(frozen(state, action=action), name=f"train[{number}]")


def test_actions_of_the_other_arm_are_doubted_and_not_called_late() -> None:
    for first in range(0, 160, 8):
        assert not told(check_conventions, [circling(first + i) for i in range(8)])
        found = told(check_conventions, [circling(first + i, exchanged=True) for i in range(8)])
        assert len(found) == 2 and all("actions hardly explain the motion" in one for one in found)
    for late, noise in ((1, 0.0), (1, 0.3), (2, 0.3), (1, 0.6)):
        found = told(check_conventions, [circling(i, late, noise) for i in range(8)])
        assert len(found) == 2 and all("actions are recorded late" in one for one in found)


def test_late_actions_are_found_where_most_of_the_motion_is_a_disturbance() -> None:
    asked, pushed = np.random.default_rng(0).normal(size=(2, 4, 60, 3))
    state, action = np.zeros((4, 60, 9), np.float32), np.zeros((4, 60, 7), np.float32)
    state[:, 1:, :3], state[..., 3] = 0.01 * np.cumsum(asked + 1.65 * pushed, axis=1)[:, :-1], 1
    action[:, 1:, :3] = asked[:, :-1]
    late = [frozen(of, action=given) for of, given in zip(state, action)]
    assert "recorded late" in told(check_conventions, late)[0]


def test_who_moves_faster_than_others_has_no_other_scale_where_the_arm_lags() -> None:
    paced = [stirring(i, 12 if i == 1 else 60, lag=2) for i in range(5)]
    assert not told(check_scale, paced)
    other = dataclasses.replace(paced[2], action=paced[2].action / 2)
    (said,) = told(check_scale, [*paced[:2], other, *paced[3:]])
    assert "in most others" in said


def test_noise_of_an_axis_or_an_arm_that_is_held_is_no_motion_that_actions_should_explain() -> None:
    rng = np.random.default_rng(0)
    for way, least in ((1.0, 0.01), (0.0, 0.001)):
        steps = way * 0.01 * rng.uniform(-1, 1, STEPS)
        state = rng.normal(0, 2e-4, (STEPS, 9)).astype(np.float32)
        state[1:, 0] += np.cumsum(steps)[:-1]
        state[:, 3:7] = [1, 0, 0, 0]
        action = rng.normal(0, least, (STEPS, 7)).astype(np.float32)
        action[:, 0] += 100 * steps
        action[:, 3:] = 0
        assert not told(check_conventions, [frozen(state, action=action)])
    stuck = rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32)
    assert "hardly explain" in told(check_conventions, [frozen(state, action=stuck)])[0]


def test_positions_that_a_fast_arm_is_behind_are_absolute_and_not_late() -> None:
    behind = [stirring(i, 40, lag=0) for i in range(3)]
    for one in behind:
        one.proprio[:, :3] += [0.4, 0, 0.3]  # type: ignore[index]
        one.action[:, :3] = np.roll(one.proprio[:, :3], -6, axis=0)  # type: ignore[index]
    (said,) = told(check_conventions, behind)
    assert "actions look like absolute positions" in said


def test_one_late_episode_makes_not_all_late() -> None:
    sound = [stirring(i, 30, lag=0) for i in range(5)]
    late = [dataclasses.replace(one, action=np.roll(one.action, 5, axis=0)) for one in sound]
    assert not told(check_conventions, [*sound[:4], late[4]])
    assert "recorded late" in told(check_conventions, late)[0]


def test_a_flipped_axis_of_an_arm_that_lags_is_not_called_late() -> None:
    lagging = [stirring(i, 40, lag=2) for i in range(4)]
    flipped = [dataclasses.replace(one, action=one.action * np.float32([1, -1, 1, 1, 1, 1, 1])) for one in lagging]
    (said,) = told(check_conventions, flipped)
    assert "y moves against its action" in said
    late = [dataclasses.replace(one, action=np.roll(one.action, 5, axis=0)) for one in flipped]
    (said,) = told(check_conventions, late)
    assert "recorded late" in said


def test_where_few_episodes_follow_their_actions_no_lag_is_called_usual() -> None:
    def strolling(seed: int, flipped: bool) -> Recording:
        asked = np.cumsum(np.random.default_rng(seed).normal(size=(80, 3)), axis=0)
        asked = np.stack([np.convolve(one - one.mean(), np.ones(9) / 9, "same")[10:70] for one in asked.T], axis=1)
        asked = (asked / abs(asked).max(0)).astype(np.float32)
        state = np.zeros((60, 9), np.float32)
        state[1:, :3], state[:, 3] = 0.01 * np.cumsum(asked, axis=0)[:-1], 1
        action = np.concatenate([asked * [1, -1 if flipped else 1, 1], np.zeros((60, 4))], axis=1)
        return frozen(state, action=action.astype(np.float32))

    assert not told(check_lag, [strolling(i, flipped=False) for i in range(8)])
    assert not told(check_lag, [strolling(i, flipped=True) for i in range(8)])


def test_of_late_actions_short_and_resting_episodes_say_nothing_either_way() -> None:
    asked = np.random.default_rng(0).normal(size=(4, 60, 3)).astype(np.float32)
    state = np.zeros((4, 60, 9), np.float32)
    state[:, 1:, :3], state[..., 3] = 0.01 * np.cumsum(asked, axis=1)[:, :-1], 1
    action = np.pad(asked[:, :-5], ((0, 0), (5, 0), (0, 4)))
    late = [frozen(of, action=given) for of, given in zip(state, action)]
    short = [frozen(one.proprio[:15], action=one.action[:15]) for one in late]  # type: ignore[index]
    still = frozen(state[0] * np.eye(9, dtype=np.float32)[3], action=0 * action[0])
    assert "recorded late" in "".join(told(check_lag, [*late, *short, still]))


def test_of_an_axis_that_is_flipped_in_all_episodes_none_is_called_of_another_scale() -> None:
    shares = (0.2, 0.05, 0.1), (0.2, 0.05, 0.05), (0.2, 0.04, 0.1), (0.2, 0.05, 0.1), (0.1, 0.13, 0.02)
    sound = [legs(i, 20, way, (0.1, 0, 0), (0, 0, 0.1)) for i, way in enumerate(shares)]
    assert not told(check_scale, sound)
    for one in sound:
        one.action[:, 1] *= -1
    assert "y moves against its action" in told(check_conventions, sound)[0]
    assert not told(check_scale, sound)


def test_of_axes_that_are_exchanged_in_all_episodes_none_is_called_of_another_scale() -> None:
    ways = (0.2, 0.05, 0.1), (0.05, -0.2, 0.1), (-0.1, 0.1, 0.1), (0.2, 0.2, 0.1), (-0.05, 0.15, 0.1)
    sound = [legs(i, 20, way, (0, 0, 0.1)) for i, way in enumerate(ways)]
    assert not told(check_scale, sound)
    for one in sound:
        one.action[:, :2] = one.action[:, 1::-1].copy()
    assert "different frames" in told(check_conventions, sound)[0]
    assert not told(check_scale, sound)


def test_a_gripper_that_jumps_and_opens_in_one_episode_where_it_closes_in_others_is_found() -> None:
    moving = arm(metres=1.0)
    moving[:, 7] = np.where((ALONG[:, 0] > 0.3) & (ALONG[:, 0] < 0.7), 0.0, 1.0)
    action = np.zeros((STEPS, 7), np.float32)
    action[:, 6] = 1 - 2 * np.roll(moving[:, 7], -1)
    usual = [dataclasses.replace(frozen(moving, action=action), name=f"train[{i}]") for i in range(4)]
    odd = dataclasses.replace(usual[0], name="train[4]", action=-action)
    assert not told(check_grippers, usual)
    assert "opens the gripper in this episode" in told(check_grippers, [*usual, odd])[0]


def test_an_episode_that_is_shifted_in_time_is_told_to_be_that_alone() -> None:
    sound = [legs(i, 12, (0.1, 0, 0), (0, 0.1, 0), (0, 0, 0.1)) for i in range(5)]
    for one in sound:
        assert one.proprio is not None
        one.action[:, 6] = np.where(np.arange(len(one.action)) // 6 % 2, 1, -1)
        one.proprio[1:, 7] = np.where(one.action[:-1, 6] > 0, 0.0, 0.04)
    late = dataclasses.replace(sound[0], action=np.roll(sound[0].action, 6, axis=0), name="train[5]")
    assert not told(check_grippers, sound) and not told(check_scale, sound) and not told(check_lag, sound)
    (said,) = told(check_lag, [*sound, late])
    assert "follows the actions by -6 steps, in most others by 0" in said
    assert not told(check_grippers, [*sound, late]) and not told(check_scale, [*sound, late])


def test_what_is_wrong_beside_a_shift_in_time_and_a_flip_that_looks_like_one_are_found() -> None:
    sound = [stirring(i, 16, lag=0) for i in range(5)]
    against = dataclasses.replace(
        sound[0], action=sound[0].action * np.float32([-1, -1, -1, 1, 1, 1, 1]), name="train[5]"
    )
    assert not told(check_lag, [*sound, against])
    assert "one unit of action moves -0.0" in " ".join(told(check_scale, [*sound, against]))
    late = np.roll(sound[0].action, 5, axis=0) / 4
    both = dataclasses.replace(sound[0], action=late, name="train[5]")
    assert told(check_lag, [*sound, both]) and "in most others" in told(check_scale, [*sound, both])[0]


def test_an_episode_of_holding_and_closing_is_not_told_to_be_rescaled_where_others_open_too() -> None:
    action = np.zeros((STEPS, 7), np.float32)
    action[50:60, 6], action[150:160, 6] = 1, -1
    moving = arm(metres=1.0)
    moving[:, 7] = np.where((ALONG[:, 0] > 0.25) & (ALONG[:, 0] < 0.75), 0.0, 0.04)
    usual = [dataclasses.replace(frozen(moving, action=action.copy()), name=f"train[{i}]") for i in range(4)]
    cut = dataclasses.replace(frozen(moving[:120], action=action[:120].copy()), name="train[4]")
    assert not told(check_grippers, [*usual, cut])
    odd = dataclasses.replace(usual[0], action=(action + 1) / 2, name="train[4]")
    assert "rescale with 2x - 1" in told(check_grippers, [*usual, odd])[0]
    for one in (*usual, cut):
        one.action[:, 6] = np.where(one.proprio[:, 7] > 0, -1, 1)  # type: ignore[index]
    cut.action[:, 6] = (cut.action[:, 6] + 1) / 2
    assert "rescale with 2x - 1" in told(check_grippers, [*usual, cut])[0]


@pytest.mark.parametrize("told_always", [-1.0, 0.0, 1.0])
def test_a_gripper_that_is_told_throughout_to_stay_open_opens_at_first(told_always: float) -> None:
    opening = arm(metres=1.0)
    opening[:, 7] = np.minimum(0.02 + 0.002 * np.arange(STEPS), 0.04)
    action = np.full((STEPS, 7), told_always, np.float32)
    usual = [dataclasses.replace(frozen(opening, action=action), name=f"train[{i}]") for i in range(3)]
    assert not told(check_grippers, usual)
    for one in usual:
        one.proprio[120:, 7] = 0.0  # type: ignore[index]
    assert "moves and is never commanded" in told(check_grippers, usual)[0]
    for one in usual:  # a grasp that is over in the first quarter
        one.proprio[:, 7] = np.where(np.arange(STEPS) < 20, 0.04, 0.0)  # type: ignore[index]
    assert "moves and is never commanded" in told(check_grippers, usual)[0]


@pytest.mark.parametrize(("start", "level"), [(1_790_000_000, []), (0, ["error"])])
def test_equal_times_are_an_error_but_for_seconds_since_1970_in_float32(start: float, level: list[str]) -> None:
    clock = np.float32(start) + np.arange(STEPS, dtype=np.float32) // 2
    for stored in (clock, clock.astype(np.float64)):
        found = list(check_time(dataclasses.replace(frozen(arm()), fields={"timestamp": stored})))
        assert [f.level for f in found] == level
    fallen = list(check_time(dataclasses.replace(frozen(arm()), fields={"timestamp": clock[::-1] * 2})))
    assert [f.level for f in fallen] == ["error"]


def test_a_gripper_from_0_to_1_is_said_where_actions_are_absolute_too() -> None:
    moving = arm(metres=1.0, opening=0.04)
    target = np.concatenate([np.roll(moving[:, :3], -1, 0), np.zeros((STEPS, 3)), ALONG > 0.5], 1)
    found = told(check_conventions, [frozen(moving, action=target.astype(np.float32))])
    assert [said.split(":")[1] for said in found] == [" gripper", " frame"] and "absolute positions" in found[1]


def test_several_actions_a_step_are_refused(tmp_path: Path) -> None:
    feature = tfds.features.Tensor(shape=(4, 7), dtype=np.float32)
    version = written(tmp_path, "action", feature, np.zeros((4, 7), np.float32))
    with pytest.raises(
        EpisodeError, match=r"train\[0\]: a step of 'action' has shape \(4, 7\), not one row of numbers"
    ):
        check_dataset(version, pictures=0)


@pytest.mark.slow
def test_statistics_are_compared_if_the_state_is_named_that_is_taken_anyway(version_dir: Path, tmp_path: Path) -> None:
    version = shutil.copytree(version_dir, tmp_path / "toy" / "1.0.0")
    (version / "dataset_statistics.json").unlink()

    def found(**options: Any) -> list[tuple[str, str]]:
        said = [f for f in check_dataset(version, pictures=0, **options).findings if f.check == "statistics"]
        return [(f.level, f.message.split(": ")[-1]) for f in said]

    compared = [("error", "dataset_statistics.json is missing; copy the dataset, or write it, again")]
    assert (
        found() == found(state_key="observation/proprio") == found(layout="gap") == found(max_episodes=99) == compared
    )
    assert found(layout="robomimic") == [("note", "another state or layout is named")]
    assert found(max_episodes=1) == [("note", "not all episodes were read")]


def test_every_camera_of_a_foreign_dataset_is_looked_at(tmp_path: Path) -> None:
    channels = {"exterior": {"rgb": 3}, "wrist": {"rgb": 3}, "grey": 1, "with_alpha": 4, "other": 2}

    def of_each(make: Callable[[int], Any], of: Any) -> Any:
        return {k: of_each(make, v) for k, v in of.items()} if isinstance(of, dict) else make(of)

    feature = of_each(lambda c: tfds.features.Tensor(shape=(8, 8, c), dtype=np.uint8), channels)
    feature["deep"] = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint16)
    black = of_each(lambda c: np.zeros((8, 8, c), np.uint8), channels) | {"deep": np.ones((8, 8, 1), np.uint16)}
    version = written(tmp_path, "cameras", feature, black)
    found = {f.message.split(";")[0] for f in check_dataset(version, pictures=0).findings}
    looked_at = {"cameras/exterior/rgb", "cameras/wrist/rgb", "grey", "with_alpha"}
    assert {f"{camera} has one colour throughout" for camera in looked_at} <= found
    assert "cameras/other has 2 channels, and is not checked as a picture" in found
    assert "cameras/deep is uint16, and is not checked as a picture" in found
    part = [f.message for f in check_dataset(version, pictures=0, max_episodes=1).findings if f.check == "structure"]
    assert part == ["of each split, the first 1 alone are read, and the numbers of records not compared"]


def test_cameras_of_one_name_within_the_observation_and_beside_it_are_both_looked_at(tmp_path: Path) -> None:
    film = tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8)
    version = written(tmp_path, "image_0", film, np.zeros((8, 8, 3), np.uint8), observed=True)
    found = {f.message.split(";")[0] for f in check_dataset(version, pictures=0).findings}
    assert {f"{camera} has one colour throughout" for camera in ("image_0", "observation/image_0")} <= found


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [0, 10, -30, 45, 60])
def test_actions_in_a_frame_that_is_turned_are_an_error_and_unlike_gains_are_none(axis: int, degrees: int) -> None:
    rng = np.random.default_rng(0)
    command = rng.uniform(-1, 1, (STEPS, 3))
    other = np.delete(np.arange(3), axis) if axis != 1 else np.array([2, 0])
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    moved = 0.01 * command * [1, 0.6, 1.2] if degrees == 0 else 0.01 * command
    moved[:, other] = moved[:, other] @ [[cos, sin], [-sin, cos]]
    proprio = np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 0.04, 0.04]), (STEPS, 1))
    proprio[1:, :3] = np.cumsum(moved, 0)[:-1] + rng.normal(0, 0.002, (STEPS - 1, 3))
    action = np.concatenate([command, np.zeros((STEPS, 4))], 1).astype(np.float32)
    found = [one for one in told(check_conventions, [frozen(proprio, action=action)]) if "translation" in one]
    if abs(degrees) == 60:  # found by the axes that it exchanges
        assert found and all("actions and states are in different frames" in one for one in found)
    elif abs(degrees) > 20:
        (said,) = found
        turned = re.match(
            r"error: frame: arm 0 translation: it is turned against its actions by (.+) degrees (.+);", said
        )
        assert turned and abs(int(turned[1]) - degrees) < 4 and turned[2] == f"about {'xyz'[axis]}"
    else:
        assert not found
