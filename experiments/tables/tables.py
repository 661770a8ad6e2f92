"""Which cells each table is made of, and the paper's success rates, to stand beside ours and never instead of them.

The rates are from "When Would Vision-Proprioception Policies Fail in Robotic Manipulation?" (GAP, ICLR 2026, arXiv
2602.12032). Each entry says which of its tables it is from and how it was measured; tasks and methods go by this
project's names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gap_vla.core.typed_config import ConfigError, choose
from gap_vla.policies.registry import method_name
from gap_vla.sim import TASK_NAMES, task_spec, variant_spec

PROFILES = ("cpu", "paper", "debug")
SEEDS = (0, 1, 2)
IN, OUT = "default", "positions_wide"
"""Layouts as those of the demonstrations, and initial ranges stretched about their centre: unless a block says
otherwise, a small policy is rolled out on both.
"""

HISTORIES = (1, 5)
"""Steps of proprioception that policies of the map see."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of a table.

    Attributes:
        name: of the line, and part of the ledger's file names.
        method: the training method.
        changes: dotted configuration keys to values, on top of the regime's.
    """

    name: str
    method: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def arms(*methods: str) -> tuple[Arm, ...]:
    """Methods as they are."""
    return tuple(Arm(method, method) for method in methods)


@dataclasses.dataclass(frozen=True)
class Block:
    """One task under one regime.

    Attributes:
        regime: short name; empty: the profile's own settings.
        description: the regime in words, for the heading.
        reference: the arm that the others are compared with.
        against: further paired differences, (first, second).
        paper: key of `PAPER_TABLES` for the rollouts in and out of distribution.
    """

    task: str
    arms: tuple[Arm, ...]
    regime: str = ""
    description: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reference: str = "concat"
    against: tuple[tuple[str, str], ...] = ()
    paper: tuple[str, str] = ("main", "ood")

    @property
    def name(self) -> str:
        return f"{self.task}-{self.regime}" if self.regime else self.task


@dataclasses.dataclass(frozen=True)
class Table:
    """A named set of blocks; `kind` says which training runs its cells (`experiments.tables.cells`).

    Attributes:
        shape: how results are shown: `sections` (each block with its picture), `lines` (a line of one table each),
            `map` (VP − V of all blocks, `experiments.tables.proprio_map`) or `confirmation` (sections after what the
            protocol's rules allow to say, `experiments.tables.confirmation`).
        own_demos: whether each seed trains on demonstrations that were collected for it.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    kind: str = "small"
    seeds: tuple[int, ...] = SEEDS
    shape: str = "sections"
    own_demos: bool = False


_PAPER_TASKS = (
    "assembly",
    "threading",
    "disassemble",
    "pick_place",
    "push_wall",
    "bin_picking",
    "hammer_drawer",
    "stack",
)
_GAP_PAIRS = (("gap", "vision"),)
_CONTROLS = (("gap", "vision"), ("gap", "lambda_only"), ("gap", "rho_only"))
_FEW_CLEAN = {"demos.episodes": 40, "demos.action_noise": 0.0, "model.proprio_history": 5}
_MANY_DISTURBED = {"demos.episodes": 100, "demos.action_noise": 0.15}
_VIEWS = ("near", "stock")
_CLEAN: dict[str, Any] = {"demos.episodes": 60, "demos.action_noise": 0.0, "demos.image_size": 80, "train.steps": 2500}
_CLEAN |= {"model.image_history": 1, "model.temporal": "none"}
_MANY_DISTURBED |= {"model.proprio_history": 1, "model.image_history": 1}


def _on_assembly(name: str, title: str, lines: tuple[Arm, ...], **options: Any) -> Table:
    return Table(name, title, (Block("assembly", lines, **options),))


def _seen_through(task: str, view: str, first_layout: int) -> dict[str, Any]:
    """The regime of docs/PROTOCOL.md, with pictures of one view and rollouts on layouts from the first one on."""
    stock = {"metaworld": "corner2", "robosuite": "agentview"}[task_spec(task).family]
    layouts = {"eval.seed": first_layout - variant_spec(IN).first_seed, "eval.variants": (IN,)}
    return {**_CLEAN, **layouts, "demos.camera": stock if view == "stock" else "near"}


def _both(key: str, *values: str) -> tuple[Arm, ...]:
    """Concat and GAP for each value of one model key."""
    return tuple(Arm(f"{value}-{m}", m, {key: value}) for value in values for m in ("concat", "gap"))


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "evidence",
            "Is it ρ, and when does it help?",
            (
                Block(
                    "assembly",
                    arms("vision", "concat", "gap", "gap_gaussian", "lambda_only", "rho_only"),
                    regime="few_clean",
                    description="40 clean demonstrations, five steps of proprioceptive history",
                    changes=_FEW_CLEAN,
                    against=(*_CONTROLS, *(("gap_gaussian", other) for other in ("vision", "gap", "lambda_only"))),
                ),
                Block("threading", arms("vision", "concat", "gap"), against=_GAP_PAIRS),
            ),
        ),
        Table(
            "disturbed",
            "A second regime: many disturbed demonstrations, a single step of proprioception",
            (
                Block(
                    "assembly",
                    arms("vision", "concat", "gap"),
                    regime="many_disturbed",
                    description="100 disturbed demonstrations (σ = 0.15), no proprioceptive history",
                    changes=_MANY_DISTURBED,
                    against=_GAP_PAIRS,
                ),
            ),
        ),
        Table(
            "map",
            "Where does proprioception hurt?",
            tuple(
                Block(
                    task,
                    (
                        *arms("vision"),
                        *(Arm(f"concat_{n}", "concat", {"model.proprio_history": n}) for n in HISTORIES),
                    ),
                    regime=view,
                    description=f"{view} view",
                    changes=_seen_through(task, view, 500_000),
                    reference="vision",
                )
                for task in TASK_NAMES
                for view in _VIEWS
            ),
            seeds=(0,),
            shape="map",
        ),
        Table(
            "confirmation",
            "Does GAP repair what proprioception harms?",
            (
                Block(
                    "assembly",
                    arms("vision", "concat", "gap", "gap_gaussian", "lambda_matched", "gap_shuffled", "rho_only"),
                    regime="stock",
                    description="stock view, five steps of proprioceptive history",
                    changes={
                        **_seen_through("assembly", "stock", 600_000),
                        "eval.variants": (IN, OUT),
                        "model.proprio_history": 5,
                    },
                    against=(*_GAP_PAIRS, ("gap", "lambda_matched"), ("gap", "gap_shuffled"), ("gap", "rho_only")),
                ),
            ),
            seeds=(10, 11, 12, 13, 14),
            shape="confirmation",
            own_demos=True,
        ),
        Table(
            "main",
            "The paper's main table: small policies on eight tasks",
            tuple(
                Block(task, arms("vision", "concat", "msbot", "aux", "mask", "gap"), against=_GAP_PAIRS)
                for task in _PAPER_TASKS
            ),
        ),
        Table(
            "octo",
            "Fine-tuning Octo",
            tuple(
                Block(
                    task,
                    arms("v", "vp", "vp_gap"),
                    description="Octo",
                    reference="vp",
                    against=(("vp_gap", "v"),),
                    paper=("octo", ""),
                )
                for task in ("assembly", "threading", "disassemble", "push_wall", "hammer_drawer")
            ),
            kind="octo",
        ),
        Table(
            "tasks",
            "An Octo for every task",
            tuple(
                Block(task, arms("vp_gap"), changes={"eval.episodes": 50}, reference="vp_gap") for task in TASK_NAMES
            ),
            kind="octo",
            seeds=(0,),
            shape="lines",
        ),
        Table(
            "ood",
            "Out of distribution",
            tuple(
                Block(task, arms("vision", "concat", "gap"), against=_GAP_PAIRS)
                for task in ("assembly", "threading", "bin_picking", "stack")
            ),
        ),
        _on_assembly(
            "ablation",
            "λ, the window of training, and other ways to ρ",
            (
                *arms("concat", "gap"),
                *(Arm(f"lambda_{lam}", "gap", {"adjustment.lam": lam}) for lam in (0.1, 0.2, 0.4, 0.5)),
                *(Arm(f"window_{part}", "gap", {"adjustment.window": part}) for part in (0.25, 0.75, 1.0)),
                *arms("lambda_only", "rho_only", "fixed_rho"),
                *arms("gap_gaussian", "gap_change_points", "gap_hdbscan", "gap_cotpc"),
            ),
            against=(("gap", "lambda_only"), ("gap", "fixed_rho")),
        ),
        _on_assembly(
            "fusion",
            "GAP under other fusions",
            _both("model.fusion", "concat", "sum", "film", "attention"),
            reference="concat-concat",
            against=tuple((f"{f}-gap", f"{f}-concat") for f in ("sum", "film", "attention")),
        ),
        _on_assembly(
            "head",
            "GAP under other heads",
            _both("model.head", "mlp", "diffusion", "gmm"),
            reference="mlp-concat",
            against=tuple((f"{h}-gap", f"{h}-concat") for h in ("diffusion", "gmm")),
        ),
        _on_assembly(
            "rivals",
            "GAP and other ways to balance modalities",
            arms("concat", "gap", "gradnorm", "ogm_ge", "dropout_noise", "keyframe", "msbot", "aux", "mask", "proprio"),
            against=tuple(
                ("gap", m) for m in ("gradnorm", "ogm_ge", "dropout_noise", "keyframe", "msbot", "aux", "mask")
            ),
        ),
    )
}


def find_table(name: str) -> Table:
    """The table of that name.

    Raises:
        ConfigError: lists the names that exist.
    """
    return TABLES[choose(name, tuple(TABLES), "table")]


def narrowed(table: Table, tasks: tuple[str, ...] = (), methods: tuple[str, ...] = ()) -> Table:
    """The table with these tasks and arms only; empty: all.

    Raises:
        ConfigError: a task or arm that the table does not have.
    """
    known_tasks = tuple(dict.fromkeys(block.task for block in table.blocks))
    known_arms = tuple(dict.fromkeys(arm.name for block in table.blocks for arm in block.arms))
    for task in tasks:
        choose(task, known_tasks, f"task of table {table.name}")
    methods = tuple(method_name(method, known_arms, f"method of table {table.name}") for method in methods)
    blocks = []
    for block in table.blocks:
        chosen = tuple(arm for arm in block.arms if not methods or arm.name in methods)
        if chosen and (not tasks or block.task in tasks):
            blocks.append(dataclasses.replace(block, arms=chosen))
    if not blocks:
        raise ConfigError(f"table {table.name} has none of {', '.join(methods)} on {', '.join(tasks)}")
    return dataclasses.replace(table, blocks=tuple(blocks))


PAPER = "GAP, ICLR 2026, arXiv 2602.12032"


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        table: which of the paper's tables it is.
        measured: how, as far as the paper says.
        success: task to method to success, in %.
    """

    table: str
    measured: str
    success: Mapping[str, Mapping[str, float]]


def _columns(tasks: tuple[str, ...], rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {task: {method: row[place] for method, row in rows.items()} for place, task in enumerate(tasks)}


PAPER_TABLES: dict[str, PaperTable] = {
    "main": PaperTable(
        "main results in simulation",
        "ResNet policies, 100 (Meta-World) or 500 (RoboSuite) demonstrations, 5 seeds × 100 rollouts",
        _columns(
            (
                "pick_place",
                "assembly",
                "disassemble",
                "push_wall",
                "bin_picking",
                "hammer_drawer",
                "stack",
                "threading",
            ),
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
            ("disassemble", "push_wall", "hammer_drawer", "threading"),
            {"v": (95, 77, 92, 69), "vp": (82, 65, 88, 57), "vp_gap": (100, 85, 97, 78)},
        ),
    ),
    "ood": PaperTable(
        "generalisation out of distribution",
        "the policies of the main table; what is moved how far is not stated where we could read it",
        _columns(
            ("assembly", "bin_picking", "stack", "threading"),
            {"vision": (78, 59, 63, 32), "concat": (62, 32, 49, 28), "gap": (88, 67, 72, 49)},
        ),
    ),
}


def paper_success(table: str, task: str, method: str) -> float | None:
    """The paper's figure in %, or None where it gives none."""
    return PAPER_TABLES[table].success.get(task, {}).get(method) if table in PAPER_TABLES else None
