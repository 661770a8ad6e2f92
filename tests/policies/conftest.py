import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the machine; small matrices do not need two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def blank_charts():
    """The pages of these runs lack their charts, which take longer than the training; tests/report has them."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("charts", "sections"):
            patch.setattr(f"gap_vla.report.{place}.svg", lambda figure: "data:image/svg+xml;base64,")
        yield
