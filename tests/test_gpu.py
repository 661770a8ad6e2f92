"""make gpu: parts that can be resumed, on a machine that says it has a GPU; the parts here are small programs."""

import json

import pytest

from benchmarks import gpu
from gap_vla.core.errors import UserError

SAVES = (
    "import signal, sys, time, pathlib; p = pathlib.Path(sys.argv[1]); n = int(p.read_text()) if p.exists() else 0\n"
)
SAVES += "signal.signal(signal.SIGINT, lambda *_: (p.write_text(str(n + 1)), sys.exit(130)))\n"
SAVES += "print('begins at', n, flush=True)\nif n < 2: time.sleep(60)"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Some GPU, 1 MiB, 1.0'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    parts = {"draws": ("-c", "print('drawn')"), "breaks": ("-c", "import nope")}
    parts |= {"hangs": ("-c", "import time; time.sleep(60)"), "trains": ("-c", SAVES, str(tmp_path / "state"))}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "GOES_ON", ("trains",))
    monkeypatch.setattr(gpu, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def test_a_machine_without_a_gpu_gets_a_sentence(kept, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpu.main([]) == 2
    assert "no NVIDIA GPU on this machine (nvidia-smi is not there)" in capsys.readouterr().err
    assert not kept.exists()


def test_a_finished_part_is_kept_and_not_run_again(kept, capsys):
    assert gpu.run_part("draws", 30, ["a GPU"], kept) and gpu.finished("draws", ["a GPU"], kept)
    report = json.loads((kept / "draws.json").read_text())
    assert report["output"] == ["drawn"] and report["device"] == ["a GPU"] and report["command"].startswith("python -c")


def test_what_fails_is_said_at_the_end_and_does_not_stop_the_others(kept, monkeypatch, capsys):
    parts = {name: gpu.PARTS[name] for name in ("breaks", "draws")}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert "breaks ended with status 1" in said.err and "drawn" in said.out
    assert [path.name for path in kept.iterdir()] == ["draws.json"]
    monkeypatch.setattr(gpu, "PARTS", {"draws": parts["draws"]})
    assert gpu.main([]) == 0 and capsys.readouterr().out.splitlines()[1:] == ["already measured on it: draws"]
    tool = kept.parent / "bin" / "nvidia-smi"
    tool.write_text(tool.read_text().replace("Some", "Another"))
    assert gpu.main([]) == 0 and "drawn" in capsys.readouterr().out


def test_a_part_that_is_stopped_goes_on_until_it_is_finished(kept, capsys):
    assert gpu.main(["--part", "trains", "--limit", "0.02"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("begins")] == [f"begins at {n}" for n in range(3)]
    report = json.loads((kept / "trains.json").read_text())
    assert report["finished"] and report["output"] == [f"begins at {n}" for n in range(3)]
    assert report["seconds"] > 1.5 * 0.02 * 60  # of two calls that were stopped, and of the last


def test_a_part_that_cannot_go_on_and_takes_too_long_has_failed(kept, capsys):
    assert gpu.main(["--part", "hangs", "--limit", "0.02"]) == 2
    assert "hangs: not finished after 0.02 minutes" in capsys.readouterr().err


def test_a_call_that_is_over_says_what_is_left(kept, capsys):
    assert gpu.main(["--minutes", "0.5", "--part", "draws", "--part", "trains"]) == 0
    assert "left for the next call: draws, trains" in capsys.readouterr().out


def test_nvidias_own_words_are_shown(kept, tmp_path):
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    with pytest.raises(UserError, match="No devices were found"):
        gpu.gpus()
