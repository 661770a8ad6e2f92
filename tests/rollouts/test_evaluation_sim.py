"""Claims about the evaluation on the real simulator, as the command runs it."""

import contextlib
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gap_vla import sim
from gap_vla.cli import evaluate
from gap_vla.rollouts.task import sim_task
from gap_vla.sim.disturbance import MOVE_AT_STEP, MOVE_BY
from gap_vla.sim.watching import PhaseWatcher

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def assembly():
    env = sim.make("assembly", cameras=())
    yield env
    env.close()


def test_the_watcher_follows_the_expert_to_the_last_phase(assembly):
    assembly.reset(seed=100_000)
    expert, watcher, seen, over = sim.make_expert(assembly, seed=3), PhaseWatcher(assembly.world), [], False
    while not over:
        seen.append(watcher.look())
        *_, terminated, truncated, info = assembly.step(expert.act())
        over = terminated or truncated or info["success"]
    assert list(dict.fromkeys(seen)) == list(sim.task_spec("assembly").phases)


def test_the_watcher_does_not_move_on_with_time_alone(assembly):
    assembly.reset(seed=100_000)
    watcher, still = PhaseWatcher(assembly.world), [0.0] * 6 + [-1.0]
    for _ in range(150):
        phase = watcher.look()
        assembly.step(still)
    assert phase == "reach"


def test_objects_are_moved_once_and_the_robot_is_not():
    task = dataclasses.replace(sim_task("assembly", cameras=()), disturbance="objects_moved")
    moved, still = task.make(), dataclasses.replace(task, disturbance=None).make()
    action = np.zeros(7, np.float32)
    shift = []
    for env in (moved, still):
        env.reset(seed=100_000)
    for _ in range(MOVE_AT_STEP + 3):
        hand = [env.step(action)[0]["proprio"][:3] for env in (moved, still)]
        rings = [env.unwrapped.world.landmarks()["ring"][:2] for env in (moved, still)]
        shift.append(np.linalg.norm(rings[0] - rings[1]))
    moved.close(), still.close()
    assert max(shift[:MOVE_AT_STEP]) < 1e-9
    np.testing.assert_allclose(shift[MOVE_AT_STEP:], MOVE_BY, atol=0.003)
    np.testing.assert_allclose(hand[0], hand[1], atol=1e-4)
    assert task.identity()["disturbance"] == "objects_moved"


def test_the_command_evaluates_the_expert_and_writes_everything(tmp_path, processes, capsys):
    arguments = ["--policy", "expert", "--task", "assembly", "--episodes", "1", "--workers", "1", "--slots", "1"]
    assert evaluate.main([*arguments, "--videos", "1", "--quiet", "--out", str(tmp_path / "out")]) == 0
    assert "expert on assembly: 1 of 1 succeeded" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["layout_seeds"] == [100_000]
    assert all(summary["seconds_per_step"][part] > 0 for part in ("simulation", "rendering"))
    assert summary["phases"]["reached"]["insert"] == 1.0
    for name in ("index.html", "episodes.jsonl", *summary["videos"]):
        assert (tmp_path / "out" / name).stat().st_size > 0
    (tmp_path / "out" / summary["videos"][0]).unlink()
    assert evaluate.main([*arguments, "--videos", "1", "--quiet", "--out", str(tmp_path / "out")]) == 0
    assert "note: 0 of 1 films: episodes that were played before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere: no such directory"),
        (["--policy", "export", "--task", "stack"], "unknown policy 'export'"),
        (["--policy", "replay:", "--task", "stack"], "unknown policy 'replay:'"),
        (["--policy", "expert"], "needs --task"),
        (["--policy", "expert", "--task", "stack", "--variant", "fog"], "variant 'fog' is unknown"),
        (["--policy", "ws://127.0.0.1:9", "--task", "stack", "--patience", "0"], "no policy server"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(arguments, message, capsys):
    with contextlib.suppress(SystemExit):  # argparse's
        assert evaluate.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("script", ["evaluate", "serve_policy", "diagnose"])
def test_help_is_complete_and_light(script):
    words = [sys.executable, "-X", "importtime", f"scripts/{script}.py", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0 and f"    gap-vla {script.replace('_', '-')} --" in done.stdout
    for heavy in ("jax", "mujoco", "tensorflow", "torch"):
        assert f" {heavy}\n" not in done.stderr
