"""The ordinary mistakes: each is one line with the offending word, and exit status 2."""

import pytest

from gap_vla.cli import main

FINETUNE = ["finetune", "--config", "finetune_configs/threading.py:debug"]
SMALL = ["train-small", "--config", "finetune_configs/small_assembly.py:debug"]

MISTAKES = [
    (["fintune"], "finetune"),
    (["finetune"], "--config"),
    (["finetune", "finetune_configs/threading.py"], "--config finetune_configs/threading.py"),
    (["finetune", "--config", "finetune_configs/threding.py"], "finetune_configs/threading.py"),
    (["finetune", "--config", "finetune_configs/threading.py:debugg"], "debugg"),
    ([*FINETUNE, "--config.train.stps=3"], "train.steps"),
    ([*FINETUNE, "--config.method=vp_gapp"], "vp_gapp"),
    ([*FINETUNE, "--config.task=threadin"], "threading"),
    ([*FINETUNE, "--config.phases.options.sigmaa=3"], "sigmaa"),
    ([*FINETUNE, "--config.demos.path=nowhere.hdf5", "--dry-run"], "nowhere.hdf5"),
    ([*FINETUNE, "--config.data.rlds=nowhere", "--dry-run"], "nowhere"),
    ([*FINETUNE, "--config.model.pretrained=nowhere", "--dry-run"], "nowhere"),
    ([*FINETUNE, "--config.data.fields.layout=bridgee", "--dry-run"], "bridge"),
    ([*FINETUNE, "--resume", "--dry-run"], "--dry-run"),
    ([*SMALL, "--config.train.device=cuda", "--dry-run"], "train.device"),
    (["compare", "--config", "finetune_configs/threading.py:debug", "--seeds=a"], "--seeds"),
    (["compare", "--config", "finetune_configs/threading.py:debug", "--methods=vp,mask"], "mask"),
    (["compare", "--config", "finetune_configs/threading.py:debug", "--config.eval.episodes=0"], "eval.episodes"),
    (["collect-demos", "--task", "stack"], "--out"),
    (["collect-demos", "--task", "stack", "--out", "x.hdf5", "--episodes", "0"], "--episodes"),
    (["annotate", "nowhere.hdf5", "--out", "x.hdf5"], "nowhere.hdf5"),
    (["build-dataset", "README.md", "--name", "x"], "README.md"),
    (["check-dataset", "nowhere"], "nowhere"),
    (["show-episode", "nowhere.hdf5"], "nowhere.hdf5"),
    (["evaluate"], "--checkpoint"),
    (["evaluate", "--checkpoint", "nowhere"], "nowhere"),
    (["evaluate", "--policy", "random"], "--task"),
    (["evaluate", "--policy", "export", "--task", "stack"], "export"),
    (["evaluate", "--policy", "expert", "--task", "stack", "--variant", "fog"], "fog"),
    (["evaluate", "--policy", "ws://127.0.0.1:9", "--task", "stack", "--patience", "0"], "ws://127.0.0.1:9"),
    (["diagnose", "--checkpoint", "nowhere"], "nowhere"),
    (["serve-policy", "--checkpoint", "nowhere"], "nowhere"),
    (["report", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("words", "word"), MISTAKES, ids=[" ".join(words)[:70] for words, _ in MISTAKES])
def test_a_mistake_is_one_line_with_the_word(words, word, capsys, tmp_path, monkeypatch):
    if words[0] in ("finetune", "train-small", "compare") and "--config" in words:
        words = [*words, f"--config.runs={tmp_path}/runs", f"--config.data.root={tmp_path}/data"]
    try:
        status = main(words)
    except SystemExit as ended:  # argparse's
        status = ended.code
    said = capsys.readouterr().err.strip()
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 0 and word in said, said
    assert not [*tmp_path.iterdir()]
