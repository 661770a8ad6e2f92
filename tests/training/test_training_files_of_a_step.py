"""How many files one has to read from the command to the model: those that take part in a training step."""

import contextlib
import sys
from pathlib import Path

import pytest
from short_training import MODEL

import gap_vla
from gap_vla.core.run_directory import RunDirectory
from gap_vla.rlds import EpisodeStore
from gap_vla.training.loop import train
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.octo_trainer import OctoTrainer

HOUSE = Path(gap_vla.__file__).parent
MOST = 13  # one is core/foreign.py, with which the cutting of windows checks its sizes


class Counted:
    """The files of the package whose functions run, on this thread, between batch and batch of a training."""

    def __init__(self):
        self.ran: set[str] = set()

    def __call__(self, frame, event, argument):
        if event == "call":
            self.ran.add(frame.f_code.co_filename)

    def files(self) -> set[str]:
        paths = {Path(name) for name in self.ran if Path(name).is_relative_to(HOUSE)}
        return {str(path.relative_to(HOUSE)) for path in paths if not path.is_relative_to(HOUSE / "octo")}


@pytest.fixture(scope="module")
def counted(store, tmp_path_factory):
    """Of a training of three steps, of which the last is measured, by the step's number."""
    values = {"task": "threading", "model": MODEL, "eval": {"execute": 1}}
    values["train"] = {"steps": 3, "batch_size": 4, "log_every": 3, "validate_every": 3, "save_every": 3}
    config = FinetuneConfig.from_dict(values)
    counted, batch_of, step_of = (Counted(), Counted(), Counted()), OctoTrainer.batch, OctoTrainer.step

    def counting(function):
        def run(trainer, *arguments, **options):
            sys.setprofile(counted[arguments[0] if function is batch_of else arguments[1]])
            try:
                return function(trainer, *arguments, **options)
            finally:
                sys.setprofile(None)

        return run

    run = RunDirectory.claim(tmp_path_factory.mktemp("counted") / "run", {}, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OctoTrainer, "batch", counting(batch_of))
        patch.setattr(OctoTrainer, "step", counting(step_of))
        with contextlib.closing(config.trainer().on(config, EpisodeStore.open(store))) as trainer:
            train(trainer, config.train, run)
    return counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "most"), [(0, MOST), (1, MOST), (2, MOST + 1)], ids=["with-compilation", "compiled", "measured"]
)
def test_a_training_step_passes_through_few_files(step, most, counted):
    above = {
        "cli/finetune.py",
        "cli/configured.py",
        "training/run.py",
        "training/loop.py",
    }  # from the command to the loop
    files = counted[step].files() | above
    assert {"training/octo_trainer.py", "training/step.py"} <= files and len(files) <= most, " ".join(sorted(files))
