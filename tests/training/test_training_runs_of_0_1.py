"""Claims about runs that version 0.1 made: their policies act as they did, and their trainings are not gone on with."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gap_vla.core.errors import USER_ERROR
from gap_vla.core.errors import UserError as PolicyError
from gap_vla.serving.loading import load_checkpoint

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "data" / "runs_made_by_0.1.0"
OCTO, TORCH = "threading/vp_gap-seed0-34de05ea", "assembly/small-gap-seed0-472a47c2"


@pytest.mark.parametrize("run", [OCTO, TORCH])
def test_their_policies_act_as_they_did(run, capsys):
    then = json.loads((RUNS / run / "actions.json").read_text())  # on the same pictures and states, by 0.1's own code
    loaded = load_checkpoint(RUNS / run, batch_size=1)
    note = "summary.json holds no digests: later edits of its run are not noticed\n"
    assert capsys.readouterr().err.endswith(note)
    size, rng = loaded.policy.image_size, np.random.default_rng(0)
    loaded.policy.reset([0])
    for expected in then:
        picture = rng.integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        seen = {"image_primary": picture, "proprio": rng.normal(size=(1, 9)).astype(np.float32)}
        np.testing.assert_allclose(loaded.policy.act(seen, [0])[0], expected, atol=1e-4)
    assert loaded.task == Path(run).parts[0] and loaded.cameras == ("primary",)
    with pytest.raises(PolicyError, match="trained with --camera near"):
        loaded.view("stock")


@pytest.mark.parametrize(
    ("run", "command", "config"), [(OCTO, "finetune", "threading"), (TORCH, "train_small", "small_assembly")]
)
def test_they_are_not_resumed_but_refused_in_a_line_and_reports_show_them(
    run, command, config, tmp_path, monkeypatch, capsys
):
    shutil.copytree(RUNS, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    main = importlib.import_module(f"gap_vla.cli.{command}").main
    file = f"{ROOT}/finetune_configs/{config}.py:debug"
    assert main(["--config", file, "--resume", "--run-name", Path(run).name]) == USER_ERROR
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "by an older version; start another run with --run-name NAME" in said
    assert sorted(tmp_path.rglob("*")) == before
    assert importlib.import_module("gap_vla.cli.report").main([f"runs/{run}", "--out", "page.html"]) == 0
    assert Path(run).name in (tmp_path / "page.html").read_text()
