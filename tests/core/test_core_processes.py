"""What a process of its own says when its work goes wrong."""

import pytest

from gap_vla.core.errors import UserError
from gap_vla.core.processes import CellProcess


def refused(error):
    raise error


@pytest.mark.parametrize(
    ("error", "shown"), [(UserError("no"), False), (OSError(28, "full"), False), (KeyError("x"), True)]
)
def test_a_cell_shows_a_traceback_for_a_bug_alone(error, shown, tmp_path):
    cell = CellProcess(refused, error, log=tmp_path / "log")
    cell.wait()
    assert cell.error.startswith(type(error).__name__) and ("Traceback" in (tmp_path / "log").read_text()) == shown
