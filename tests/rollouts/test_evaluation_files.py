"""Files that hold no measurement: demonstrations, key files, episodes and summaries are refused, by their names."""

import contextlib
import dataclasses
import errno
import importlib
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from evaluations import evaluation_of
from leftovers import leave
from pointmass import PointTask
from served import Counting, serving

from gap_vla.cli import diagnose
from gap_vla.core.episode import EpisodeError
from gap_vla.core.foreign import CheckpointError, Section
from gap_vla.core.locks import InUseError, alone
from gap_vla.core.resources import ResourceError
from gap_vla.core.whole import write_json
from gap_vla.demos import open_source
from gap_vla.drawing.video import packets, write_video
from gap_vla.report.comparison_render import render
from gap_vla.rlds.convert import build_dataset
from gap_vla.rollouts import EvaluationError, PolicyError, evaluate
from gap_vla.rollouts.evaluation import evaluated
from gap_vla.rollouts.film_notes import shown_otherwise
from gap_vla.rollouts.policy import ExpertPolicy, RandomPolicy, ReplayPolicy
from gap_vla.rollouts.record import EpisodeLog, EpisodeRecord, read_episodes
from gap_vla.rollouts.recordings import Recording, require_scene, view_of
from gap_vla.rollouts.summary import cannot_end_so, read_outcomes, summarize
from gap_vla.rollouts.task import sim_task
from gap_vla.serving.key_mapping import OBSERVATION, KeyMapping
from gap_vla.serving.loading import load_checkpoint, load_policy
from gap_vla.sim.specs import task_spec

NAN = float("nan")


def demonstrations(path, seeds=(5, 6), task="assembly", width=7):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["task"] = task
        for number, seed in enumerate(seeds):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = np.zeros((3, width))
            demo["executed_actions"] = np.full((3, width), 0.5)
            for key, columns in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2)):
                demo[f"obs/robot0_{key}"] = np.full((3, columns), 0.5)  # a quaternion of length 1
            if seed is not None:
                demo.attrs["seed"] = seed
    return path


def test_a_diagnosis_of_demonstrations_without_pictures_is_none(tmp_path, capsys):
    path = demonstrations(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["actions"][:] = np.arange(21).reshape(3, 7) / 21
    options = ["--policy", "random", "--task", "assembly", "--demos", str(path), "--out", str(tmp_path / "out")]
    assert diagnose.main(options) == 2
    assert "has no pictures, and a diagnosis alters them; give recordings with" in capsys.readouterr().err


def test_what_a_killed_evaluation_left_of_its_files_goes_when_it_is_taken_up(tmp_path):
    options = dict(episodes=1, seed=0, out_dir=tmp_path, workers=1)
    summary = evaluate(RandomPolicy(7), PointTask(), **options)
    before = sorted(tmp_path.rglob("*"))
    leave(tmp_path / "evaluation.json", "evaluation.json")
    leave(tmp_path / "videos" / "episode_0000_failure.mp4", "episode_0000_failure.mp4")
    assert evaluate(RandomPolicy(7), PointTask(), **options)["episodes"] == summary["episodes"]
    assert sorted(tmp_path.rglob("*")) == before


def replaying(path, task="assembly"):
    return load_policy(f"replay:{path}", action_dim=7, task=task).policy


def test_demonstrations_are_replayed_as_executed_on_their_layouts_and_in_their_task_only(tmp_path):
    path = demonstrations(tmp_path / "demos.hdf5")
    policy = replaying(path)
    assert dict(policy.layout_seeds) == {0: 5, 1: 6} and policy._actions[0][0, 0] == 0.5
    with pytest.raises(PolicyError, match=r"demos\.hdf5 holds demonstrations of assembly, not of stack"):
        replaying(path, "stack")
    with h5py.File(path, "a") as file:
        file["data/demo_1/actions"][1] = np.nan
    with pytest.raises(EpisodeError, match=r"demo_1: 'actions' is NaN or infinite at step 1"):
        replaying(path)
    with h5py.File(path, "a") as file:
        file["data/demo_1/actions"][1] = 0.5
    with h5py.File(path, "a") as file:
        del file["data"].attrs["task"]
        file["data"].attrs["env_args"] = '{"env_name": "Lift", "type": 1}'
    with pytest.raises(PolicyError, match=r"demos\.hdf5 holds demonstrations of Lift, not of assembly"):
        replaying(path)


SLOW = '{"env_name": "x", "env_kwargs": {"control_freq": 5}}'
WIDE = '{"env_name": "x", "env_kwargs": {"variant": "positions_wide"}}'


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"task": ["assembly", "stack"]}, ": its attribute task is not one value"),  # as a merging tool writes them
        ({"variant": ["default", "light"]}, ": its attribute variant is not one value"),
        ({"action_noise": [0.1, 0]}, ": its attribute action_noise is not one value"),
        ({"action_noise": -1.0}, ": its attribute action_noise is -1.0; it must be a number from 0 to 1"),
        ({"action_noise": float("nan")}, ": its attribute action_noise is nan; it must be"),
        ({"action_noise": "lots"}, ": its attribute action_noise is 'lots'; it must be"),
        ({"action_noise": 0.0}, ", episode demo_0: its executed_actions are not its actions, and action_noise is 0"),
        ({"action_noise": 0.3}, None),
        ({"variant": "default", "env_args": WIDE}, " says variant default, and its env_args positions_wide; correct"),
        ({"variant": "default", "demo_1": {"variant": "light"}}, " says variant default, and its demo_1 light"),
        ({"control_hz": 80, "env_args": SLOW}, " says control_hz 80, and its env_args 5; correct"),
        ({"env_args": '{"env_name": "gap_vla/New-v9"}'}, " says task assembly, and its env_args gap_vla/New-v9"),
        ({"env_args": '{"env_name": "gap_vla/Stack-v0"}'}, " says task assembly, and its env_args gap_vla/Stack-v0"),
        ({"layout_version": 1}, " has layout_version 1, this gap_vla 2; collect it again"),
        ({"pictures_version": 99}, " has pictures_version 99, this gap_vla 1; collect it again"),
        ({"control_hz": 20}, " has control_hz 20, this gap_vla 80; collect it again"),
        ({"variant": [["light"]], "layout_version": [[2.0]]}, None),  # as MATLAB writes every value
        ({"env_args": '{"env_name": "Lift"}', "pictures_version": 1, "control_hz": 80}, None),
    ],
)
def test_recordings_that_say_two_things_or_are_of_another_version_are_not_replayed(tmp_path, said, problem):
    path = demonstrations(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        for key, value in said.items():
            if isinstance(value, dict):
                file["data"][key].attrs.update(value)
                continue
            texts = isinstance(value, list) and isinstance(np.ravel(value)[0], str)
            file["data"].attrs[key] = np.array(value, object) if texts else value
    if problem is None:
        assert replaying(path).variant == ("light" if "variant" in said else None)
        return
    with pytest.raises(PolicyError) as caught:
        replaying(path)
    assert str(caught.value).startswith(f"{path}{problem}")


def test_recordings_that_do_not_succeed_again_are_counted(tmp_path, capsys):
    from gap_vla.cli.evaluate import main

    path = demonstrations(tmp_path / "demos.hdf5", seeds=(5, 6, 7))
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["success"] = False
        longer = file["data/demo_2"]
        for key in ("actions", "executed_actions", *(f"obs/{name}" for name in longer["obs"])):
            rows = longer[key][:]
            del longer[key]
            longer[key] = np.concatenate([rows, rows])
    words = ["--task", "assembly", "--cameras", "none", "--horizon", "3", "--episodes", "3", "--workers", "1"]
    assert main(["--policy", f"replay:{path}", *words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "note: 1 recordings of a success ended without it here" in said
    assert "note: 1 recordings of a success ended without it here: --horizon 3 cut them off" in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["seed"] is None and summary["layout_seeds"] == [5, 6, 7]
    assert "of each layout as the policy names it" in (tmp_path / "out" / "index.html").read_text()
    (tmp_path / "out" / "summary.json").write_text(json.dumps({**summary, "seed": 100_000}))  # of an earlier version
    assert main(["--policy", f"replay:{path}", *words, "--out", str(tmp_path / "out")]) == 0


def test_recordings_of_which_some_alone_tell_what_was_executed_are_refused(tmp_path):
    path = demonstrations(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_0/executed_actions"]
    with pytest.raises(PolicyError, match="demo_0: no executed_actions, which other recordings have"):
        replaying(path)
    with h5py.File(path, "a") as file:
        del file["data/demo_1/executed_actions"]
    assert len(replaying(path).layout_seeds) == 2
    with h5py.File(path, "a") as file:
        file["data"].attrs["action_noise"] = 0.3
    with pytest.raises(PolicyError, match=r"demo_0: no executed_actions, and action_noise is 0\.3"):
        replaying(path)


def test_an_episode_is_no_longer_than_its_task_has_it():
    with pytest.raises(EvaluationError, match="horizon is 1000, an episode of assembly ends at step 200; lower it"):
        sim_task("assembly", horizon=1000)


def test_demonstrations_of_ours_that_name_their_task_in_env_args_alone_are_known(tmp_path):
    path = demonstrations(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        del file["data"].attrs["task"]
        file["data"].attrs["env_args"] = json.dumps({"env_name": "gap_vla/Stack-v0"})
    require_scene(path, "stack")
    with pytest.raises(PolicyError, match="holds demonstrations of stack, not of assembly"):
        require_scene(path, "assembly")


@pytest.mark.parametrize("place", ["/", "data/demo_1", "npz"])
def test_demonstrations_that_name_another_of_our_tasks_are_refused_wherever_they_say_it(tmp_path, place):
    path = demonstrations(tmp_path / "demos.hdf5")
    for task, odd in (("pick it up", False), ("stack", True)):
        if place == "npz":
            path = tmp_path
            np.savez(tmp_path / "demo_1.npz", task=task, task_index=3)
        else:
            with h5py.File(path, "a") as file:
                file["data"].attrs.pop("task", None)
                file[place].attrs["task"] = task
        require_scene(path, "stack")
        require_scene(path, None)
        where = {"/": "file", "npz": "demo_1.npz"}.get(place, "demo_1")
        with (
            pytest.raises(PolicyError, match=f"its {where} says task stack, not assembly")
            if odd
            else contextlib.nullcontext()
        ):
            require_scene(path, "assembly")
    if place != "npz":
        with h5py.File(path, "a") as file:
            file["data"].attrs["task"] = "assembly"
        with pytest.raises(PolicyError, match=f"says task assembly, and its {where} stack; correct one"):
            require_scene(path, "assembly")


def test_the_task_and_view_of_a_recording_go_with_a_dataset_that_is_built_of_it(tmp_path):
    path = demonstrations(tmp_path / "demos.hdf5")
    assert view_of(path) is None and "camera" not in open_source(path).identity()
    for view in ("near", "corner2"):
        with h5py.File(path, "a") as file:
            file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"camera": view}})
        built = build_dataset(path, tmp_path / view, "mine", method="fixed", workers=1)
        assert view_of(path) == view and view_of(built) == (None if view == "near" else view)
    require_scene(built, "assembly", "corner2")
    with pytest.raises(PolicyError, match=r"mine/1\.0\.0 holds demonstrations of assembly, not of stack"):
        require_scene(built, "stack")
    for data in (path, built):
        with pytest.raises(
            PolicyError, match="was recorded through the view 'corner2'; the policy looks through 'near'"
        ):
            require_scene(data, "assembly", "near")


def test_a_file_in_the_place_of_a_summary_is_named_and_stays(tmp_path):
    def evaluated(episodes):
        return evaluate(RandomPolicy(7), PointTask(), episodes=episodes, seed=0, out_dir=tmp_path, videos=0, workers=1)

    evaluated(1)
    for mine in ("my notes", "[1]", "{}"):
        (tmp_path / "summary.json").write_text(mine)
        with pytest.raises(EvaluationError, match=r"summary\.json.*(move it away|is missing|an object)"):
            evaluated(2)
        assert (tmp_path / "summary.json").read_text() == mine
    (tmp_path / "summary.json").unlink()
    summary = evaluated(2)
    wrong = 1 - summary["outcomes"][0]
    other = {**summary, **evaluation_of([(0, wrong), (1, summary["outcomes"][1])], steps=summary["steps"][0])}
    damaged = [
        ({**summary, "seed": 7}, "says of seed other than .*episodes.jsonl; copy both again"),
        (other, "says of successes other than .*episodes.jsonl; copy both again"),
        ({**summary, "mean_steps": 2.5}, "says of mean_steps other than"),
        ({key: value for key, value in summary.items() if key != "seconds"}, "says of seconds other than"),
    ]
    for left, said in damaged:
        (tmp_path / "summary.json").write_text(json.dumps(left))
        with pytest.raises(EvaluationError, match=said):
            evaluated(2)
    (tmp_path / "summary.json").write_text(json.dumps(summary))  # the only one that knows of episode 1
    (first,) = read_episodes(tmp_path / "episodes.jsonl")[0].keys() - {1}
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "episodes.jsonl").write_text(lines[first])
    with pytest.raises(EvaluationError, match=r"says of episode 1 other than .*; copy both again, or move it away"):
        evaluated(1)


def test_a_film_of_an_episode_that_ended_otherwise_is_named(tmp_path):
    def evaluated():
        return evaluate(RandomPolicy(7), PointTask(), episodes=1, seed=0, out_dir=tmp_path, videos=0, workers=1)

    assert evaluated()["outcomes"] == [0]
    for name in ("episode_0000_failure.mp4", "episode_0000_success.mp4"):
        film = tmp_path / "videos" / name
        write_video(film, [np.zeros((16, 16, 3), np.uint8)] * (PointTask().horizon + 1), "rollout")
        odd = name.endswith("success.mp4")
        said = pytest.raises(EvaluationError, match=f"{name} is of an episode that ended otherwise in .*; move it away")
        with said if odd else contextlib.nullcontext():
            assert evaluated()["videos"] == [f"videos/{name}"]


def test_a_film_of_more_or_fewer_steps_than_its_episode_is_named(tmp_path):
    def evaluated():
        return evaluate(ExpertPolicy(), PointTask(), episodes=4, seed=0, out_dir=tmp_path, videos=4, workers=1)

    assert evaluated()["outcomes"] == [1] * 4
    assert evaluated()["videos"] == [f"videos/episode_000{i}_success.mp4" for i in range(4)]
    steps = {number: record.steps for number, record in read_episodes(tmp_path / "episodes.jsonl")[0].items()}
    one, other = sorted(steps, key=steps.get)[:: len(steps) - 1]
    film, same = (tmp_path / "videos" / f"episode_000{i}_success.mp4" for i in (one, other))
    film.replace(tmp_path / "kept")
    same.replace(film)
    film.write_bytes(film.read_bytes().partition(b"freegap_vla:film ")[0][:-4])  # as earlier versions wrote them
    said = rf"{film.name} shows {steps[other] + 1} pictures, and episode {one} of .* has {steps[one] + 1}; move it away"
    with pytest.raises(EvaluationError, match=said):
        evaluated()
    assert steps[one] < steps[other] and not same.exists()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exchanged", r"is of evaluation (\w{8}), episode 1, layout 1, not of evaluation \1, episode 0, layout 0"),
        ("of another policy", r"is of evaluation \w{8}, episode 0, layout 0, not of evaluation \w{8}, episode 0, "),
        ("changed", "was changed since it was made; move it away"),
        ("slower", "shows 5 pictures a second, not 20; move it away"),
        ("of none that was played", r"is of evaluation \w{8}, episode 0, layout 0, not of .*, episode 7; move"),
        ("as before", None),
    ],
)
def test_a_film_of_as_many_steps_that_is_not_its_episodes_own_is_named(tmp_path, how, said):
    def evaluated(out, seed=0):
        return evaluate(RandomPolicy(7, seed), PointTask(), episodes=2, seed=0, out_dir=out, videos=2, workers=1)

    folder = tmp_path / "out"
    assert evaluated(folder)["outcomes"] == evaluated(folder)["outcomes"] == [0, 0]
    film, other = (folder / "videos" / f"episode_000{i}_failure.mp4" for i in range(2))
    if how == "exchanged":
        film.replace(folder / "kept")
        other.replace(film)
        (folder / "kept").replace(other)
    elif how == "of another policy":
        evaluated(tmp_path / "other", 1)
        shutil.copy(tmp_path / "other" / "videos" / film.name, film)
    elif how == "of none that was played":
        film = Path(shutil.copy(film, film.with_name("episode_0007_failure.mp4")))
    elif how == "changed":
        film.write_bytes(film.read_bytes().replace(b"mdat", b"mdaT", 1))
    else:
        pictures = [np.zeros((16, 16, 3), np.uint8)] * (PointTask().horizon + 1)
        write_video(film, pictures, "rollout", fps=5 if how == "slower" else 20, scale=16)
    with pytest.raises(EvaluationError, match=f"{film.name} {said}") if said else contextlib.nullcontext():
        evaluated(folder)


@pytest.mark.parametrize(("size", "side"), [(16, 256), (64, 256), (100, 200), (129, 128), (300, 300)])
def test_a_film_shows_its_pictures_enlarged_by_a_whole_factor(tmp_path, size, side):
    film = write_video(tmp_path / "film.mp4", [np.zeros((side, side, 3), np.uint8)] * 2, "rollout")
    assert shown_otherwise(packets(film), size, 20.0) == ""
    assert shown_otherwise(packets(film), 90, 20.0) == f"has pictures of {side}x{side}, not of 180x180"


def test_an_empty_list_of_episodes_as_a_full_disk_leaves_it_is_gone_on_with(tmp_path, monkeypatch):
    options = {"seed": 0, "out_dir": tmp_path, "videos": 0, "workers": 1}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"No space left .*episodes\.jsonl'"):
        patched.setattr("gap_vla.rollouts.record.os.fsync", full)
        evaluate(ExpertPolicy(), PointTask(), episodes=1, **options)
    (tmp_path / "episodes.jsonl").write_text("")
    for count in (1, 2):
        assert evaluate(ExpertPolicy(), PointTask(), episodes=count, **options)["outcomes"] == [1] * count


def test_a_list_of_episodes_in_another_encoding_is_refused_and_none_of_its_lines_blamed(tmp_path):
    options = {"seed": 0, "out_dir": tmp_path, "videos": 0, "workers": 1}
    evaluate(ExpertPolicy(), PointTask(), episodes=1, **options)
    text = (file := tmp_path / "episodes.jsonl").read_text()
    file.write_text(text, encoding="utf-16")
    with pytest.raises(EvaluationError, match=r"episodes\.jsonl, line 1: not UTF-8; save the file as UTF-8, or remove"):
        evaluate(ExpertPolicy(), PointTask(), episodes=2, **options)
    assert file.read_text(encoding="utf-16") == text
    file.write_text(text, encoding="utf-8-sig")  # as an editor of Windows saves it
    assert evaluate(ExpertPolicy(), PointTask(), episodes=2, **options)["outcomes"] == [1, 1]


def test_numbers_of_numpy_are_taken_as_pythons(tmp_path):
    task = sim_task("assembly", image_size=np.int64(32), horizon=np.int64(5))
    assert json.dumps(evaluated(RandomPolicy(7, np.int64(3)), task, 0))
    assert json.dumps(ReplayPolicy([np.zeros((2, 7))], np.array([5])).layout_seeds) == '{"0": 5}'
    assert EpisodeRecord.read({**LINE, "layout_seed": 2**32 - 1}, "line 1").layout_seed == 2**32 - 1  # as one may say
    options = {"workers": 1, "videos": 0, "progress": False}
    policy = ExpertPolicy()
    policy.source = tmp_path
    summary = evaluate(policy, PointTask(), episodes=1, seed=np.int64(5), out_dir=tmp_path, **options)
    assert summary["layout_seeds"] == [5] and summary["source"] == str(tmp_path)
    greatest = 2**32 - 1  # of a recording's layout
    policy = ReplayPolicy([np.zeros((2, 7))], [greatest])
    assert evaluate(policy, PointTask(), episodes=1, seed=0, out_dir=tmp_path / "b", **options)["layout_seeds"] == [
        greatest
    ]


def test_an_evaluation_whose_folder_is_renamed_stops(tmp_path):
    log = EpisodeLog(tmp_path / "e", {})
    log.append(EpisodeRecord(0, 5, False, 3))
    (tmp_path / "e").rename(tmp_path / "f")
    with pytest.raises(EvaluationError, match="e was renamed or removed meanwhile"):
        log.append(EpisodeRecord(1, 6, False, 3))
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
def test_an_ffmpeg_that_is_none_is_found_before_the_first_rollout(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    main = importlib.import_module(f"gap_vla.cli.{command}").main
    config = [f"{Path(__file__).parents[2]}/finetune_configs/assembly.py:debug", "--config.eval.videos=1"]
    folders = [f"--config.runs={tmp_path}/runs", f"--config.data.root={tmp_path}/data"]
    words = ["--policy", "random", "--task", "assembly", "--out", str(tmp_path / "out")]
    assert main(words if command == "evaluate" else ["--config", *config, *folders, "--dry-run"]) == 2
    assert "nowhere is no ffmpeg that answers; name another with IMAGEIO_FFMPEG_EXE" in capsys.readouterr().err
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    monkeypatch.setattr("gap_vla.drawing.video._encodes", lambda _: False)
    assert main(words if command == "evaluate" else ["--config", *config, *folders, "--dry-run"]) == 2
    assert "is an ffmpeg without libx264; name another with IMAGEIO_FFMPEG_EXE" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", ["light", "all"])
@pytest.mark.parametrize(
    "said", [{"variant": "default"}, {"env_args": '{"env_name": "x", "env_kwargs": {"variant": "default"}}'}]
)
def test_recordings_are_not_replayed_in_another_variant_than_that_of_their_layouts(tmp_path, capsys, asked, said):
    from gap_vla.cli.evaluate import main

    path, out = demonstrations(tmp_path / "demos.hdf5"), tmp_path / "out"
    with h5py.File(path, "a") as file:
        file["data"].attrs.update(said)
    command = ["--policy", f"replay:{path}", "--task", "assembly", "--episodes", "1", "--out", str(out)]
    assert main([*command, "--variant", asked]) == 2
    expected = f"error: replay:{path} is of variant default, not {asked}; pass --variant default\n"
    assert capsys.readouterr().err == expected and not out.exists()
    with h5py.File(path, "a") as file:
        file["data"].attrs.update(variant="moonlight", env_args='{"env_name": "x"}')
    assert main([*command, "--variant", asked]) == 2
    assert f"error: replay:{path}: its variant 'moonlight' is unknown" in capsys.readouterr().err


@pytest.fixture
def no_rollouts(monkeypatch):
    """Stands in for the rollouts; the names of the variants that would have been played."""
    played = []

    def evaluate(policy, task, *, out_dir, **_):
        played.append(task.variant)
        raise KeyboardInterrupt

    monkeypatch.setattr("gap_vla.rollouts.evaluate", evaluate)
    return played


RANDOM = ("--policy", "random", "--task", "assembly")


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (["--camera", "corner"], "variant camera_shift moves the task's own view, not 'corner'"),
        (["--cameras", "wrist"], "variant camera_shift is one of looks, not seen without the primary camera"),
        (["--cameras", "none"], "variant camera_shift is one of looks, not seen without the primary camera"),
    ],
)
def test_a_variant_that_the_pictures_do_not_show_is_refused_alone_and_left_out_of_all(
    tmp_path, capsys, no_rollouts, scene, said
):
    from gap_vla.cli.evaluate import main

    command = [*RANDOM, *scene, "--out", str(tmp_path / "out")]
    assert main([*command, "--variant", "camera_shift"]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir()) and not no_rollouts
    assert main([*command, "--variant", "all"]) == 130 and no_rollouts == ["default"]
    assert f"note: left out: {said}\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["index.html", "variants.json"])
def test_what_lies_in_the_place_of_the_page_of_all_variants_is_refused_before_the_first_rollout(
    tmp_path, capsys, no_rollouts, name
):
    from gap_vla.cli.evaluate import main

    command = [*RANDOM, "--cameras", "none", "--variant", "all", "--out", str(tmp_path / "out")]
    theirs = tmp_path / "out" / name
    assert main(command) == 130 and no_rollouts
    theirs.write_text("mine")
    assert main(command) == 2 and f"{theirs} exists without a mark of gap_vla" in capsys.readouterr().err
    theirs.unlink()
    theirs.symlink_to(tmp_path / "elsewhere")
    assert main(command) == 2 and f"{theirs} is a link" in capsys.readouterr().err
    assert no_rollouts == ["default"]


def test_the_table_of_all_variants_is_of_what_lies_beside_it_also_after_a_stop(tmp_path, monkeypatch):
    from gap_vla.cli.evaluate import main

    played, count = [], 2

    def evaluate(policy, task, **_):
        if len(played) == count:
            raise KeyboardInterrupt
        played.append(task.variant)
        what = {"task": {"task": "assembly", "variant": task.variant, "cameras": []}, "policy": {"name": "random"}}
        return {**evaluation_of({1: True, 2: False}), **what, "seed": 1, "videos": []}

    monkeypatch.setattr("gap_vla.rollouts.evaluate", evaluate)
    for _ in range(2):
        command = [*RANDOM, "--cameras", "none", "--variant", "all", "--out", str(tmp_path / "out")]
        assert main(command) == 130 and len(played) == count
        table = json.loads((tmp_path / "out" / "variants.json").read_text())
        assert {*table} - {"made_by"} == {*played}
        for folder in (tmp_path / "out").glob("*/"):  # holds no evaluation, since none was made
            shutil.rmtree(folder)
        played, count = [], 1


def test_the_table_of_all_variants_keeps_the_rows_of_those_that_a_stop_left_as_they_were(tmp_path, monkeypatch):
    from gap_vla.cli.evaluate import main

    stop = False

    def evaluate(policy, task, out_dir, **_):
        if stop:
            raise KeyboardInterrupt
        what = {"task": {"task": "assembly", "variant": task.variant, "cameras": []}, "policy": {"name": "random"}}
        summary = {**evaluation_of({1: True, 2: False}), **what, "seed": 1, "videos": []}
        write_json(out_dir / "summary.json", summary)
        return summary

    def as_it_is(policy, task, seed, folder):
        return json.loads(file.read_text()) if (file := folder / "summary.json").exists() else None

    def table():
        return [*json.loads((tmp_path / "out" / "variants.json").read_text())]

    monkeypatch.setattr("gap_vla.rollouts.evaluate", evaluate)
    monkeypatch.setattr("gap_vla.rollouts.record.require_place", lambda *_: None)
    command = [*RANDOM, "--cameras", "none", "--variant", "all", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    whole = table()
    assert main(command) == 2  # a summary without its episodes, before any is played
    monkeypatch.setattr("gap_vla.rollouts.evaluation.kept_summary", as_it_is)
    (tmp_path / "out" / whole[-1] / "summary.json").unlink()

    def after_the_first(*arguments, **named):
        nonlocal stop
        summary, stop = evaluate(*arguments, **named), True
        return summary

    monkeypatch.setattr("gap_vla.rollouts.evaluate", after_the_first)
    assert main(command) == 130 and table() == whole[:-1]


def test_two_recordings_of_one_layout_are_refused(tmp_path):
    with pytest.raises(PolicyError, match=r"demo_0 and .*demo_1 have the same seed 5; each is replayed on a layout"):
        replaying(demonstrations(tmp_path / "demos.hdf5", seeds=(5, 5)))


@pytest.mark.parametrize("seed", [-1, 2**40, 1.5, "five", True])
def test_recordings_with_odd_seeds_are_refused_by_file_and_episode(tmp_path, seed):
    path = demonstrations(tmp_path / "demos.hdf5", seeds=(5, seed))
    with pytest.raises(PolicyError, match=r"demos\.hdf5, episode demo_1: seed is .*it must be a whole number"):
        replaying(path)


def test_recordings_of_which_some_or_all_have_no_layout_are_refused(tmp_path):
    with pytest.raises(PolicyError, match="1 of 2 recordings say on which layout"):
        replaying(demonstrations(tmp_path / "demos.hdf5", seeds=(5, None)))
    with pytest.raises(PolicyError, match=r"0 of 2 recordings say on which layout .*; give each its simulator's seed"):
        replaying(demonstrations(tmp_path / "others.hdf5", seeds=(None, None)))


def test_other_recordings_of_as_many_steps_are_another_policy(tmp_path):
    path = demonstrations(tmp_path / "demos.hdf5")
    before = replaying(path).identity
    with h5py.File(path, "a") as file:
        file["data/demo_1/executed_actions"][2, 0] = 0.25
    assert before == {**replaying(path).identity, "actions": before["actions"]} != replaying(path).identity


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("5", "keys.json is 5"),
        ("null", "keys.json is null; it must be an object with keys"),
        ('{"observation": 5}', "observation is 5"),
        ('{"observation": {"proprio": 5}}', "observation.proprio is 5"),
        ('{"observation": {"propio": "state"}}', "observation.propio is none of our observations"),
        ('{"observation": {"proprio": "x", "image_primary": "x"}}', "or two the same"),
        ('{"observation": {"image_primary": ""}}', "gives an observation no name"),
        ('{"actions": ["a"]}', "actions is list"),
        ('{"actions": ""}', "actions is empty"),
        ('{"actions": null}', "actions is null"),
        ('{"execute": null}', "execute is None"),
        ("[" * 100_000, "not valid JSON (nested too deeply: line 1"),
        ('{"execute": 0}', "execute is 0"),
        ('{"execute": "8"}', "execute is '8'"),
        ('{"image_size": -1}', "image_size is -1"),
        ('{"action_columns": 3}', "action_columns is 3"),
        ('{"action_columns": []}', "action_columns is empty"),
        ('{"action_columns": [0, 1, 0]}', "action_columns names a column twice"),
        ('{"action_columns": [0, -1]}', "action_columns[1] is -1"),
        ('{"action_signs": [1, NaN]}', "action_signs[1] is nan"),
        ('{"action_signs": {"a": 1}}', "action_signs is dict"),
        ('{"action_signs": [1, 0]}', "action_signs: each must be 1 or -1"),
        ('{"action_signs": [-2.0, 1]}', "action_signs: each must be 1 or -1"),
        ('{"observation": {}}', "observation is empty"),
        ('{"actions": "a", "actions": "b"}', "'actions' is given twice"),
        ('{"unheard_of": 1}', "unknown key unheard_of"),
        ("{", "not valid JSON"),
    ],
)
def test_a_key_file_of_another_shape_is_refused_by_its_key(tmp_path, content, named):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(PolicyError) as caught:
        KeyMapping.read(tmp_path / "keys.json")
    assert named in str(caught.value) and "keys.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"observation": {"image_primry": "x"}}, "observation.image_primry is none of our observations"),
        ({"observation": {"image_primary": "x", "image_wrist": "x"}}, "or two the same"),
        ({"action_signs": (2.0,) * 7}, "each must be 1 or -1"),
        ({"action_columns": (-1,)}, "action_columns[0] is -1"),
        ({"action_columns": (1, 1)}, "names a column twice"),
        ({"execute": 0}, "execute is 0"),
        *(({name: None}, f"{name} is ") for name in ("observation", "actions", "execute")),
    ],
)
def test_a_mapping_made_in_python_is_refused_like_a_file(given, named):
    with pytest.raises(PolicyError) as caught:
        KeyMapping(**given)
    assert str(caught.value).startswith("KeyMapping: ") and named in str(caught.value)


def test_a_key_file_may_say_nothing_and_belongs_to_a_server(tmp_path):
    (tmp_path / "keys.json").write_text('{"image_size": null, "action_columns": null, "action_signs": null}')
    assert KeyMapping.read(tmp_path / "keys.json") == KeyMapping()
    with pytest.raises(PolicyError, match="is for servers; random has none"):
        load_policy("random", action_dim=7, keys=tmp_path / "keys.json")


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_a_key_file_names_no_picture_that_the_server_is_never_shown(tmp_path, capsys, no_rollouts, command):
    keys, main = tmp_path / "keys.json", importlib.import_module(f"gap_vla.cli.{command}").main
    keys.write_text(json.dumps({"observation": {name: OBSERVATION[name] for name in ("image_primary", "image_wrist")}}))
    with serving(Counting(), whole_chunks=False) as port:
        words = ["--policy", f"ws://127.0.0.1:{port}", "--task", "assembly", "--out", str(tmp_path / "out")]
        assert main([*words, "--keys", str(keys)]) == 2 and not no_rollouts
        named = f"error: {keys}: observation.image_wrist is none of the pictures that are shown; name its camera with"
        assert named in capsys.readouterr().err
        if command == "evaluate":
            assert main([*words, "--keys", str(keys), "--cameras", "primary", "wrist"]) == 130 and no_rollouts
            keys.write_text('{"execute": 1}')
            assert main([*words, "--keys", str(keys)]) == 130


LINE = vars(EpisodeRecord(0, 0, True, 3))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"success": "no"}, "success is 'no'"),
        ({"success": 1}, "success is 1"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": NAN}, "steps is nan"),
        ({"episode": "0"}, "episode is '0'"),
        ({"episode": 10**12}, "episode is 1000000000000"),
        ({"layout_seed": 2**32}, "layout_seed is 4294967296"),
        ({"policy_seconds": NAN}, "policy_seconds is nan"),
        ({"error": 5}, "error is 5"),
        ({"error": "step 3: fell"}, "cannot have succeeded"),
        ({"error": ""}, "line 1: error is empty; remove the line"),
        ({"error": "step 250: fell", "success": False}, "line 1: steps is 3, and error 'step 250'; remove the line"),
        ({"error": "at the start: fell", "success": False}, "line 1: steps is 3, and error 'at the start'; remove"),
        ({"policy_seconds": 1e8}, "policy_seconds is 100000000.0; it must be a number from 0 to 345600"),
        ({"unheard_of": 1}, "line 1: unknown key 'unheard_of'; remove the line"),
        ({"steps": ...}, "line 1: steps is missing; found episode, "),
        ({"steps": 0}, "line 1: steps is 0"),
        ({"success": ...}, "line 1: success is missing; found episode, "),
        ({"rendering_seconds": ...}, "line 1: rendering_seconds is missing; found episode, "),
    ],
)
def test_lines_that_are_no_episodes_are_not_counted_but_named(tmp_path, change, named):
    EpisodeLog(tmp_path, {}).append(EpisodeRecord(0, 5, False, 3))
    line = {key: value for key, value in {**LINE, **change}.items() if value is not ...}
    (tmp_path / "episodes.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(EvaluationError) as caught:
        EpisodeLog(tmp_path, {})
    assert "episodes.jsonl, line 1" in str(caught.value) and named in str(caught.value)


def test_an_evaluation_that_goes_on_with_a_whole_number_for_a_decimal_seals_its_lines_as_it_began(tmp_path):
    for episode, rate in enumerate((20.0, 20)):
        EpisodeLog(tmp_path, {"task": {"control_frequency": rate}}).append(EpisodeRecord(episode, 5, False, 3))
    assert [*read_episodes(tmp_path / "episodes.jsonl")[0]] == [0, 1]


def test_lines_of_another_policys_evaluation_are_named(tmp_path):
    for name in ("one", "other"):
        EpisodeLog(tmp_path / name, {"policy": {"name": name}}).append(EpisodeRecord(0, 5, False, 3))
    lines = tmp_path / "one" / "episodes.jsonl"
    shutil.copy(tmp_path / "other" / "episodes.jsonl", lines)
    with pytest.raises(
        EvaluationError, match=r"line 1: of another evaluation than .*one/evaluation\.json says; remove"
    ):
        read_episodes(lines)
    lines.write_text(json.dumps({**LINE, "success": False}))  # of gap_vla 0.1
    assert len(read_episodes(lines)[0]) == 1


def test_a_line_that_lost_its_seal_behind_one_that_has_it_is_named(tmp_path):
    for episode in range(3):
        EpisodeLog(tmp_path, {}).append(EpisodeRecord(episode, 5, False, 3))
    file = tmp_path / "episodes.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number in (0, 1):  # gap_vla 0.1 began it
        old = [one if n > number else {key: one[key] for key in LINE} for n, one in enumerate(lines)]
        file.write_text("".join(json.dumps(one) + "\n" for one in old))
        assert len(read_episodes(file)[0]) == 3
    file.write_text("".join(json.dumps(one) + "\n" for one in [lines[2], *old[:2]]))
    with pytest.raises(EvaluationError, match="line 2: without `seal`, which the lines before it have; remove the"):
        read_episodes(file)
    del lines[1]["checksum"]
    file.write_text("".join(json.dumps(one) + "\n" for one in lines[1:]))
    assert len(read_episodes(file)[0]) == 2
    file.write_text("".join(json.dumps(one) + "\n" for one in lines[:2]))
    with pytest.raises(EvaluationError, match="line 2: without `checksum`, which the lines before it have; remove the"):
        read_episodes(file)


@pytest.mark.parametrize(
    "change", [{"phase": "insert"}, {"policy_seconds": 99_999}, {"success": True}, {"seal": None}, {"checksum": None}]
)
def test_an_edited_line_is_refused_and_one_in_another_form_is_not(tmp_path, change):
    EpisodeLog(tmp_path, {}).append(EpisodeRecord(0, 5, False, 3, "reach", policy_seconds=2.0))
    (tmp_path / "evaluation.json").unlink()
    line = json.loads((file := tmp_path / "episodes.jsonl").read_text())
    formed = {key: int(value) if key.endswith("_seconds") else value for key, value in sorted(line.items())}
    file.write_text(json.dumps(formed, separators=(",", ":")))
    assert read_episodes(file)[0][0].policy_seconds == 2
    file.write_text(json.dumps({**line, **change}) + "\n")
    said = (
        r"episodes\.jsonl, line 1: not as it was written \(`checksum` is of other values\); copy the file again, or r"
    )
    with pytest.raises(EvaluationError, match=said):
        read_episodes(file)


def test_a_snapshot_by_hard_links_stays_as_it_was(tmp_path):
    log = EpisodeLog(tmp_path / "evaluation", {})
    log.append(EpisodeRecord(0, 5, False, 3))
    os.link(log.path, tmp_path / "snapshot")
    before = (tmp_path / "snapshot").read_bytes()
    log.append(EpisodeRecord(1, 6, False, 3))
    assert (tmp_path / "snapshot").read_bytes() == before
    assert len(EpisodeLog(tmp_path / "evaluation", {}).records) == 2
    log.path.write_bytes(log.path.read_bytes()[:-9])
    os.link(log.path, tmp_path / "cut off")
    before = (tmp_path / "cut off").read_bytes()
    assert len(EpisodeLog(tmp_path / "evaluation", {}).records) == 1
    assert (tmp_path / "cut off").read_bytes() == before


def test_an_episode_that_stands_there_twice_is_refused(tmp_path):
    log = EpisodeLog(tmp_path, {})
    for success in (False, True):
        log.append(EpisodeRecord(0, 5, success, 3))
    with pytest.raises(EvaluationError, match=r"episodes\.jsonl, line 2: episode 0 again; remove one of them"):
        EpisodeLog(tmp_path, {})


@pytest.mark.parametrize("torn", [b"", b"\0\0", b'{"episode": 1, "lay', b'{"error": "\xe2\x80', b'{"episode"\0\0'])
def test_a_line_that_was_being_written_is_cut_off_and_what_begins_none_is_named(tmp_path, torn):
    EpisodeLog(tmp_path, {}).append(EpisodeRecord(0, 5, False, 3))
    path = tmp_path / "episodes.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(EpisodeLog(tmp_path, {}).records) == 1 and path.read_bytes() == whole
    path.write_bytes(whole + b"garbage here")
    with pytest.raises(EvaluationError, match=r"episodes\.jsonl: behind its last whole line is no beginning of an ep"):
        EpisodeLog(tmp_path, {})
    assert path.read_bytes() == whole + b"garbage here"


def test_a_last_line_without_its_end_is_an_episode_and_the_next_one_begins_a_line(tmp_path):
    EpisodeLog(tmp_path, {}).append(EpisodeRecord(0, 5, False, 3))
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-1])  # as editors save it
    EpisodeLog(tmp_path, {}).append(EpisodeRecord(1, 6, True, 2))
    assert sorted(read_episodes(path)[0]) == [0, 1] and path.read_bytes().count(b"\n") == 2


def on_assembly(out, episodes=1):
    task = sim_task("assembly", cameras=(), horizon=3)
    return evaluate(RandomPolicy(7), task, episodes=episodes, seed=0, out_dir=out, videos=0, workers=1, progress=False)


def unchecked(lines):
    """The only line of an evaluation, as before there were checksums."""
    return {key: value for key, value in json.loads(lines.read_text()).items() if key != "checksum"}


@pytest.fixture(scope="module")
def one_episode(tmp_path_factory):
    """An evaluation of one, which no test changes."""
    folder = tmp_path_factory.mktemp("one") / "e"
    on_assembly(folder)
    return folder


def test_a_failure_before_the_horizon_without_an_error_is_refused(one_episode, tmp_path):
    shutil.copytree(one_episode, tmp_path, dirs_exist_ok=True)
    summary, lines = tmp_path / "summary.json", tmp_path / "episodes.jsonl"
    whole = summary.read_text()
    summary.write_text(json.dumps({**json.loads(whole), "layout_seeds": [7]}))
    with pytest.raises(EvaluationError, match=r"summary\.json says of layout_seeds other than .*episodes\.jsonl"):
        on_assembly(tmp_path)
    summary.unlink()
    lines.write_text(json.dumps({**unchecked(lines), "steps": 2}) + "\n")
    with pytest.raises(EvaluationError, match=r"episodes\.jsonl: episode 0 ended without success or error before its"):
        on_assembly(tmp_path)


def test_a_summary_with_another_reason_for_an_episode_is_refused(tmp_path):
    def evaluated():
        task = PointTask(faults={1: "raise"})
        return evaluate(ExpertPolicy(), task, episodes=2, seed=0, out_dir=tmp_path, workers=1, videos=0, progress=False)

    evaluated()
    summary = tmp_path / "summary.json"
    whole = json.loads(summary.read_text())
    assert evaluated()["simulator_errors"] == 1
    for change, words in (
        ({"simulator_errors": 0}, "says of simulator_errors other than"),
        ({"errors": [{"episode": 1, "error": "step 3: the simulator was tired"}]}, "says of errors other than"),
        ({"errors": [], "simulator_errors": 0}, "says of errors other than"),
    ):
        summary.write_text(json.dumps({**whole, **change}))
        with pytest.raises(EvaluationError, match=words):
            evaluated()


def test_an_evaluation_is_not_written_through_a_link(tmp_path):
    (tmp_path / "note").write_text("the only copy")
    for number, name in enumerate(("episodes.jsonl", "summary.json", "index.html", "videos")):
        EpisodeLog(tmp_path / "e", {}).append(EpisodeRecord(number, 5, False, 3))
        (tmp_path / "e" / name).unlink(missing_ok=True)
        (tmp_path / "e" / name).symlink_to(tmp_path / "note")
        with pytest.raises(EvaluationError, match=rf"{name} is a link"):
            EpisodeLog(tmp_path / "e", {})
        (tmp_path / "e" / name).unlink()
    assert (tmp_path / "note").read_text() == "the only copy"


@pytest.mark.parametrize("name", ["episodes.jsonl", "summary.json", "index.html", "videos"])
def test_what_is_no_folder_or_one_in_the_place_of_a_file_is_refused_before_work(tmp_path, name):
    log = EpisodeLog(tmp_path, {})
    log.append(EpisodeRecord(0, 5, False, 3))
    (tmp_path / name).unlink(missing_ok=True)
    if name == "videos":
        (tmp_path / name).write_text("an archive")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(EvaluationError, match=rf"{name} is (no|a) folder; move it away"):
        EpisodeLog(tmp_path, {})


def test_keys_that_a_formatter_sorted_are_the_same_evaluation(tmp_path):
    ends = ("reach", "transport", "insert")
    records = [EpisodeRecord(n, n, n == 2, 200, phase) for n, phase in enumerate(ends)]
    found = {**summarize(records, task_spec("assembly").phases), "task": {"task": "assembly", "horizon": 200}}
    as_sorted = json.loads(json.dumps(found, sort_keys=True))
    assert list(as_sorted["phases"]["reached"]) != list(found["phases"]["reached"])
    assert read_outcomes(Section(as_sorted, "summary.json")) == {0: False, 1: False, 2: True}


@pytest.mark.parametrize("change", [{"steps": 4}, {"layout_seed": 9}, {"phase": "flying"}, {"episode": 10**4}])
def test_episodes_of_another_evaluation_are_no_beginning_of_this_one(one_episode, tmp_path, change):
    shutil.copytree(one_episode, tmp_path, dirs_exist_ok=True)
    lines = tmp_path / "episodes.jsonl"
    lines.write_text(json.dumps(unchecked(lines) | change) + "\n")
    told = "layout_seed" if "episode" in change else next(iter(change))
    for summary in ([], [tmp_path / "summary.json"]):  # and as if it had been interrupted
        for path in summary:
            path.unlink()
        with pytest.raises(EvaluationError, match=rf"episode \d+ is none of this evaluation \({told} [^()]+\); remove"):
            on_assembly(tmp_path, 2)


def test_an_evaluation_is_continued_by_one_process_at_a_time(tmp_path):
    def evaluated():
        return evaluate(RandomPolicy(7), PointTask(), episodes=1, seed=0, out_dir=tmp_path / "e", videos=0, workers=1)

    with (
        alone(tmp_path / "e" / ".lock", "it"),
        pytest.raises(InUseError, match=rf"e is in use by process {os.getpid()}"),
    ):
        evaluated()
    assert list(tmp_path.iterdir()) == []
    evaluated()
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [
        "episodes.jsonl",
        "evaluation.json",
        "summary.json",
    ]
    (tmp_path / "note").write_text("the only copy")
    (tmp_path / "e" / ".lock").symlink_to(tmp_path / "note")
    with pytest.raises(OSError, match=r"\.lock"):
        evaluated()
    assert (tmp_path / "note").read_text() == "the only copy"


WON = evaluation_of({1: True})
FLYING = {**evaluation_of({1: False}, ("move", "grip")), "last_phases": ["flying"]}
FLYING["phases"] = {"reached": {"move": 1.0, "grip": 0.0}, "failed_in": {}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rollouts": {}}, "was not evaluated"),
        ({"rollouts": {**WON, "outcomes": []}}, "0 outcomes of 1 layouts"),
        ({"rollouts": {**WON, "layout_seeds": [1, 1], "outcomes": [0, 1]}}, "2 outcomes of 1 layouts"),
        ({"rollouts": {**WON, "outcomes": [0, 1]}}, "2 outcomes of 1 layouts"),
        ({"rollouts": {**WON, "outcomes": [NAN]}}, "outcomes[0] is nan"),
        ({"rollouts": {**WON, "outcomes": [2]}}, "outcomes[0] is 2"),
        ({"rollouts": {**WON, "seconds": {**WON["seconds"], "policy": 1e8}}}, "policy is 100000000.0; it must be"),
        ({"rollouts": {**WON, "success_rate": 0.5}}, "success_rate is 0.5, its episodes give 1.0"),
        ({"rollouts": {"outcomes": [1]}}, "layout_seeds is missing"),
        ({"rollouts": FLYING}, "last_phases has {'flying'}, no phase of the task"),
        ({"method": 5}, "method is 5"),
        ({"seed": "0"}, "seed is '0'"),
    ],
)
def test_summaries_without_outcomes_are_not_compared(tmp_path, change, named):
    whole = {"task": "stack", "method": "vp", "seed": 0, "rollouts": WON}
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({**whole, **change}))
    with pytest.raises(EvaluationError) as caught:
        render([path], tmp_path / "out")
    assert named in str(caught.value) and not (tmp_path / "out").exists()


def test_a_line_separator_inside_of_a_text_ends_no_line_and_bytes_that_are_no_text_are_named(tmp_path):
    log = EpisodeLog(tmp_path, {})
    log.append(EpisodeRecord(0, 5, False, 3, error="step 3: the policy said \u2028 and \x85"))
    assert EpisodeLog(tmp_path, {}).records == log.records
    with (tmp_path / "episodes.jsonl").open("ab") as file:
        file.write(b'{"episode": "\xff"}\n')
    with pytest.raises(EvaluationError, match=r"episodes\.jsonl, line 2: not UTF-8; .* remove the line if it alone"):
        EpisodeLog(tmp_path, {})


def test_a_checkpoint_without_the_file_that_says_what_it_is_is_named(tmp_path):
    (tmp_path / "policy.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"holds neither a small policy's policy\.json, nor an Octo's config\.json"
    ):
        load_checkpoint(tmp_path)


def test_a_task_that_was_changed_is_another_one_or_refused():
    task = sim_task("assembly")
    told = dataclasses.replace(task, instruction="put it away")
    assert told.identity() == {**task.identity(), "instruction": "put it away"}
    for change, said in (({"horizon": 1000}, "horizon is 1000"), ({"disturbance": "object_moved"}, "object_moved")):
        with pytest.raises(EvaluationError, match=said):
            dataclasses.replace(task, **change)
    own = {"task": "assembly", "horizon": 200}  # another's task of this name, which may end early
    early = EpisodeRecord(0, 5, False, 3, None)
    assert cannot_end_so(early, task.identity() | {"horizon": 200}) and not cannot_end_so(early, own)
    for name, steps, horizon, impossible in (
        ("assembly", 5, 200, True), ("assembly", 6, 200, False), ("assembly", 3, 3, False), ("threading", 5, 5, True),
    ):  # fmt: skip
        said = sim_task(name).identity() | {"horizon": horizon}
        assert cannot_end_so(EpisodeRecord(0, 5, True, steps, None), said) is impossible, (name, steps, horizon)


def test_masked_and_complex_recordings_are_refused():
    masked = np.ma.masked_less(np.zeros((3, 7)), 1)
    with pytest.raises(PolicyError, match="recording 0 is float64"):
        ReplayPolicy([masked], [3])
    for action in (masked, np.zeros((3, 7), complex)):
        with pytest.raises(EvaluationError, match="action is"):
            Recording({}, np.zeros((3, 9)), action)


def test_pictures_that_the_machine_cannot_hold_are_refused_before_a_simulator_starts(tmp_path, monkeypatch):
    asked = {"seed": 0, "image_size": 1024, "out_dir": tmp_path / "out", "workers": 2, "slots_per_worker": 4}
    monkeypatch.setattr("gap_vla.core.resources.available_memory", lambda: 2**30)
    said = r"about \d+(\.\d)? GiB of memory are needed \(2 simulators .*, pictures of 8 episodes .*ask for no videos"
    with pytest.raises(ResourceError, match=said):
        evaluate(ExpertPolicy(), "threading", episodes=9, **asked)
    assert not (tmp_path / "out").exists()
