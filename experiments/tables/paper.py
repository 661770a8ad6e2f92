"""The paper's success rates, to stand beside ours and never instead of them; tasks and methods go by this project's
names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

PAPER = "GAP, ICLR 2026, arXiv 2602.12032"


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One table of the paper: which it is, how it was measured as far as the paper says, and task to method to success
    in %.
    """

    table: str
    measured: str
    success: Mapping[str, Mapping[str, float]]


def _columns(tasks: str, rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {task: {method: row[place] for method, row in rows.items()} for place, task in enumerate(tasks.split())}


PAPER_TABLES: dict[str, PaperTable] = {
    "main": PaperTable(
        "main results in simulation",
        "ResNet policies, 100 (Meta-World) or 500 (RoboSuite) demonstrations, 5 seeds × 100 rollouts",
        _columns(
            "pick_place assembly disassemble push_wall bin_picking hammer_drawer stack threading",
            {
                "vision": (91.8, 82.6, 84.4, 63.2, 63.2, 85.8, 65.8, 43.6),
                "concat": (78.4, 74.6, 79.6, 54.4, 48.8, 78.6, 54.6, 33.2),
                "msbot": (90.8, 91.0, 87.8, 66.2, 69.4, 87.6, 69.4, 51.2),
                "aux": (88.2, 90.4, 77.8, 51.0, 54.4, 71.2, 54.0, 45.4),
                "mask": (86.4, 89.2, 83.8, 79.2, 60.4, 78.6, 61.8, 47.2),
                "gap": (94.2, 94.2, 91.4, 73.6, 70.4, 91.0, 77.6, 53.0),
            },
        ),
    ),
    "octo": PaperTable(
        "fine-tuning of Octo",
        "octo-small-1.5 pretrained, 100 rollouts",
        _columns(
            "disassemble push_wall hammer_drawer threading",
            {"v": (95, 77, 92, 69), "vp": (82, 65, 88, 57), "vp_gap": (100, 85, 97, 78)},
        ),
    ),
    "ood": PaperTable(
        "generalisation out of distribution",
        "the policies of the main table; what is moved how far is not stated where we could read it",
        _columns(
            "assembly bin_picking stack threading",
            {"vision": (78, 59, 63, 32), "concat": (62, 32, 49, 28), "gap": (88, 67, 72, 49)},
        ),
    ),
}


def paper_success(table: str, task: str, method: str) -> float | None:
    """The paper's figure in %, or None where it gives none."""
    return PAPER_TABLES[table].success.get(task, {}).get(method) if table in PAPER_TABLES else None
