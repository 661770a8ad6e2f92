import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

BLANK = "data:image/svg+xml;base64,"


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the machine; small matrices do not need two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Executes:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def executes(tmp_path):
    """What the pickle machine would make a file of."""
    yield _Executes(tmp_path / "executed")
    assert not (tmp_path / "executed").exists()


@pytest.fixture(autouse=True, scope="module")
def blank_charts():
    """The pages of these runs lack their charts, which take longer than the training; tests/report has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gap_vla.report.sections.svg", lambda figure: BLANK)
        for chart in ("curve_chart", "branch_chart"):
            patch.setattr(f"gap_vla.report.charts.{chart}", lambda runs, *_: BLANK if runs[0].metrics else None)
        yield


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory, blank_charts):
    """A folder with the toy store and two finished runs of the toy configuration, `run` (seed 0) and `other` (1)."""
    from toy_store import place_store, toy_config

    from gap_vla.training.run import finetune

    root = tmp_path_factory.mktemp("finished")
    place_store(toy_config(root))
    for seed, name in enumerate(("run", "other")):
        finetune(toy_config(root, train=dict(seed=seed)), name)
    return root


@pytest.fixture
def finished(finished_runs, tmp_path):
    """A copy of `finished_runs` for one test, in `tmp_path`."""
    import shutil

    return shutil.copytree(finished_runs, tmp_path, dirs_exist_ok=True)
