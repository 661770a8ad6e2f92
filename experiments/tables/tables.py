"""Which cells each table is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gap_vla.core.config import choose
from gap_vla.sim import TASK_NAMES, task_spec, variant_spec

PROFILES = ("cpu", "paper", "debug")
SEEDS = (0, 1, 2)
FRESH_SEEDS = (10, 11, 12, 13, 14)
IN, OUT = "default", "positions_wide"
"""Layouts as those of the demonstrations, and initial ranges stretched about their centre: unless a block says
otherwise, a small policy is rolled out on both.
"""

HISTORIES = (1, 5)
"""Steps of proprioception that policies of the map see."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of a table: its name, which is part of the ledger's file names, its training method, and dotted
    configuration keys to values on top of the block's.
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
        regime: short name; empty: the profile's own settings. `description` says it in words, for the heading.
        reference: the arm that the others are compared with; `against`: further paired differences, (first, second).
        paper: keys of `experiments.tables.paper.PAPER_TABLES` for the rollouts in and out of distribution.
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
            `map` (VP − V of all blocks, `experiments.tables.proprio_map`), `confirmation` (sections after what the
            protocol's rules allow to say, `experiments.tables.confirmation`), `spread` (sections, and what goes with
            success over seeds, `experiments.tables.seeds`) or `places` (sections, and the mean over the blocks).
        own_demos: whether each seed trains on demonstrations that were collected for it.
        one_machine: whether cells of one seed count together only if they ran on one machine at one commit.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    kind: str = "small"
    seeds: tuple[int, ...] = SEEDS
    shape: str = "sections"
    own_demos: bool = False
    one_machine: bool = False


_EIGHT = ("assembly", "threading", "disassemble", "pick_place", "push_wall", "bin_picking", "hammer_drawer", "stack")
"""The paper's tasks."""

_GAP_PAIRS = (("gap", "vision"),)
_CONTROLS = (("gap", "vision"), ("gap", "lambda_only"), ("gap", "rho_only"))
_FEW_CLEAN = {"demos.episodes": 40, "demos.action_noise": 0.0, "model.proprio_history": 5}
_MANY_DISTURBED: dict[str, Any] = {"demos.episodes": 100, "demos.action_noise": 0.15}
_MANY_DISTURBED |= {"model.proprio_history": 1, "model.image_history": 1}
_VIEWS = ("near", "stock")
_CLEAN: dict[str, Any] = {"demos.episodes": 60, "demos.action_noise": 0.0, "demos.image_size": 80, "train.steps": 2500}
_CLEAN |= {"model.image_history": 1, "model.temporal": "none", "eval.variants": (IN,)}
_MAPPED = (*arms("vision"), *(Arm(f"concat_{n}", "concat", {"model.proprio_history": n}) for n in HISTORIES))
_OCTOS = arms("v", "vp", "vp_gap")
_OCTO: dict[str, Any] = {"reference": "vp", "against": (("vp_gap", "v"),), "paper": ("octo", "")}


def _blocks(tasks: Sequence[str], lines: tuple[Arm, ...], **options: Any) -> tuple[Block, ...]:
    """The same lines on each of the tasks."""
    return tuple(Block(task, lines, **options) for task in tasks)


def _on_assembly(
    name: str, title: str, lines: tuple[Arm, ...], table: Mapping[str, Any] | None = None, **options: Any
) -> Table:
    """One block, on assembly, with these lines and `options`; `table` are further fields of the table."""
    return Table(name, title, _blocks(("assembly",), lines, **options), **(table or {}))


def _seen_through(task: str, view: str, first_layout: int) -> dict[str, Any]:
    """Pictures of one view, and rollouts of a small policy on layouts from the first one on (docs/PROTOCOL.md)."""
    stock = {"metaworld": "corner2", "robosuite": "agentview"}[task_spec(task).family]
    seed = first_layout - variant_spec(IN).first_seed
    return {"eval.seed": seed, "demos.camera": stock if view == "stock" else "near"}


_STOCK = {**_CLEAN, **_seen_through("assembly", "stock", 600_000), "model.proprio_history": 5}
_CONFIRMED_ARMS = arms("vision", "concat", "gap", "gap_gaussian", "lambda_matched", "gap_shuffled", "rho_only")
_CONFIRMED_PAIRS = (*_GAP_PAIRS, ("gap", "lambda_matched"), ("gap", "gap_shuffled"), ("gap", "rho_only"))
_ON_STOCK = {"regime": "stock", "description": "stock view, five steps of proprioceptive history"}
_CONFIRMED: dict[str, Any] = {**_ON_STOCK, "changes": {**_STOCK, "eval.variants": (IN, OUT)}}
"""Assembly as the confirmation sees it."""

_CHOICES = (
    *arms("concat"),
    *(Arm(f"constant_{lam}", "lambda_only", {"adjustment.lam": lam}) for lam in (0.3, 0.17, 0.05)),
    Arm("wide", "gap_gaussian"),
    Arm("wide_moved", "gap_gaussian_moved"),
    Arm("chunk", "gap", {"adjustment.rho": "chunk"}),
)
"""Forms of GAP, constants and a control, of which docs/PROTOCOL_2.md chooses one."""

_HARM = (*arms("concat"), Arm("constant_0.05", "lambda_only", {"adjustment.lam": 0.05}))
_AGAIN = (
    *arms("vision"),
    *_HARM,
    Arm("wide", "gap_gaussian"),
    Arm("matched", "lambda_only", {"adjustment.lam": 0.41}),
    Arm("wide_moved", "gap_gaussian_moved"),
)
_EYES = (
    *arms("vision", "concat"),
    *(Arm(f"constant_{lam}", "lambda_only", {"adjustment.lam": lam}) for lam in (0.3, 0.05)),
    Arm("wide", "gap_gaussian"),
)
_OCTO_SLOW = (
    *arms("v", "vp", "vp_slow"),
    *(Arm(f"{method}_mlp", method, {"model.proprio_tokens": 1}) for method in ("vp", "vp_slow")),
)


def _place(
    task: str,
    view: str,
    history: int,
    first_layout: int,
    lines: tuple[Arm, ...],
    steps: int = 2500,
    model: Mapping[str, Any] | None = None,
    **options: Any,
) -> Block:
    """A place of docs/PROTOCOL_2.md: half the first protocol's width and batch, 40 rollouts, `steps` of training."""
    changes = {**_CLEAN, **_seen_through(task, view, first_layout), "model.proprio_history": history}
    changes |= {"model.encoder_width": 8, "train.batch_size": 32}
    described = f"{view} view, {'one step' if history == 1 else 'five steps'} of proprioception, {steps} training steps"
    return Block(
        task,
        lines,
        regime=view if steps == 2500 else f"{view}_{steps}",
        description=described,
        changes=changes | {"eval.episodes": 40, "train.steps": steps, **(model or {})},
        **options,
    )


def _far(
    name: str, title: str, lines: tuple[Arm, ...], seeds: tuple[int, ...], first_layout: int = 900_000, **options: Any
) -> Table:
    """The same lines in both places of the first stage of docs/PROTOCOL_2.md; `options`: of `_place`."""
    blocks = (_place(task, "stock", 5, first_layout, lines, **options) for task in ("assembly", "disassemble"))
    return Table(name, title, tuple(blocks), seeds=seeds, shape="places", own_demos=True, one_machine=True)


def _octos(
    first_layout: int, lines: tuple[Arm, ...], changes: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Block, ...]:
    """The same lines in both places of an Octo."""
    seen = {"eval.seed": first_layout, **(changes or {})}
    far = {**seen, "demos.camera": "corner2", "model.proprio_history": 5}
    described = "stock view, five steps of state as tokens"
    return (
        Block("threading", lines, description="near view", changes=seen, **options),
        Block("assembly", lines, regime="stock", description=described, changes=far, **options),
    )


_CHOSEN = (("disassemble", "stock", 5), ("bin_picking", "stock", 1), ("push_wall", "near", 1))
"""Task, view and steps of state of the other cells, chosen from the map by the rule of docs/PROTOCOL.md."""


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
        _on_assembly(
            "disturbed",
            "A second regime: many disturbed demonstrations, a single step of proprioception",
            arms("vision", "concat", "gap"),
            regime="many_disturbed",
            description="100 disturbed demonstrations (σ = 0.15), no proprioceptive history",
            changes=_MANY_DISTURBED,
            against=_GAP_PAIRS,
        ),
        Table(
            "map",
            "Where does proprioception hurt?",
            tuple(
                Block(
                    task,
                    _MAPPED,
                    regime=view,
                    description=f"{view} view",
                    changes={**_CLEAN, **_seen_through(task, view, 500_000)},
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
                    (*_CONFIRMED_ARMS, Arm("state_dropout", "mask", {"rivals.mask_probability": 0.2})),
                    against=_CONFIRMED_PAIRS,
                    **_CONFIRMED,
                ),
                *(
                    Block(
                        task,
                        _CONFIRMED_ARMS,
                        regime=view,
                        description=f"{view} view, {'one step' if n == 1 else 'five steps'} of proprioception",
                        changes={**_CLEAN, **_seen_through(task, view, 600_000), "model.proprio_history": n},
                        against=_CONFIRMED_PAIRS,
                    )
                    for task, view, n in _CHOSEN
                ),
            ),
            seeds=FRESH_SEEDS,
            shape="confirmation",
            own_demos=True,
        ),
        _on_assembly(
            "spread",
            "Why does one training seed gain much and another lose?",
            arms("concat", "gap"),
            {"seeds": tuple(range(10, 20)), "own_demos": True, "shape": "spread"},
            **_CONFIRMED,
        ),
        _on_assembly(
            "longer",
            "Does the order stay with longer training?",
            tuple(Arm(f"{m}_{n}", m, {"train.steps": n}) for n in (5_000, 10_000) for m in ("concat", "gap")),
            {"seeds": (10, 11), "own_demos": True},
            reference="concat_5000",
            against=(("gap_10000", "concat_10000"),),
            **_CONFIRMED,
        ),
        Table(
            "octo_confirmation",
            "Is it the same for an Octo?",
            _octos(600_000, _OCTOS, **_OCTO),
            kind="octo",
            seeds=FRESH_SEEDS,
            own_demos=True,
        ),
        _on_assembly(
            "octo_tokens",
            "An Octo whose proprioception is a token that an MLP makes",
            (*_OCTOS, *(Arm(f"{m}_mlp", m, {"model.proprio_tokens": 1}) for m in ("vp", "vp_gap"))),
            {"kind": "octo", "seeds": (20, 21, 22), "own_demos": True},
            regime="stock",
            description="Octo, stock view, five steps of state",
            changes={"eval.seed": 700_000, "demos.camera": "corner2", "model.proprio_history": 5},
            **(_OCTO | {"against": (("vp_gap_mlp", "vp_mlp"), ("vp_mlp", "v"))}),
        ),
        _on_assembly(
            "watched",
            "GAP that watches itself",
            arms("vision", "concat", "gap", "gap_watched", "gap_gaussian"),
            {"seeds": (20, 21, 22), "own_demos": True},
            changes={**_STOCK, **_seen_through("assembly", "stock", 700_000)},
            against=(("gap_watched", "gap"), ("gap_watched", "gap_gaussian"), ("gap_gaussian", "gap")),
            **_ON_STOCK,
        ),
        _far(
            "choose",
            "Which form of GAP acts?",
            _CHOICES,
            (30, 31, 32, 33),
            800_000,
            against=(("wide", "wide_moved"), ("chunk", "wide")),
        ),
        Table(
            "enter",
            "Where does proprioception hurt, also after longer training?",
            tuple(
                _place(task, "stock", history, 800_000, arms("vision", "concat"), steps)
                for steps in (2500, 5000)
                for task, history in (("disassemble", 5), ("bin_picking", 1), ("pick_place", 5))
            ),
            seeds=(34, 35),
            shape="lines",
            own_demos=True,
            one_machine=True,
        ),
        _far(
            "again",
            "Does the slower branch repair on fresh seeds, and do the phases matter?",
            _AGAIN,
            tuple(range(40, 48)),
            against=(("wide", "matched"), ("wide", "wide_moved")),
        ),
        _far(
            "eyes",
            "Does the state harm a policy whose eyes are pretrained?",
            _EYES,
            tuple(range(50, 60)),
            model={"model.encoder": "efficientnet_lite0", "model.image_history": 5},
        ),
        Table(
            "octo_slow",
            "Does the slower branch repair an Octo?",
            _octos(
                900_000,
                _OCTO_SLOW,
                changes={"eval.episodes": 40},
                **(_OCTO | {"against": (("vp_slow_mlp", "vp_mlp"), ("vp_mlp", "v"))}),
            ),
            kind="octo",
            seeds=tuple(range(40, 45)),
            own_demos=True,
            one_machine=True,
        ),
        Table(
            "harm",
            "Does the slower branch harm where proprioception does not?",
            tuple(_place(task, "near", 1, 900_000, _HARM) for task in ("push_wall", "threading")),
            seeds=tuple(range(40, 48)),
            shape="places",
            own_demos=True,
            one_machine=True,
        ),
        Table(
            "main",
            "The paper's main table: small policies on eight tasks",
            _blocks(_EIGHT, arms("vision", "concat", "msbot", "aux", "mask", "gap"), against=_GAP_PAIRS),
        ),
        Table(
            "octo",
            "Fine-tuning Octo",
            _blocks((*_EIGHT[:3], "push_wall", "hammer_drawer"), _OCTOS, description="Octo", **_OCTO),
            kind="octo",
        ),
        Table(
            "tasks",
            "An Octo for every task",
            _blocks(TASK_NAMES, arms("vp_gap"), changes={"eval.episodes": 50}, reference="vp_gap"),
            kind="octo",
            seeds=(0,),
            shape="lines",
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


def narrowed(table: Table, tasks: Sequence[str] = (), methods: Sequence[str] = ()) -> Table:
    """The table with these tasks and arms only; empty: all. Raises ConfigError: one that the table does not have."""
    for task in tasks:
        choose(task, list(dict.fromkeys(block.task for block in table.blocks)), f"task of table {table.name}")
    for method in methods:
        known = list(dict.fromkeys(arm.name for block in table.blocks for arm in block.arms))
        choose(method, known, f"method of table {table.name}")
    blocks = [block for block in table.blocks if not tasks or block.task in tasks]
    chosen = [tuple(arm for arm in block.arms if not methods or arm.name in methods) for block in blocks]
    narrow = [dataclasses.replace(block, arms=arms) for block, arms in zip(blocks, chosen) if arms]
    return dataclasses.replace(table, blocks=tuple(narrow))
