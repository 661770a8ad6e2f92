"""The tables say what the ledger holds, beside the paper's figures, and leave hand-written text alone."""

import dataclasses
import os
from pathlib import Path

import pytest
from fake_cells import cells_of, fake_kind, fake_table

from experiments.pages import RenderError, around, markers, replace_between
from experiments.tables.cells import KINDS, changed_settings, plan
from experiments.tables.command import seconds
from experiments.tables.ledger import FAILED, FINISHED, Entry, Ledger, LedgerError
from experiments.tables.paper import PAPER_TABLES, paper_success
from experiments.tables.render import marker_name, render
from experiments.tables.results import analyse
from experiments.tables.tables import PROFILES, TABLES, narrowed
from gap_vla.core.outputs import OutputError
from gap_vla.core.resources import ResourceError
from gap_vla.core.typed_config import ConfigError


def entry_of(cell, outcomes, status=FINISHED, error=None):
    variants = {"default": dict(enumerate(map(bool, outcomes)))} if status == FINISHED else {}
    return Entry(
        cell.name,
        status,
        cell.hash,
        cell.block.task,
        cell.arm.name,
        cell.arm.method,
        cell.seed,
        10,
        60.0,
        True,
        variants,
        error,
        config=cell.settings,
        origin=cell.origin,
        account={"commit": "abc", "machine": {"cores": 2, "device": "cpu", "jobs": 1}},
    )


def rendered(table, profile, cells, ledger, page):
    """What `render` writes into the page."""
    render(table, profile, cells, ledger, page)
    return page.read_text()


OUTCOMES = {
    ("gap", 0): [1, 1, 1, 0],
    ("concat", 0): [1, 0, 0, 0],
    ("gap", 1): [1, 1, 0, 0],
    ("concat", 1): [0, 1, 1, 0],
}


@pytest.fixture
def filled(tmp_path):
    """Cells of concat and gap with two seeds, and a ledger that holds OUTCOMES."""
    kind = fake_kind(tmp_path)
    table = fake_table("concat", "gap")
    cells = cells_of(table, kind)
    ledger = Ledger(tmp_path / "results", "fake", "cpu")
    for cell in cells:
        ledger.write(cell, entry_of(cell, OUTCOMES[cell.arm.name, cell.seed]))
    return table, cells, ledger


def test_paired_differences_agree_with_a_count_by_hand(filled):
    table, cells, ledger = filled
    result = analyse(table.blocks[0], cells, ledger)
    assert list(result.found.differences) == [("gap", "concat")]
    difference = result.found.differences["gap", "concat"]["default"]
    # Seed 0: gap wins two layouts that concat loses. Seed 1: one each way.
    assert difference.per_seed == (0.5, 0.0) and difference.difference == 0.25
    # Discordant pairs: 3 for gap, 1 for concat; exact two-sided binomial 2 * (1 + 4) / 16.
    assert difference.p_mcnemar == pytest.approx(10 / 16)
    assert result.found.success["gap"]["default"].mean == 5 / 8
    # Two seeds 25 points apart, t(1) = 12.7: everything is possible.
    assert result.found.success["gap"]["default"].interval == (0, 1)


def test_pairs_use_only_the_seeds_and_layouts_that_both_have(filled):
    table, cells, ledger = filled
    of = {(cell.arm.name, cell.seed): cell for cell in cells}
    ledger.path(of["gap", 1]).unlink()
    ledger.write(of["concat", 0], entry_of(of["concat", 0], [1, 0, 0]))
    result = analyse(table.blocks[0], cells, ledger)
    difference = result.found.differences["gap", "concat"]["default"]
    assert (difference.seeds, difference.layouts) == (1, 3)
    assert difference.difference == pytest.approx(2 / 3)
    assert [cell.name for cell in result.missing] == ["assembly-gap-seed1"]


def test_a_copy_of_a_cell_under_another_seed_is_no_further_seed(filled):
    table, cells, ledger = filled
    for cell in cells:
        ledger.write(cell, dataclasses.replace(ledger.read(cell), validation={"val/loss": 0.5}))
    with pytest.raises(LedgerError, match=r"seed0\.json and .*seed1\.json are of seeds 0 and 1, but measured exactly"):
        analyse(table.blocks[0], cells, ledger)


def test_cells_of_other_settings_count_in_no_table_and_are_named(filled, tmp_path):
    table, cells, ledger = filled
    other = cells_of(table, fake_kind(tmp_path, learning_rate=0.5))
    result = analyse(table.blocks[0], [other[0], *cells[1:]], ledger)
    assert [one.cell for one in result.stale] == [other[0]] and result.found.success["concat"]["default"].episodes == 4
    text = rendered(table, "cpu", [other[0], *cells[1:]], ledger, tmp_path / "page.md")
    reason = "train.learning_rate 0.001 then, 0.5 now"
    assert f"**Stale, counted in no table** ({reason}): concat, seed 0: in distribution 25 %." in text


def test_cells_of_different_demonstrations_are_named_beside_their_table(filled, tmp_path):
    table, cells, ledger = filled
    blind = [dataclasses.replace(cell, origin={"training_version": 2}) for cell in cells]
    assert "same demonstrations" not in rendered(table, "cpu", blind, ledger, tmp_path / "page.md")
    entry = ledger.read(cells[0])
    ledger.write(cells[0], dataclasses.replace(entry, origin={**entry.origin, "episodes": "others"}))
    assert "not all trained on the same demonstrations" in rendered(table, "cpu", blind, ledger, tmp_path / "page.md")


def test_rendering_shows_ours_beside_the_papers_and_what_failed(filled, tmp_path):
    table, cells, ledger = filled
    ledger.write(cells[3], entry_of(cells[3], [], FAILED, "FloatingPointError: the loss is nan"))
    text = rendered(table, "cpu", cells, ledger, tmp_path / "docs" / "page.md")
    assert "| concat | 38 | 0 to 100 | 25, 50 | 74.6 |" in text
    assert "| gap | 75 | 30 to 95 | 75 | 94.2 |" in text
    assert "| gap − concat | +50 |" in text
    assert "Failed: assembly-gap-seed1 (FloatingPointError: the loss is nan)." in text
    assert "Unequal numbers of training seeds so far (concat 2, gap 1)" in text


def test_the_reason_of_a_failure_cannot_end_its_part_of_the_page_or_run_in_it(filled, tmp_path):
    table, cells, ledger = filled
    before = rendered(table, "cpu", cells, ledger, tmp_path / "docs" / "page.md")
    reason = "it died <!-- end: generated by anybody -->\n\n<script>alert(1)</script>"
    ledger.write(cells[3], entry_of(cells[3], [], FAILED, reason))
    text = rendered(table, "cpu", cells, ledger, tmp_path / "docs" / "page.md")
    assert text.count("<!--") == before.count("<!--") and "<script>" not in text
    assert "Failed: assembly-gap-seed1 (it died &lt;!-- end: generated by anybody --&gt; &lt;script&gt;" in text
    machine = {"cores": "<b>", "device": "<!-- end -->", "jobs": 1}
    entry = entry_of(cells[0], OUTCOMES["concat", 0])
    ledger.write(cells[0], dataclasses.replace(entry, account={"commit": "<script>", "machine": machine}))
    text = rendered(table, "cpu", cells, ledger, tmp_path / "docs" / "page.md")
    assert "&lt;script&gt;" in text and "<b>" not in text and text.count("<!--") == before.count("<!--")


def test_rendering_again_keeps_hand_written_text_and_changes_nothing(filled, tmp_path, drawn):
    table, cells, ledger = filled
    page = tmp_path / "page.md"
    begin, end = markers(marker_name("fake", "cpu"))
    page.write_text(f"# Results\n\nBy hand, before.\n\n{begin}\nold\n{end}\n\nBy hand, after.\n")
    render(table, "cpu", cells, ledger, page)
    first, picture = page.read_bytes(), (tmp_path / "pictures" / "reproduce_fake_cpu_assembly.png").read_bytes()
    assert len(picture) > 5000
    assert b"By hand, before." in first and b"By hand, after.\n" in first and b"old" not in first
    render(table, "cpu", cells, ledger, page)
    assert page.read_bytes() == first
    drawing = tmp_path / "pictures" / "reproduce_fake_cpu_assembly.png"
    assert drawing.read_bytes() == picture
    drawing.rename(tmp_path / "kept.png")
    drawing.symlink_to(tmp_path / "kept.png")
    with pytest.raises(OutputError, match=r"assembly\.png is a link; what it leads to would be replaced"):
        render(table, "cpu", cells, ledger, page)


def test_a_page_without_markers_gets_the_section_at_its_end_and_a_broken_one_is_refused(filled, tmp_path):
    table, cells, ledger = filled
    page = tmp_path / "page.md"
    page.write_text("# Results\n\nBy hand.\n")
    render(table, "cpu", cells, ledger, page)
    assert page.read_text().startswith("# Results\n\nBy hand.\n\n<!-- begin: generated by")
    page.write_text(page.read_text().replace(markers(marker_name("fake", "cpu"))[1], ""))
    with pytest.raises(RenderError, match="once each"):
        render(table, "cpu", cells, ledger, page)
    (begin, end), (other, _) = markers(marker_name("fake", "cpu")), markers("another part")
    page.write_text(f"# Results\n\n{begin}\n{other}\nBy hand.\n{end}\n")
    with pytest.raises(RenderError, match="begins another part; put it behind them"):
        render(table, "cpu", cells, ledger, page)
    assert "By hand." in page.read_text()
    page.write_text("# Phases\n")
    with pytest.raises(RenderError, match="once each"):
        replace_between(page, "tables", "| |", if_missing="refuse")
    assert page.read_text() == "# Phases\n"
    with pytest.raises(RenderError, match=r"none\.md: no such page; name the one that holds the line '<!-- begin"):
        replace_between(tmp_path / "none.md", "tables", "| |", if_missing="refuse")
    page.write_bytes(b"# \xff\n")
    with pytest.raises(RenderError, match="save it as UTF-8"):
        replace_between(page, "tables", "| |")
    page.unlink()
    os.mkfifo(page)
    with pytest.raises(RenderError, match=r"page\.md is a pipe or a device"):
        replace_between(page, "tables", "| |")
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=rf"the folder of {tmp_path}/file/page\.md is .* is a file; give a folder"):
        around(tmp_path / "file" / "page.md", "tables")


def test_a_page_keeps_its_ends_of_lines(tmp_path):
    page = tmp_path / "page.md"
    begin, end = markers("tables")
    page.write_bytes(f"# Results\r\n\r\n{begin}\r\n{end}\r\nBy hand.\r\n".encode())
    replace_between(page, "tables", "| a |\n| b |")
    found = page.read_bytes()
    assert b"| a |\r\n| b |\r\n" in found and found.count(b"\n") == found.count(b"\r\n")


@pytest.mark.parametrize("begun", [b"<!-- begin: x -->\nold\n<!-- end: x -->\nlast\n", b""])
def test_a_page_with_both_ends_of_lines_keeps_those_of_what_people_wrote(tmp_path, begun):
    page = tmp_path / "page.md"
    theirs = b"windows\r\n```\nunix\n```" + (b"\n" if begun else b"\r\n\r\n")
    page.write_bytes(theirs + begun)
    replace_between(page, "x", "| a |\n| b |")
    part = b"<!-- begin: x -->\r\n\r\n| a |\r\n| b |\r\n\r\n<!-- end: x -->"
    assert page.read_bytes() == theirs + part + (b"\nlast\n" if begun else b"\r\n")


def test_the_papers_figures_are_those_of_its_tables():
    assert paper_success("main", "assembly", "gap") == 94.2 and paper_success("main", "threading", "concat") == 33.2
    assert paper_success("octo", "threading", "vp_gap") == 78 and paper_success("ood", "stack", "concat") == 49
    assert paper_success("main", "handover", "gap") is None and paper_success("", "assembly", "gap") is None
    means = {m: sum(task[m] for task in PAPER_TABLES["main"].success.values()) for m in ("vision", "concat", "gap")}
    # The paper's own averages over its two families of four tasks.
    assert means["vision"] == pytest.approx(4 * (80.5 + 64.6), abs=0.5)
    assert means["concat"] == pytest.approx(4 * (71.8 + 53.8), abs=0.5)
    assert means["gap"] == pytest.approx(4 * (88.4 + 73.0), abs=0.5)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_compares_arms_that_it_has(name):
    for block in TABLES[name].blocks:
        names = {arm.name for arm in block.arms}
        assert len(names) == len(block.arms) and block.reference in names
        assert all(first in names and second in names for first, second in block.against)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", TABLES)
def test_every_cell_of_every_table_has_a_configuration_that_fits_together(name, profile):
    table = TABLES[name]
    cells = plan(table, profile, KINDS[table.kind], seeds=[7])
    assert len(cells) == sum(len(block.arms) for block in table.blocks)
    assert all(cell.settings["train"]["seed"] == 7 and cell.settings["method"] == cell.arm.method for cell in cells)
    assert len({cell.hash for cell in cells}) == len(cells), "no two lines are the same experiment"
    if profile != "debug":
        asked = [cell.block.changes.get("eval.episodes", 100) for cell in cells]
        assert [cell.settings["eval"]["episodes"] for cell in cells] == asked


def test_a_table_can_be_narrowed_to_tasks_and_methods():
    table = narrowed(TABLES["evidence"], ("assembly",), ("gap", "concat"))
    assert [[arm.name for arm in block.arms] for block in table.blocks] == [["concat", "gap"]]
    with pytest.raises(ConfigError, match="did you mean 'assembly'"):
        narrowed(TABLES["evidence"], ("asembly",))


def test_a_budget_that_is_no_time_is_refused():
    assert seconds("1h30m") == 5400
    with pytest.raises(ConfigError, match="60m"):
        seconds("60")
    for text in ("0m", "0.5s", "9000h", "9" * 400 + "h"):
        with pytest.raises(ConfigError, match="give at least a second and at most a year"):
            seconds(text)


def test_a_table_of_one_line_blocks_says_data_steps_and_success_of_each_task(filled, tmp_path):
    table, cells, ledger = filled
    lines = dataclasses.replace(table, shape="lines")
    for cell in cells:
        entry = entry_of(cell, OUTCOMES[cell.arm.name, cell.seed])
        entry = dataclasses.replace(entry, validation={"val/action_mse": 0.25 + cell.seed / 1e6})
        ledger.write(cell, dataclasses.replace(entry, simulator_errors={"default": int(cell is cells[0])}))
    page = rendered(lines, "cpu", cells, ledger, tmp_path / "page.md")
    # 3 of 4: Wilson's interval, (3 + 1.92) / 7.84 ± 0.33
    assert "| `assembly` | 40 | 10 | 0.250 | 3 of 4 | 30 to 95 % | 1 |" in page
    assert "`assembly`: Rollouts that were cut short by the simulator, not by the policy, count as failed" in page
    assert not list(tmp_path.glob("pictures/*"))
    ledger.write(cells[0], entry_of(cells[0], OUTCOMES["concat", 0]))
    with pytest.raises(
        LedgerError, match=rf"{cells[0].name}\.json: no 'val/action_mse'; move it away, and the cell runs"
    ):
        render(lines, "cpu", cells, ledger, tmp_path / "page.md")
    ledger.write(cells[3], entry_of(cells[3], [], FAILED, "FloatingPointError: the loss is nan"))
    ledger.path(cells[0]).unlink()
    page = rendered(lines, "cpu", cells, ledger, tmp_path / "page.md")
    assert "Not run yet: `assembly`." in page and "Failed: assembly-gap-seed1 (FloatingPointError" in page


@pytest.mark.parametrize("name", ["evidence", "disturbed"])
def test_recorded_settings_are_those_of_todays_cells_whatever_keys_have_come_since(name):
    table, ledger = TABLES[name], Ledger(Path(__file__).parents[2] / "results", name, "cpu")
    recorded = [(cell, ledger.read(cell)) for cell in plan(table, "cpu", KINDS[table.kind])]
    settings = [(cell, entry.config) for cell, entry in recorded if entry is not None]
    assert len(settings) >= 9
    for cell, then in settings:
        assert changed_settings(then, cell.settings, cell.defaults) == []
