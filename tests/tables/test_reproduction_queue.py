"""The queue runs what fits, survives crashes and kills, and never mixes settings."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import fake_cells
import pytest
from fake_cells import ORIGIN, cells_of, events, fake_kind, fake_table

from experiments.tables.cells import config_hash
from experiments.tables.ledger import FAILED, FINISHED, Entry, Ledger, LedgerError
from experiments.tables.queue import QueueOptions, machine, predict, run_queue, waiting_cells
from gap_vla.core.locks import InUseError, alone


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "results", "fake", "cpu")


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    """The file of a finished cell, `good` with seed 0."""
    root = tmp_path_factory.mktemp("once")
    (cell,), kept = cells_of(fake_table("good", seeds=(0,)), fake_kind(root)), Ledger(root / "results", "fake", "cpu")
    run_queue([cell], kept, fake_kind(root), options(root))
    return kept.path(cell).read_text()


def record(entry, cell, ledger):
    ledger.directory.mkdir(parents=True)
    ledger.path(cell).write_text(entry)


def options(tmp_path, budget=600.0, **changes):
    return QueueOptions(budget, logs=tmp_path / "logs", command="reproduce", **changes)


def test_seeds_are_outermost_so_that_all_methods_have_as_many_seeds_as_early_as_possible(tmp_path):
    cells = cells_of(fake_table("good", "poor", tasks=("assembly", "stack")), fake_kind(tmp_path))
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert [cell.name for cell in cells[:3]] == ["assembly-good-seed0", "assembly-poor-seed0", "stack-good-seed0"]


def test_a_failed_cell_is_recorded_with_its_reason_and_the_queue_goes_on(tmp_path, ledger, capsys):
    kind = fake_kind(tmp_path)
    cells = cells_of(fake_table("diverging", "good", seeds=(0,)), kind)
    run_queue(cells, ledger, kind, options(tmp_path))
    failed, finished = (ledger.matching(cell) for cell in cells)
    assert failed.status == FAILED and failed.error == "FloatingPointError: the loss is nan at step 3"
    assert finished.status == FINISHED and sum(finished.variants["default"].values()) == 9
    assert "the loss is nan" in capsys.readouterr().out
    assert "Traceback" in (tmp_path / "logs" / "fake-cpu" / "assembly-diverging-seed0.log").read_text()
    assert not run_queue(cells, ledger, kind, options(tmp_path)), "a failed cell is not tried again unasked"
    run_queue(cells, ledger, kind, options(tmp_path, retry=True))
    assert events(tmp_path, "begin").count("assembly-diverging-0") == 2


def test_the_ledger_says_what_made_a_cell(tmp_path, entry):
    (cell,) = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    found = json.loads(entry)
    assert found["variants"] == {
        "default": {"successes": 9, "episodes": 10, "first_layout": 0, "outcomes": "0111111111"}
    }
    assert found["simulator_errors"] == {"default": 1}
    assert found["config"]["train"]["seed"] == 0 and found["steps"] == 10 and found["config_hash"] == cell.hash
    assert set(found["account"]) >= {"commit", "machine", "time", "command", "run", "used"}
    assert found["account"]["used"]["peak_gigabytes"] > 0 and found["seconds"] > 0


def test_only_cells_that_are_predicted_to_fit_are_begun(tmp_path, ledger, capsys):
    kind = fake_kind(tmp_path, stated=100.0)
    cells = cells_of(fake_table("good", "poor", seeds=(0,)), kind)
    assert run_queue(cells, ledger, kind, options(tmp_path, budget=99.0)) == []
    assert not events(tmp_path, "begin")
    assert "2 of 2 cells are left; the shortest is predicted to take 1 min 40 s" in capsys.readouterr().out


def test_a_cell_that_overruns_the_budget_is_interrupted_and_taken_up_again(tmp_path, ledger, monkeypatch, capsys):
    clock = lambda: time.monotonic() + 3600 * len(events(tmp_path, "begin"))  # noqa: E731 - the budget ends with the begin
    monkeypatch.setattr("experiments.tables.queue.time", types.SimpleNamespace(monotonic=clock, sleep=time.sleep))
    kind = fake_kind(tmp_path)
    cells = cells_of(fake_table("slow", "good", seeds=(0,)), kind)
    started = time.monotonic()
    run_queue(cells, ledger, kind, options(tmp_path))
    assert time.monotonic() - started < 60, "that is how long the cell would have gone on"
    assert ledger.read(cells[0]) is None and waiting_cells(cells, ledger) == cells
    assert "slow-seed0 was interrupted; it is taken up again next time" in capsys.readouterr().out


def test_a_measured_cell_predicts_the_next_one_and_a_continued_one_does_not(entry, tmp_path, ledger):
    kind = fake_kind(tmp_path, stated=30.0)
    cells = cells_of(fake_table("good", "poor", tasks=("assembly", "stack"), seeds=(0,)), kind)
    here = machine()
    stated = (30.0, "stated by profile cpu")
    assert predict(cells[1], [], kind, here) == stated
    entry = Entry.from_json(json.loads(entry))
    assert predict(cells[1], [entry], kind, here) == (entry.seconds, "cells of this task")
    assert predict(cells[1], [entry], kind, {**here, "jobs": 2}) == (entry.seconds, "cells of this task")
    assert predict(cells[2], [entry], kind, here) == stated, "it is of another task"
    kind.run_directory(cells[0].config).mkdir()
    (continued,) = run_queue(cells[:1], ledger, kind, options(tmp_path))
    assert not continued.whole and predict(cells[1], [continued], kind, here) == stated
    assert predict(cells[1], [entry], kind, {**here, "cores": 99}) == stated


def test_cells_of_one_dataset_wait_until_the_first_has_made_it(tmp_path, ledger):
    kind = fake_kind(tmp_path)
    cells = cells_of(fake_table("slowly_made", "good", seeds=(0,)), kind)
    run_queue(cells, ledger, kind, options(tmp_path, jobs=2))
    lines = [line.split()[0] for line in (tmp_path / "events.txt").read_text().splitlines()]
    assert lines == ["begin", "end", "begin", "end"]


def test_cells_run_side_by_side_where_nothing_keeps_them_apart(tmp_path, ledger):
    kind = fake_kind(tmp_path)
    cells = cells_of(fake_table("waits_for_another", tasks=("assembly", "stack"), seeds=(0,)), kind)
    run_queue(cells, ledger, kind, options(tmp_path, jobs=2))
    assert [line.split()[0] for line in (tmp_path / "events.txt").read_text().splitlines()][:2] == ["begin", "begin"]
    assert ledger.matching(cells[0]).account["machine"]["jobs"] == 2


def test_entries_of_other_settings_are_named_and_run_again(entry, tmp_path, ledger):
    kind = fake_kind(tmp_path)
    record(entry, *cells_of(fake_table("good", seeds=(0,)), kind), ledger)
    changed = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path, learning_rate=0.1))
    (stale,) = ledger.stale(changed)
    assert stale.reasons == ("train.learning_rate 0.001 then, 0.1 now",) and ledger.matching(changed[0]) is None
    moved = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path / "elsewhere"))
    assert not ledger.stale(moved), "folders are no part of the settings"
    run_queue(changed, ledger, kind, options(tmp_path))
    assert ledger.matching(changed[0]).config["train"]["learning_rate"] == 0.1


@pytest.mark.parametrize("key", ORIGIN)
def test_a_cell_of_another_version_of_code_labels_or_data_is_stale_and_runs_again(entry, tmp_path, ledger, key):
    cells = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    record(entry, cells[0], ledger)
    assert ledger.matching(cells[0]).origin == ORIGIN
    today = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path, origin={**ORIGIN, key: "new"}))
    (stale,) = ledger.stale(today)
    assert len(stale.reasons) == 1 and stale.reasons[0].endswith(f"{ORIGIN[key]} then, new now")
    assert waiting_cells(today, ledger) == today
    blind = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path, origin=today[0].origin, reads_labels=False))
    assert bool(ledger.stale(blind)) is not key.startswith("labels"), "labels count only where they are read"


def test_the_content_of_data_that_are_not_here_makes_no_cell_stale(entry, tmp_path, ledger):
    cells = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    record(entry, cells[0], ledger)
    versions = {key: value for key, value in ORIGIN.items() if key.endswith("version")}
    assert not ledger.stale(cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path, origin=versions)))


def test_a_cell_recorded_before_versions_were_is_stale(entry, tmp_path, ledger):
    cells = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    record(entry, cells[0], ledger)
    recorded = json.loads(ledger.path(cells[0]).read_text())
    del recorded["origin"]
    ledger.path(cells[0]).write_text(json.dumps(recorded))
    (stale,) = ledger.stale(cells)
    assert stale.reasons == ("recorded before the versions of code and data were",)


def test_an_option_added_later_leaves_recorded_cells_valid_while_it_has_its_default(entry, tmp_path, ledger):
    cells = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    record(entry, cells[0], ledger)
    recorded = json.loads(ledger.path(cells[0]).read_text())
    del recorded["config"]["train"]["learning_rate"]
    recorded["config_hash"] = config_hash(recorded["config"])
    ledger.path(cells[0]).write_text(json.dumps(recorded))
    assert ledger.matching(cells[0]) is not None
    changed = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path, learning_rate=0.1))
    assert ledger.matching(changed[0]) is None


def test_a_second_queue_on_the_same_results_is_refused_wherever_its_logs_go(tmp_path, ledger):
    kind = fake_kind(tmp_path)
    with alone(ledger.directory / ".lock", "table"), pytest.raises(InUseError, match=str(os.getpid())):
        run_queue([], ledger, kind, options(tmp_path / "elsewhere"))


def test_a_broken_ledger_file_is_named(tmp_path, ledger):
    (cell,) = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    ledger.directory.mkdir(parents=True)
    for text in ("{", "[" * 100_000):
        ledger.path(cell).write_text(text)
        with pytest.raises(LedgerError, match=r"assembly-good-seed0\.json"):
            ledger.read(cell)


ASKED = {"task": "assembly", "method": "good", "train": {"seed": 0, "steps": 10}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": "x"}, "seed is 'x'"),
        ({"retried": 1}, "it holds 'retried', which this version does not know); move it away, and the cell runs"),
        ({"seed": 1}, "it is that of 'assembly-good-seed0', task 'assembly', arm 'good', seed 1"),
        ({"task": "nope"}, "task is 'nope'"),
        ({"task": "stack"}, "task 'stack'"),
        ({"method": ["a"]}, "method is list"),
        ({"method": "poor"}, "its settings are of task, method, seed"),
        ({"seconds": "long"}, "seconds is 'long'"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"config": None}, "config is null"),
        ({"config": {"task": "assembly", "method": "good", "demos": {"episodes": None}}}, "demos.episodes is null"),
        (
            {"config": {**ASKED, "eval": {"episodes": 100, "variants": ["default"]}}},
            "settings ask for {'default': 100}",
        ),
        ({"config": {**ASKED, "eval": {"episodes": 10, "variants": ["default", "light"]}}}, "'light': 10}"),
        ({"config": {**ASKED, "eval": {"episodes": 10, "variant": "light"}}}, "settings ask for {'light': 10}"),
        (
            {"config": {**ASKED, "eval": {"episodes": 10, "seed": 9, "variants": ["default"]}}},
            "its first layouts are {'default': 0}, its settings ask for {'default': 100009}",
        ),
        (
            {
                "config": {**ASKED, "eval": {"episodes": 10, "variant": "default"}},
                "variants": {},
                "simulator_errors": {},
            },
            "its rollouts are {}",
        ),
        ({"config_hash": "0123456789ab"}, "its config_hash is 0123456789ab, that of its settings"),
        ({"validation": {"val/loss": float("nan")}}, "validation.val/loss is nan"),
        ({"gradients": {"branch/vision_gradient": float("inf")}}, "gradients.branch/vision_gradient is inf"),
        ({"steps": 9}, "steps is 9; it must be 10"),
        ({"config": {**ASKED, "train": {"seed": 0, "steps": float("inf")}}}, "config.train.steps is inf"),
        ({"config": {**ASKED, "train": {"seed": 0, "steps": 10, "epochs": 1.5}}}, "config.train.epochs is 1.5"),
        ({"status": "done"}, "status is 'done'"),
        ({"status": "failed"}, "error is null"),
        ({"status": "failed", "error": "it fell"}, "its status is 'failed', and it has variants that were rolled out"),
        ({"error": "it fell"}, "its status is 'finished', and it has an error"),
        ({"validation": {"val/action_mse": -0.1}}, "validation.val/action_mse is -0.1"),
        ({"whole": True, "seconds": 1.0, "stages": {"train": 900.0}}, "its seconds are 1, those of its stages 900"),
        ({"validation": {"val/loss": -0.1}}, "validation.val/loss is negative"),
        (
            {"validation": {"val/loss": 0.5, "val/loss_transition": 9.0, "val/loss_consistent": 9.0}},
            "val/loss is 0.5; those of its parts are 9 and 9",
        ),
        ({"account": []}, "account is list"),
        (
            {"account": {"time": "2099-13-45"}},
            "account.time is '2099-13-45' (str); it must be a date and time as ISO 8601",
        ),
        ({"simulator_errors": {"default": 2}}, "simulator_errors.default is 2; it must be"),
        ({"simulator_errors": {"light": 0}}, "simulator_errors.light is of no variant that was rolled out"),
        ({"account": {"machine": {"jobs": "2"}}}, "account.machine.jobs is '2'"),
        ({"variants": {"default": {"successes": 2, "episodes": 1, "first_layout": 0, "outcomes": "1"}}}, "successes"),
        ({"variants": {"default": {"successes": 1, "episodes": 1, "first_layout": 0, "outcomes": "7"}}}, "outcomes"),
        ({"variants": {"default": {"successes": 1, "episodes": 1, "outcomes": "1"}}}, "first_layout is missing"),
    ],
)
def test_an_entry_that_cannot_be_of_its_cell_is_refused_by_its_file(entry, tmp_path, ledger, change, named):
    (cell,) = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    record(entry, cell, ledger)
    recorded = json.loads(entry)
    assert ledger.read(cell).cell == cell.name
    ledger.path(cell).write_text(json.dumps(recorded | change))
    for read in (lambda: ledger.read(cell), ledger.all_entries):
        with pytest.raises(LedgerError, match=f"assembly-good-seed0.json.*{re.escape(named)}"):
            read()


def test_an_entry_that_is_a_link_to_nowhere_is_not_taken_for_none(tmp_path, ledger):
    (cell,) = cells_of(fake_table("good", seeds=(0,)), fake_kind(tmp_path))
    ledger.directory.mkdir(parents=True)
    ledger.path(cell).symlink_to(tmp_path / "nowhere")
    with pytest.raises(LedgerError, match=r"assembly-good-seed0\.json is no entry"):
        ledger.read(cell)


def test_an_entry_under_the_name_of_another_is_refused(entry, tmp_path, ledger):
    _, poor = cells_of(fake_table("good", "poor", seeds=(0,)), fake_kind(tmp_path))
    record(entry, poor, ledger)
    with pytest.raises(LedgerError, match=r"assembly-poor-seed0\.json .*it is that of 'assembly-good-seed0'"):
        ledger.read(poor)


def test_what_is_published_is_sound():
    assert len(Ledger(Path(__file__).parents[2] / "results", "evidence", "cpu").all_entries()) >= 60


def start_queue(tmp_path, *methods):
    here = Path(fake_cells.__file__).parent
    arguments = [str(tmp_path), str(tmp_path / "results"), json.dumps(methods)]
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"}
    return subprocess.Popen(
        [sys.executable, str(here / "fake_cells.py"), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # hears Ctrl-C as from a terminal
    )


def wait_until(what):
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def cell_processes(parent):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z" and "spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_queue_leaves_no_orphans_and_goes_on_where_it_was(tmp_path, ledger, with_signal):
    queue = start_queue(tmp_path, "good", "slow")
    wait_until(lambda: "assembly-slow-0" in events(tmp_path, "begin"))
    cells = cell_processes(queue.pid)
    assert cells
    os.kill(queue.pid, with_signal)
    queue.wait(timeout=300)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in cells))
    assert [path.name for path in ledger.directory.glob("*.json")] == ["assembly-good-seed0.json"]
    kind = fake_kind(tmp_path)
    left = waiting_cells(cells_of(fake_table("good", "slow", "poor", seeds=(0,)), kind), ledger)
    assert [cell.arm.name for cell in left] == ["slow", "poor"]
