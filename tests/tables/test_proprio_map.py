"""The map says what its cells say: VP − V within tasks, and what view and history change about it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments.pages import markers
from experiments.tables.cells import DEMOS_OF_A_SEED, KINDS, plan
from experiments.tables.ledger import FAILED, FINISHED, Entry, Ledger
from experiments.tables.proprio_map import effect, places_of
from experiments.tables.render import marker_name, render
from experiments.tables.results import analyse
from experiments.tables.tables import TABLES
from gap_vla.sim import TASK_NAMES

ROOT = Path(__file__).parents[2]
LAYOUTS = range(500_000, 500_100)

SUCCESSES = {  # of 100: V, VP with one step and with five
    ("assembly", "near"): (90, 92, 88),
    ("assembly", "stock"): (60, 50, 40),
    ("threading", "near"): (40, 60, 50),
    ("threading", "stock"): (30, 20, 20),
    ("pick_place", "near"): (99, 98, 100),
    ("pick_place", "stock"): (80, 70, 60),
}


@pytest.fixture(scope="module")
def cells():
    return plan(TABLES["map"], "cpu", KINDS["small"])


@pytest.fixture
def filled(cells, tmp_path):
    ledger = Ledger(tmp_path / "results", "map", "cpu")
    arms = ("vision", "concat_1", "concat_5")
    for cell in cells:
        if won := SUCCESSES.get((cell.block.task, cell.block.regime)):
            outcomes = {seed: place < won[arms.index(cell.arm.name)] for place, seed in enumerate(LAYOUTS)}
            steps = cell.settings["train"]["steps"]
            known = (cell.block.task, cell.arm.name, cell.arm.method, cell.seed, steps, 60.0, True)
            account = {"commit": "abc", "machine": {"cores": 2, "device": "cpu", "jobs": 1}}
            more = dict(config=cell.settings, origin=cell.origin, account=account)
            rolled_out = {"default": outcomes}
            ledger.write(cell, Entry(cell.name, FINISHED, cell.hash, *known, rolled_out, None, **more))
    return ledger


def test_the_plan_is_that_of_the_protocol(cells):
    assert len(cells) == 54 and {cell.seed for cell in cells} == {0}
    seen = {(c.block.task, c.settings["demos"]["camera"]) for c in cells}
    assert len(seen) == 18 and {task for task, _ in seen} == set(TASK_NAMES)
    assert {camera for _, camera in seen} == {"near", "corner2", "agentview"}
    for cell in cells:
        demos, run = cell.settings["demos"], cell.settings["eval"]
        assert (demos["episodes"], demos["action_noise"], demos["image_size"], demos["seed"]) == (60, 0.0, 80, 0)
        (layouts,) = cell.config.eval.layouts()
        assert (layouts.variant, layouts.first_seed, run["episodes"]) == ("default", 500_000, 100)
        assert cell.settings["train"]["steps"] == 2500 and cell.settings["model"]["image_history"] == 1
        assert cell.settings["data"]["augment"]["cameras"] == []


def test_a_confirmation_trains_each_seed_on_demonstrations_of_its_own():
    cells = plan(TABLES["confirmation"], "cpu", KINDS["small"])
    assert {cell.seed: cell.settings["demos"]["seed"] for cell in cells} == {
        seed: DEMOS_OF_A_SEED * seed for seed in (10, 11, 12, 13, 14)
    }
    assert {cell.method for cell in (cell.arm for cell in cells)} == {
        *("vision", "concat", "gap", "gap_gaussian", "lambda_matched", "gap_shuffled", "rho_only", "mask")
    }
    (dropped,) = {cell.settings["rivals"]["mask_probability"] for cell in cells if cell.arm.name == "state_dropout"}
    assert dropped == 0.2
    assert {layouts.first_seed for layouts in cells[0].config.eval.layouts()} == {600_000, 700_000}


def test_the_confirmation_has_the_cells_that_the_protocol_chooses_from_the_map():
    """docs/PROTOCOL.md: two with the lowest VP - V, of two tasks, and of those with VP >= V the V nearest to 50 %."""
    table, ledger = TABLES["map"], Ledger(ROOT / "results", "map", "cpu")
    cells = plan(table, "cpu", KINDS["small"])
    places = places_of([analyse(block, cells, ledger) for block in table.blocks])
    gaps = [(p.vp - p.v, p.v, (p.task, p.view, p.history)) for p in places]
    first, *lowest = sorted(gap for gap in gaps if gap[2] != ("assembly", "stock", 5))
    second = next(gap for gap in lowest if gap[2][0] != first[2][0])
    # Where V is the same, min keeps the order of the map: that of `TASK_NAMES`, and one step before five.
    none = min((gap for gap in gaps if gap[0] >= 0), key=lambda gap: abs(gap[1] - 0.5))
    chosen = [(b.task, b.regime, b.changes["model.proprio_history"]) for b in TABLES["confirmation"].blocks]
    assert chosen == [("assembly", "stock", 5), *(gap[2] for gap in (first, second, none))]


def test_longer_training_and_the_spread_of_seeds_are_those_of_the_confirmation_but_for_steps_and_seeds():
    def settings(table):
        cells = plan(TABLES[table], "cpu", KINDS["small"])
        return {(c.arm.method, c.seed): c.settings for c in cells if c.block.task == "assembly"}

    confirmed, spread = settings("confirmation"), settings("spread")
    assert {seed for _, seed in spread} == set(range(10, 20))
    assert all(spread[one] == confirmed[one] for one in spread if one[1] < 15), "trained once, and found in both"
    for name, longer in ((c.arm.name, c) for c in plan(TABLES["longer"], "cpu", KINDS["small"])):
        steps = longer.settings["train"].pop("steps")
        there = confirmed[longer.arm.method, longer.seed]
        assert name.endswith(f"_{steps}") and steps in (5_000, 10_000)
        assert longer.settings["train"] == {k: v for k, v in there["train"].items() if k != "steps"}
        assert all(longer.settings[k] == there[k] for k in ("demos", "model", "optimizer", "eval", "data"))


def test_octos_confirmation_uses_fresh_seeds_and_layouts_and_shows_history_as_tokens():
    cells = plan(TABLES["octo_confirmation"], "cpu", KINDS["octo"])
    assert len(cells) == 30 and {cell.seed for cell in cells} == {10, 11, 12, 13, 14}
    seen = {(c.block.task, c.settings["demos"]["camera"], c.config.model.proprio_history) for c in cells}
    assert seen == {("threading", "near", 1), ("assembly", "corner2", 5)}
    assert {layouts.first_seed for cell in cells for layouts in cell.config.eval.layouts()} == {600_000}
    assert all(cell.settings["demos"]["seed"] == DEMOS_OF_A_SEED * cell.seed for cell in cells)


def test_effects_are_means_over_tasks_of_differences_within_a_task(cells, filled):
    table = TABLES["map"]
    places = places_of([analyse(block, cells, filled) for block in table.blocks])
    found = {(p.task, p.view, p.history): p for p in places}
    assert len(places) == 12 and found["assembly", "stock", 5].difference.difference == pytest.approx(-0.2)
    assert not found["pick_place", "near", 1].says_something and found["pick_place", "stock", 1].says_something
    of_view = effect(places, lambda p: p.view == "near", lambda p: p.view == "stock")
    # assembly: -10 - 2, -20 + 2; threading: -10 - 20, -10 - 10; pick_place's near view says nothing
    assert of_view.per_task == pytest.approx({"assembly": -0.15, "threading": -0.25})
    assert of_view.mean == pytest.approx(-0.2)
    half = 12.706 * np.std([-0.15, -0.25], ddof=1) / np.sqrt(2)  # t with one degree of freedom
    assert of_view.interval == pytest.approx((-0.2 - half, -0.2 + half), abs=1e-3)
    of_history = effect(places, lambda p: p.history == 1, lambda p: p.history == 5)
    assert of_history.per_task == pytest.approx({"assembly": -0.07, "threading": -0.05, "pick_place": -0.1})


def test_the_page_shows_picture_effects_and_what_is_missing(cells, filled, tmp_path, drawn):
    page = tmp_path / "page.md"
    render(TABLES["map"], "cpu", cells, filled, page)
    text = page.read_text()
    assert (tmp_path / "pictures" / "reproduce_map_cpu.png").stat().st_size > 5000
    assert "The stock view instead of the near one changes VP − V by −20 points (mean over 2 tasks" in text
    assert "| `pick_place` | near | 1 | 99 | 98 | −1 (says nothing) |" in text
    assert "Not run yet: 36 policies" in text


def test_the_page_names_what_failed_counts_no_more_or_saw_other_demonstrations(cells, filled, tmp_path):
    of = {(c.block.task, c.block.regime, c.arm.name): c for c in cells}

    def change(*place, **fields):
        entry = filled.read(of[place])
        filled.write(of[place], dataclasses.replace(entry, **fields))
        return entry

    error = "DivergedError: the loss is nan"
    change("assembly", "near", "concat_1", status=FAILED, error=error, variants={})
    change("threading", "near", "vision", origin={**of["threading", "near", "vision"].origin, "training_version": 0})
    for number, arm in enumerate(("vision", "concat_1", "concat_5")):
        cell = of["pick_place", "stock", arm]
        change("pick_place", "stock", arm, origin={**cell.origin, "episodes": str(number)})
    blind = [dataclasses.replace(cell, origin=filled_versions(cell.origin)) for cell in cells]
    page = tmp_path / "page.md"
    render(TABLES["map"], "cpu", blind, filled, page)
    text = page.read_text()
    assert f"Failed: assembly-near-concat_1-seed0 ({error})." in text
    assert "threading: " in text and "**Stale, counted in no table** (version of the training code 0 then" in text
    assert "Cells of one seed were not all trained on the same demonstrations" in text


def filled_versions(origin):
    """What is known before any data has been made."""
    return {key: value for key, value in origin.items() if key.endswith("_version")}


def test_the_page_that_people_read_tells_it_in_short_between_its_markers(cells, filled, tmp_path):
    begin, end = markers(marker_name("map", "cpu"))
    short = tmp_path / "WHEN_PROPRIOCEPTION_HURTS.md"
    short.write_text(f"# When?\n\n{begin}\n{end}\n\nBy hand.\n")
    render(TABLES["map"], "cpu", cells, filled, tmp_path / "page.md")
    text = short.read_text()
    assert text.startswith("# When?") and text.endswith("By hand.\n")
    [near] = [line for line in text.splitlines() if line.startswith("| near | 1 |")]
    [stock] = [line for line in text.splitlines() if line.startswith("| stock | 5 |")]
    assert near.endswith("| pick_place (−1) |") and "assembly (−20)" in stock.split("|")[3], (near, stock)
