"""Claims about the command lines that need a checkpoint or a dataset, as the documentation gives them."""

import asyncio
import concurrent.futures
import errno
import functools
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_evaluation_octo_policy import observations

import gap_vla.cli.diagnose
from gap_vla.core.episode import Episode
from gap_vla.core.errors import UserError
from gap_vla.core.foreign import CheckpointError
from gap_vla.core.marks import stamp
from gap_vla.core.outputs import alone_in, claim_folder, write_output
from gap_vla.rlds import EpisodeStore, read_rlds, write_rlds
from gap_vla.rollouts import PolicyError, RandomPolicy
from gap_vla.rollouts.heldout import HeldOut
from gap_vla.rollouts.interventions import ALL_INTERVENTIONS
from gap_vla.rollouts.policy import identity
from gap_vla.rollouts.recordings import from_dataset
from gap_vla.rollouts.task import sim_task
from gap_vla.serving.client import RemotePolicy
from gap_vla.serving.loading import load_checkpoint
from gap_vla.training.data import count_learnt, motion_of

ROOT = Path(__file__).parents[2]


def script(name):
    return importlib.import_module(f"gap_vla.cli.{name}")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model.save_pretrained(step=7, checkpoint_path=folder / "checkpoint")
    (folder / "config.json").write_text('{"task": "assembly", "method": "vp", "eval": {"execute": 2}}')
    return folder


def episode(seed, rho, steps=12):
    rng = np.random.default_rng(seed)
    return Episode(
        {"image_primary": rng.integers(0, 256, (steps, 32, 32, 3), dtype=np.uint8)},
        rng.standard_normal((steps, 9)).astype(np.float32),
        rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        "put the ring on the peg",
        rho=np.linspace(0, 1, steps, dtype=np.float32) if rho else None,
        change_point=np.arange(steps) == 5 if rho else None,
        metadata={"episode_id": seed, "file_path": "made up"},
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Called with the task it is said to be of, and whether it has ρ; returns a dataset's version folder."""

    def write(task, rho=True, val_fraction=0.5, first=0, **demos):
        root = tmp_path_factory.mktemp("rlds")
        identity = {"demos": {"task": task, **demos}}
        episodes = [episode(seed, rho) for seed in range(first, first + 4)]
        return write_rlds(episodes, root, "dots", val_fraction=val_fraction, annotator={}, identity=identity)

    return write


def test_what_lies_in_a_later_variants_folder_is_seen_before_the_first_is_rolled_out(tmp_path, capsys):
    claim_folder(tmp_path / "ev", "variants")
    (tmp_path / "ev" / "object_size").mkdir()
    (tmp_path / "ev" / "object_size" / "notes.txt").write_text("mine")
    said = ["--policy", "random", "--task", "assembly", "--cameras", "--episodes", "1", "--workers", "1"]
    assert script("evaluate").main([*said, "--variant", "all", "--out", str(tmp_path / "ev")]) == 2
    assert "object_size holds notes.txt, but no evaluation; choose another --out" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "ev").iterdir()} == {"made_by.json", "object_size"}


def test_one_variant_alone_is_not_evaluated_where_the_page_of_all_would_not_follow(tmp_path, capsys):
    out = claim_folder(tmp_path / "ev", "variants") / "light"
    said = ["--policy", "random", "--task", "assembly", "--variant", "light", "--out", str(out)]
    assert script("evaluate").main(said) == 2 and not out.exists()
    assert f"{out} is a part of {out.parent}, whose page and table would not follow" in capsys.readouterr().err


def test_rollouts_that_a_run_counts_as_its_own_are_not_gone_on_with(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    out = tmp_path / "run" / "rollouts" / "default"
    words = ("--policy", "random", "--task", "assembly", "--cameras", "--episodes", "1", "--out", str(out))
    assert script("evaluate").main([*words]) == 2
    said = f"error: {out} is where the run {tmp_path / 'run'} has its own rollouts; name another --out\n"
    assert capsys.readouterr().err == said and not out.exists()


def test_a_checkpoint_sees_all_its_cameras_or_is_refused(run, tmp_path, capsys):
    said = ["--checkpoint", str(run), "--episodes", "1", "--cameras", "wrist", "--out", str(tmp_path / "ev")]
    assert script("evaluate").main(said) == 2
    assert (
        f"{run} sees primary, and --cameras names wrist; name those that it sees, or leave that away"
        in capsys.readouterr().err
    )
    said[5:5] = ["primary"]
    assert script("evaluate").main(said) == 2
    assert f"--cameras wrist has no effect: {run} sees primary alone; leave it out" in capsys.readouterr().err


def test_a_checkpoint_tells_its_view_and_looks_through_another_only_if_told(run, tmp_path, capsys):
    assert load_checkpoint(run).view() == "near"
    old = tmp_path / "old"
    shutil.copytree(run, old)
    settings = {"task": "assembly", "method": "vp", "eval": {"execute": 2}, "demos": {"camera": "corner2"}}
    (old / "config.json").write_text(json.dumps(settings))
    loaded = load_checkpoint(old)
    assert loaded.view() == loaded.view("corner2") == "corner2" and loaded.view("near", other=True) == "near"
    with pytest.raises(PolicyError, match="--other-view has no effect: no other view"):
        loaded.view("corner2", other=True)
    assert script("evaluate").main(["--checkpoint", str(old), "--camera", "near", "--episodes", "1"]) == 2
    assert (
        "trained with --camera corner2; leave --camera away, or let `evaluate` show it near with --other-view"
        in capsys.readouterr().err
    )


def test_a_policy_is_shown_pictures_of_another_size_only_if_told(run, tmp_path, capsys):
    options = ["--checkpoint", str(run), "--image-size", "64", "--out", str(tmp_path / "out")]
    for name in ("evaluate", "diagnose"):
        assert script(name).main(options) == 2 and not (tmp_path / "out").exists()
        said = capsys.readouterr().err
        assert "trained with --image-size 32; leave --image-size away, or let `evaluate` show it 64 with" in said
    loaded = load_checkpoint(run)
    assert loaded.view(size=32) == loaded.view(size=64, other=True) == "near"


def test_held_out_error_is_printed_and_written_apart_for_transitions(run, dataset, tmp_path, capsys):
    options = ["--checkpoint", str(run), "--rlds", str(dataset("assembly")), "--out", str(tmp_path), "--quiet"]
    assert script("evaluate").main([*options, "--json"]) == 0
    said = capsys.readouterr()
    assert re.search(r"held-out action error [\d.]+ \(transition steps [\d.]+, consistent steps [\d.]+\)", said.err)
    found = json.loads((tmp_path / "held_out.json").read_text())
    assert found["episodes"] == 2 and found["steps"] == 24 and found["transition_steps"] == 12
    assert json.loads(said.out) == {key: value for key, value in found.items() if key in json.loads(said.out)} != {}
    assert script("evaluate").main([*options, "--split", "train"]) == 2  # the error of another measurement stays
    assert "held_out.json is of something else (split: 'val' then, 'train' now)" in capsys.readouterr().err
    assert script("evaluate").main([*options[:4], "--quiet", "--split", "train"]) == 0
    said = capsys.readouterr().out  # of a run whose store is not here
    assert re.match(r"action error [\d.]+ .*\nnote: .* whether these episodes are held out is not known\n", said)


def test_episodes_that_a_policy_was_trained_on_are_not_called_held_out(run, dataset, tmp_path, capsys, monkeypatch):
    own, other = dataset("assembly"), dataset("assembly", val_fraction=0.75)  # the same episodes, split otherwise
    store = EpisodeStore.build(own, tmp_path / "store")
    trained = {"store": str(store.directory), "hash": store.source_hash}
    (copy := tmp_path / "run").mkdir()
    shutil.copytree(run, copy, dirs_exist_ok=True)
    (copy / "summary.json").write_text(json.dumps({"task": "assembly", "method": "vp", "dataset": trained}))
    motions = {path: [motion_of(one.proprio, one.action) for one in read_rlds(path, "val")] for path in (own, other)}
    for place in (copy, copy / "checkpoint"):
        assert [count_learnt(place, some) for some in motions.values()] == [0, 2]
    assert count_learnt(run, motions[other]) is count_learnt("hf://somebody/something", motions[other]) is None
    measured = HeldOut(0.5, None, None, 36, 0, 3)
    shown = []
    monkeypatch.setattr("gap_vla.rollouts.heldout.held_out", lambda _, some, **__: shown.extend(some) or measured)
    assert script("evaluate").main(["--checkpoint", str(copy), "--rlds", str(other), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("action error 0.500") and len(shown) == 3
    assert "note: the policy was trained on 2 of these 3 episodes: they are not held out" in said
    measured = HeldOut(0.5, None, None, 24, 0, 2)
    in_training = ["--checkpoint", str(copy), "--rlds", str(own), "--split", "train", "--quiet"]
    assert script("evaluate").main(in_training) == 0
    assert (said := capsys.readouterr().out).startswith("action error in training 0.500") and "note" not in said
    elsewhere = dataset("assembly", first=7)  # of which none was learnt, whatever their split is called
    assert script("evaluate").main([*in_training[:3], str(elsewhere), *in_training[4:]]) == 0
    assert (said := capsys.readouterr().out).startswith("action error 0.500") and "note" not in said
    monkeypatch.setattr("gap_vla.rollouts.diagnose.open_loop", lambda *_, **__: 1 / 0)
    options = ["--checkpoint", str(copy), "--rlds", str(other), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(ZeroDivisionError):
        script("diagnose").main.__wrapped__(options)
    assert "note: the policy was trained on 2 of these 3 recordings, where its" in capsys.readouterr().out
    (tmp_path / "store" / "store.json").write_text("{}")  # of which evaluate says nothing
    assert count_learnt(copy, motions[other]) is None
    (copy / "summary.json").write_text('{"dataset": "somebody else\'s"}')
    assert count_learnt(copy, motions[other]) is None


def test_data_of_another_task_view_or_version_of_the_pictures_are_refused(run, dataset, capsys):
    of_task, of_view = "holds demonstrations of threading, not of assembly", "looks through 'near'"
    older = dataset("assembly", pictures_version=5), "has pictures_version 5, this gap_vla 1; collect it again"
    for other, said in ((dataset("threading"), of_task), (dataset("assembly", camera="corner2"), of_view), older):
        for name in ("evaluate", "diagnose"):
            options = ["--checkpoint", str(run), "--rlds", str(other), "--quiet"]
            assert script(name).main(options) == 2
            assert said in capsys.readouterr().err


def test_a_dataset_that_was_changed_since_it_was_written_is_refused(run, dataset, capsys, monkeypatch):
    changed = dataset("assembly")
    (shard,) = changed.glob("*-val.tfrecord*")
    with monkeypatch.context() as patched:
        patched.setattr("gap_vla.rollouts.heldout.held_out", lambda *_, **__: os.utime(shard))
        assert script("evaluate").main(["--checkpoint", str(run), "--rlds", str(changed), "--quiet"]) == 2
    assert f"{shard} changed while it was read; give the same command when" in capsys.readouterr().err
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    for name in ("evaluate", "diagnose"):
        assert script(name).main(["--checkpoint", str(run), "--rlds", str(changed), "--quiet"]) == 2
        assert (
            f"{shard} was changed since it was written; copy it again, or remove made_by.json if"
            in capsys.readouterr().err
        )


def test_transitions_of_annotated_demonstrations_are_where_rho_is_high(tmp_path, capsys, monkeypatch):
    demos = tmp_path / "demos.hdf5"
    with h5py.File(demos, "w") as file:
        for number in range(2):
            demo = file.create_group(f"data/demo_{number}")
            demo["actions"], demo["rho"] = np.zeros((9, 7)), np.linspace(0, 1, 9, dtype=np.float32)
            demo["change_point"] = np.zeros(9, bool)
            demo.create_dataset("phase", data=["a"] * 3 + ["b"] * 6, dtype=h5py.string_dtype())
            demo["obs/agentview_image"] = np.zeros((9, 8, 8, 3), np.uint8)
            for key, columns in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2)):
                demo[f"obs/robot0_{key}"] = np.full((9, columns), 0.5)
    asked = script("diagnose").parse(["--checkpoint", "x", "--demos", str(demos)])
    for recording in gap_vla.cli.diagnose._recordings(asked, None):
        assert recording.transition.nonzero()[0].tolist() == [5, 6, 7, 8]
    stamp(demos, "labelled_demos")
    gap_vla.cli.diagnose._recordings(asked, None)
    assert "was changed" not in capsys.readouterr().out
    with h5py.File(demos, "a") as file:
        file["data/demo_0/obs/robot0_eef_pos"][3] = 0.25
    gap_vla.cli.diagnose._recordings(asked, None)
    assert f"note: {demos} was changed after it was annotated; where its states were" in capsys.readouterr().out
    with monkeypatch.context() as patched, pytest.raises(UserError, match="hdf5 changed while it was read"):
        patched.setattr("gap_vla.rlds.annotating.changed.tell_changed", os.utime)
        gap_vla.cli.diagnose._recordings(asked, None)
    played = script("diagnose").parse(["--checkpoint", "x", "--demos", str(demos), "--closed-loop", "2"])
    with h5py.File(demos, "a") as file:
        file["data/demo_1"].attrs["seed"] = 100_001
        file["data/demo_0"].attrs["seed"] = float("nan")
    for words in (asked, played):  # of somebody's simulator
        gap_vla.cli.diagnose._recordings(words, None)
    with h5py.File(demos, "a") as file:
        file["data"].attrs["task"] = "threading"
    gap_vla.cli.diagnose._recordings(asked, None)
    with pytest.raises(UserError, match="episode demo_1 is of layout 100001, which rollouts are played on; give anoth"):
        gap_vla.cli.diagnose._recordings(played, None)
    with h5py.File(demos, "a") as file:
        del file["data/demo_1/rho"]
    with pytest.raises(UserError, match="episode demo_1: no rho, which other episodes have; annotate again"):
        gap_vla.cli.diagnose._recordings(asked, None)


def test_a_folder_of_another_diagnosis_is_named_before_anything_is_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gap_vla.cli.diagnose, "_recordings", lambda *_: pytest.fail("recording was begun"))
    claim_folder(tmp_path / "out", "diagnosis")
    (tmp_path / "out" / "none").mkdir()
    (tmp_path / "out" / "none" / "evaluation.json").write_text('{"seed": 100000}')
    words = ["--policy", "random", "--task", "assembly", "--closed-loop", "1", "--seed", "7"]
    assert script("diagnose").main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "none holds another evaluation (" in capsys.readouterr().err
    asked = script("diagnose").parse(words[:4])
    own = {"policy": identity(RandomPolicy(7)), "recordings": gap_vla.cli.diagnose._told(asked, sim_task("assembly"))}
    own |= {"episodes": 2, "closed_loop": []}
    for change, said in (
        ({"policy": {"name": "theirs"}}, " is of something else (policy.name: 'theirs' then, 'random' now"),
        ({"policy": ...}, " is of something else (policy.name: not given then, 'random' now"),
        ({"recordings": {"path": "/elsewhere"}}, " is of something else (recordings.path: '/elsewhere' then"),
        ({"episodes": 11}, " is of 11 recordings; give --episodes 11 or more, or another"),
        ({"episodes": ...}, ": episodes is missing"),
    ):
        content = {key: value for key, value in (own | change).items() if value is not ...}
        write_output(tmp_path / "out" / "diagnosis.json", "diagnosis", json.dumps(content))
        assert script("diagnose").main([*words[:4], "--out", str(tmp_path / "out")]) == 2
        assert f"diagnosis.json{said}" in capsys.readouterr().err
    entry = own | {"closed_loop": [{"intervention": "images_black", "episodes": 2}]}
    write_output(tmp_path / "out" / "diagnosis.json", "diagnosis", json.dumps(entry))
    for asked in ([], ["--closed-loop", "1"], ["--closed-loop", "2", "--interventions", "images_swapped"]):
        assert script("diagnose").main([*words[:4], *asked, "--out", str(tmp_path / "out")]) == 2
        said = "diagnosis.json has 2 rollouts of images_black; give --closed-loop 2 or more with images_black"
        assert said in capsys.readouterr().err


def test_a_diagnosis_is_not_replaced_by_one_of_a_file_with_fewer_recordings(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gap_vla.cli.diagnose, "_recordings", lambda *_: [None] * 3)
    words = ["--policy", "random", "--task", "assembly", "--out", str(tmp_path / "out")]
    asked = script("diagnose").parse(words)
    own = {"policy": identity(RandomPolicy(7)), "recordings": gap_vla.cli.diagnose._told(asked, sim_task("assembly"))}
    claim_folder(tmp_path / "out", "diagnosis")
    content = json.dumps(own | {"episodes": 5, "closed_loop": []})
    write_output(tmp_path / "out" / "diagnosis.json", "diagnosis", content)
    assert script("diagnose").main(words) == 2
    assert "diagnosis.json is of 5 recordings, and here are 3; give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "kept"), [([], "nothing was written"), (["--closed-loop", "1"], "finished rollouts")])
def test_an_interrupted_diagnosis_says_what_is_kept(more, kept, tmp_path, capsys, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gap_vla.cli.diagnose, "_diagnose", pressed)
    assert script("diagnose").main(["--policy", "random", "--out", str(tmp_path / "out"), *more]) == 130
    assert capsys.readouterr().err.startswith(f"interrupted; {kept}") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [("evaluate", ["--split", "nope"], "no split 'nope'"), ("diagnose", [], "swapping between episodes needs two")],
)
def test_what_was_refused_leaves_no_folder(name, more, said, run, dataset, tmp_path, capsys):
    one = dataset("assembly", val_fraction=0.25)
    options = ["--checkpoint", str(run), "--rlds", str(one), "--out", str(tmp_path / "out"), "--quiet", *more]
    assert script(name).main(options) == 2
    printed = capsys.readouterr()
    assert said in printed.err and ("note: --episodes is 10, 1 are there" in printed.out) == (name == "diagnose")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["evaluate", "diagnose", "check_dataset"])
def test_a_file_of_somebody_elses_among_the_results_is_found_before_any_work(name, tmp_path, capsys):
    kind, file = {
        "evaluate": ("held_out", "held_out.json"),
        "diagnose": ("diagnosis", "diagnosis.json"),
        "check_dataset": ("check", "check.html"),
    }[name]
    theirs = claim_folder(tmp_path / "out", kind) / file
    theirs.write_text("the only copy")
    options = ["not/there"] if name == "check_dataset" else ["--checkpoint", "not/there", "--rlds", "not/there"]
    assert script(name).main([*options, "--out", str(tmp_path / "out")]) == 2
    assert f"{theirs} exists without a mark of gap_vla" in capsys.readouterr().err
    assert theirs.read_text() == "the only copy"
    with alone_in(tmp_path / "out"):  # two at once, each of which would not see what the other measures
        assert script(name).main([*options, "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'out'} is in use by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.slow
def test_diagnosis_of_a_dataset_prints_a_table_and_writes_it(run, dataset, tmp_path, capsys):
    options = ["--checkpoint", str(run), "--rlds", str(dataset("assembly")), "--out", str(tmp_path), "--quiet"]
    assert script("diagnose").main(options) == 0
    printed = capsys.readouterr().out
    assert "images_swapped" in printed and "× error (95 %)" in printed and "objects_moved" not in printed
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert [effect["intervention"] for effect in found["open_loop"]["effects"]] == list(ALL_INTERVENTIONS[:-1])
    assert found["verdict"] in printed
    assert script("diagnose").main([*options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["open_loop"] == found["open_loop"]


@pytest.mark.parametrize("option", ["step", "dataset"])
def test_a_small_policy_has_one_step_and_one_dataset(option, tmp_path):
    (tmp_path / "policy.json").touch()
    with pytest.raises(PolicyError, match="leave --step and --dataset out"):
        load_checkpoint(tmp_path, **{option: 7})


def test_the_diagnosis_command_offers_every_intervention():
    assert gap_vla.cli.diagnose.INTERVENTIONS == ALL_INTERVENTIONS


def test_a_checkpoint_of_another_run_is_noticed(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "summary.json").write_text(json.dumps({"task": "stack"}))
    said = "summary.json says task stack, config.json assembly; copy the run again"
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(copy)
    (copy / "summary.json").unlink()
    (copy / "dataset.json").write_text('{"demos": {"task": "stack"}}')
    with pytest.raises(CheckpointError, match="demos says task stack, "):
        load_checkpoint(copy)


def test_what_a_served_policy_could_not_be_shown_is_said_before_anybody_connects(run, tmp_path, capsys):
    keys = tmp_path / "keys.json"
    keys.write_text('{"observation": {"proprio": "state"}}')
    words = ["--checkpoint", str(run), "--port", "0", "--whole-chunks", "--keys", str(keys)]
    assert script("serve_policy").main(words) == 2
    said = capsys.readouterr()
    assert "warning: this policy was trained on 2 steps in a row; clients that execute whole chunks" in said.out
    assert "keys.json: the policy needs image_primary too; name what clients call it" in said.err


def test_a_served_checkpoint_gives_the_actions_that_it_gives_in_process(run):
    command = [sys.executable, "scripts/serve_policy.py", "--checkpoint", str(run), "--port", "0"]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell starts its background jobs deaf
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    try:
        lines = [server.stdout.readline(), server.stdout.readline()]
        policy = RemotePolicy(re.search(r"ws://127\.0\.0\.1:\d+", lines[1])[0])
        metadata = policy.server_metadata
        assert metadata["task"] == "assembly" and metadata["cameras"] == ["primary"] and metadata["window_size"] == 2
        local = load_checkpoint(run, batch_size=1).policy
        for one in (policy, local):
            one.reset([0])
        for step in range(5):
            batch = observations(1, seed=step)
            np.testing.assert_array_equal(policy.act(batch, [0]), local.act(batch, [0]))
        while server.poll() is None:  # a client is connected, and somebody is impatient
            server.send_signal(signal.SIGINT)
            time.sleep(0.001)
        said = server.communicate(timeout=60)[1]
        assert server.returncode == 130 and "Traceback" not in said, said
        assert said.endswith("interrupted; the server has ended; it had written nothing\n")
        policy.close()
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("256.1.1.1", 0, "cannot listen on 256.1.1.1:0: "),
        ("127.0.0.1", None, "already in use; give --host an address of this machine, and --port a free one"),
        ("::1", None, "cannot listen on [::1]:"),
        ("::1", 0, "ws://[::1]:"),
    ],
)
def test_the_address_of_a_server_is_one_that_a_client_can_be_given_or_is_refused(
    run, host, port, message, capsys, monkeypatch
):
    monkeypatch.setattr("gap_vla.rollouts.chunk_policy.ChunkPolicy.warm_up", lambda self: None)
    monkeypatch.setattr("gap_vla.serving.server.Server.wait_closed", interrupted, raising=False)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        if port is None:
            taken.bind((host, 0))
            taken.listen()
            port = taken.getsockname()[1]
        script("serve_policy").main(["--checkpoint", str(run), "--host", host, "--port", str(port)])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = capsys.readouterr()
    assert message in said.out + said.err and "Traceback" not in said.err
    assert "ws://" in message or "; give --host" in said.err


@pytest.mark.parametrize("host", ["127.0.0.1", "255.255.255.255", "224.0.0.1", "no.such.host.invalid", "a" * 70])
def test_an_address_at_which_nothing_can_listen_is_refused_before_anything_is_loaded(host, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert script("serve_policy").main(["--checkpoint", "nowhere", "--host", host, "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot listen on {host}:{port}: ") and "; give --host an address" in said


def test_an_episode_of_a_dataset_is_called_by_its_place_in_it(dataset):
    version = dataset("assembly")
    assert [one.name for one in from_dataset(version, "val")] == [f"{version}, val[0]", f"{version}, val[1]"]


def test_a_port_that_may_not_be_listened_at_is_refused_with_what_to_do(capsys, monkeypatch):
    async def refused(*arguments):
        raise PermissionError(13, "error while attempting to bind on address ('127.0.0.1', 80): permission denied")

    monkeypatch.setattr("gap_vla.cli.serve_policy._require_free", refused)
    assert script("serve_policy").main(["--checkpoint", "nowhere", "--port", "80"]) == 2
    said = capsys.readouterr().err
    assert "cannot listen on 127.0.0.1:80: permission denied, as of ports below 1024; give --host" in said


def test_a_server_in_a_thread_or_a_notebook_is_a_line(capsys):
    serve = script("serve_policy").main
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        assert threads.submit(serve, ["--checkpoint", "nowhere"]).result() == 2
    assert "error: a server needs a process of its own" in capsys.readouterr().err

    async def cell():
        return serve(["--checkpoint", "nowhere"])

    assert asyncio.run(cell()) == 2
    assert "error: a server needs a process of its own" in capsys.readouterr().err


def test_a_star_is_no_address(capsys):
    """Some resolvers make this machine of it, and no client can be told it."""
    assert script("serve_policy").main(["--checkpoint", "nowhere", "--host", "*"]) == 2
    assert "error: --host is '*', which is no address; give one of this machine" in capsys.readouterr().err


def test_an_output_that_is_a_link_in_a_circle_is_a_line(tmp_path, capsys):
    (tmp_path / "out").symlink_to("out")
    assert script("evaluate").main(["--policy", "random", "--task", "assembly", "--out", str(tmp_path / "out")]) == 2
    assert "is a link that leads nowhere; remove it, or name" in capsys.readouterr().err


def test_a_system_without_sockets_of_the_network_is_a_line(capsys, monkeypatch):
    real = socket.socket

    def without_network(family=-1, *given, **named):
        if family in (socket.AF_INET, socket.AF_INET6):
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *given, **named)

    monkeypatch.setattr(socket, "socket", without_network)
    assert script("serve_policy").main(["--checkpoint", "nowhere", "--port", "0"]) == 2
    assert "error: cannot listen on 127.0.0.1:0: " in (said := capsys.readouterr().err) and "not supported" in said


async def interrupted(self):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere: no such directory"),
        (["--checkpoint", "nowhere", "--keys", "none.json"], "none.json: No such file or directory; check the path"),
        (["--checkpoint", "nowhere", "--keys", "keys.json"], "keys.json: a server takes observation alone"),
    ],
)
def test_mistakes_when_serving_are_explained(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.json").write_text('{"execute": 99}')
    assert script("serve_policy").main(arguments) == 2
    assert message in capsys.readouterr().err
