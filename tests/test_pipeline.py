"""Stages are found again by what made them, and never mixed; a comparison skips what is finished."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from evaluations import finish

from gap_vla.cli.compare import main as compare_command
from gap_vla.core.errors import UserError
from gap_vla.core.locks import InUseError
from gap_vla.core.outputs import OutputError
from gap_vla.core.run_directory import RunDirectory
from gap_vla.core.typed_config import ConfigError
from gap_vla.report.comparison_render import render
from gap_vla.rlds import tfds_builder
from gap_vla.sim import task_spec
from gap_vla.training import comparison, stages
from gap_vla.training.config import DemosConfig, PhasesConfig
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.run import Run, finetune

CONFIG = FinetuneConfig(task="threading")


def changed(**fields) -> stages.Stages:
    return stages.stages_of(dataclasses.replace(CONFIG, **fields))


def test_changed_demonstrations_get_other_demos_datasets_and_stores():
    before, after = stages.stages_of(CONFIG), changed(demos=DemosConfig(action_noise=0.2))
    assert before.demos != after.demos and before.rlds != after.rlds and before.store != after.store


def test_one_folder_read_by_two_readers_gives_two_datasets_and_collected_ones_have_a_reader_of_their_own(tmp_path):
    (tmp_path / "episode_0.npz").touch()
    npz, pickles = (changed(demos=DemosConfig(path=str(tmp_path), kind=kind)) for kind in ("npz", "pickle"))
    assert npz.rlds != pickles.rlds and npz.store != pickles.store
    idle = DemosConfig(kind="npz")
    assert changed(demos=idle) == stages.stages_of(CONFIG) and idle.read_as == "robomimic_hdf5"


def test_other_phases_reuse_the_demonstrations_but_not_the_dataset():
    before, after = stages.stages_of(CONFIG), changed(phases=PhasesConfig(seed=1))
    assert before.demos == after.demos and before.rlds != after.rlds


def test_method_seed_and_model_share_the_data_but_not_the_run():
    other = dataclasses.replace(CONFIG, method="vp")
    assert stages.stages_of(CONFIG) == stages.stages_of(other)
    assert Run(CONFIG).directory.path != Run(other).directory.path


def test_data_that_were_read_with_other_options_of_the_reader_are_not_reused(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "BUILDERS", tmp_path)
    monkeypatch.setattr("gap_vla.rlds.tfds_builder.BUILDERS", tmp_path)
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, root=str(tmp_path / "data")))
    made = stages.stages_of(config)
    file = tmp_path / "threading" / "threading_dataset_builder.py"
    file.parent.mkdir()
    file.write_text(
        "from gap_vla.rlds.tfds_builder import DemosBuilder\n"
        "class Base(DemosBuilder, skip_registration=True):\n    pass\n"
        "class Threading(Base, skip_registration=True):\n    pass\n"
    )
    made.store.mkdir(parents=True)
    monkeypatch.setattr(tfds_builder, "_class_in_folder", tfds_builder._class_in_folder.__wrapped__)
    module = "rlds_builders.threading.threading_dataset_builder"
    monkeypatch.setitem(sys.modules, module, None)  # the one that another test has loaded comes back afterwards
    del sys.modules[module]
    own = tfds_builder._class_in_folder("threading").__mro__[1]

    def reading(options, written):
        monkeypatch.setattr(own, "READER_OPTIONS", options)
        said = {"identity": {"data": {**made.rlds_identity, **({"reader_options": written} if written else {})}}}
        (made.store / "store.json").write_text(json.dumps({"metadata": said}))
        stages.require_own_stages(config, made)

    reading({}, None)
    assert "reader_options" not in Run(config)._made_from()
    reading({"layout": {"gripper": [7, 8]}}, {"layout": {"gripper": [7, 8]}})
    assert Run(config)._made_from()["reader_options"] == {"layout": {"gripper": [7, 8]}}  # which a run compares
    (tmp_path / "data" / "threading" / "1.0.0" / "of others").mkdir(parents=True)  # where no run writes
    for now, then in [({"layout": "a"}, {"layout": "b"}), ({"layout": "a"}, None), ({}, {"layout": "b"})]:
        with pytest.raises(UserError, match=r"was made with other READER_OPTIONS \(.*layout: .* now\); move it away"):
            reading(now, then)
    with monkeypatch.context() as away:
        away.setitem(sys.modules, "tensorflow_datasets", None)
        away.delitem(sys.modules, "gap_vla.rlds.tfds_builder")
        assert stages.reader_options(config, made) is None
    file.unlink()
    with pytest.raises(UserError, match="was made with other READER_OPTIONS"):
        stages.require_own_stages(config, made)


@pytest.mark.parametrize("version", ["labels", "pictures"])
def test_other_code_that_makes_the_data_gets_another_dataset_and_another_run(monkeypatch, version):
    before, run = stages.stages_of(CONFIG), Run(CONFIG).directory.path
    if version == "labels":
        monkeypatch.setattr(stages, "LABELS_VERSION", 99)
    else:
        monkeypatch.setattr(type(task_spec(CONFIG.task)), "pictures_version", 99)
    assert stages.stages_of(CONFIG).rlds != before.rlds
    assert Run(CONFIG).directory.path != run


def test_a_replaced_demonstration_file_is_another_dataset(tmp_path):
    path = tmp_path / "demos.hdf5"
    path.write_bytes(b"one")
    demos = DemosConfig(path=str(path))
    first = changed(demos=demos)
    path.write_bytes(b"another")
    assert first.demos == path and first.rlds != changed(demos=demos).rlds


def test_demonstrations_that_change_after_they_were_named_make_no_dataset(tmp_path):
    path, words = tmp_path / "demos.hdf5", "was changed meanwhile; start again"
    shutil.copy("tests/data/robomimic/lift.hdf5", path)
    data = dataclasses.replace(CONFIG.data, root=str(tmp_path / "data"))
    config = dataclasses.replace(CONFIG, data=data, demos=DemosConfig(path=str(path)), phases=PhasesConfig("none"))
    made = stages.stages_of(config)
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][0] += 0.1
    with pytest.raises(ConfigError, match=words):
        stages.prepare_data(config, made)
    assert not made.rlds.exists()
    made = stages.stages_of(config)
    stages.prepare_data(config, made)
    assert made.rlds.exists()


def test_another_view_is_another_dataset_and_near_is_what_it_always_was():
    near, stock = changed(demos=DemosConfig(camera="near")), changed(demos=DemosConfig(camera="agentview"))
    assert near == stages.stages_of(CONFIG) and "camera" not in near.demos_identity
    assert stock.demos != near.demos and stock.rlds != near.rlds


def test_demonstrations_of_another_view_than_the_configurations_are_refused(tmp_path):
    path = tmp_path / "demos.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_kwargs": {"camera": "agentview"}})
    with pytest.raises(ConfigError, match=r"through the view 'agentview'.*--config\.demos\.camera=agentview"):
        changed(demos=DemosConfig(path=str(path)))
    changed(demos=DemosConfig(path=str(path), camera="agentview"))
    (tmp_path / "dataset_info.json").write_text("{}")
    version = task_spec("threading").pictures_version
    for told, said in (({"pictures_version": version}, "through the view 'frontview'"), ({}, "has pictures_version 1")):
        collected = {"task": "threading", "camera": "frontview", **told}
        made = {"identity": {"data": {"demos": collected}}, "identity_hash": "0"}
        (tmp_path / "metadata.json").write_text(json.dumps(made))
        with pytest.raises(UserError, match=said):
            changed(data=dataclasses.replace(CONFIG.data, rlds=str(tmp_path)))


def test_a_dry_run_of_two_arms_takes_eighteen_numbers_of_state_and_fourteen_of_action():
    from gap_vla.cli.configured import load_config

    config = FinetuneConfig.from_dict(load_config("finetune_configs/handover.py:debug").to_dict())
    lines = Run(config).dry_run()
    assert "observation/proprio float32[8, 1, 18]" in lines and "  action float32[8, 1, 8, 14]" in lines
    assert "observation/image_wrist uint8[8, 1, 64, 64, 3]" in lines


@pytest.mark.parametrize("command", ["finetune", "train_small"])
def test_either_command_dry_runs_the_configuration_of_either_backend(command, capsys, tmp_path):
    from importlib import import_module

    for file, words in (("small_assembly.py:cpu", "policy: gap, "), ("assembly.py:debug", "model: Octo, ")):
        main = import_module(f"gap_vla.cli.{command}").main
        arguments = ["--config", f"finetune_configs/{file}", f"--config.data.root={tmp_path}", "--dry-run"]
        assert main(arguments) == 0
        assert words in capsys.readouterr().out
        assert main([*arguments, "--json"]) == 0
        said = capsys.readouterr()
        assert words in said.err and json.loads(said.out)["run"].startswith("runs/assembly/")
    assert not list(tmp_path.iterdir())


def test_demonstrations_are_collected_with_the_simulators_alone_where_a_run_finds_them(tmp_path):
    from gap_vla.cli.configured import load_config

    absent = ["jax", "flax", "optax", "orbax", "tensorflow", "grain", "torch", "ruptures", "sklearn", "pyarrow"]
    file, overrides = "finetune_configs/assembly.py:debug", [f"--config.data.root={tmp_path}"]
    overrides += ["--config.demos.episodes=2", "--config.eval.workers=1"]
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"  # importing them fails
        "from gap_vla.cli.finetune import main\n"
        f"sys.exit(main({['--config', file, '--collect-only', *overrides]}))\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
    config = load_config(file)
    config.data.root, config.demos.episodes = str(tmp_path), 2
    assert stages.stages_of(FinetuneConfig.from_dict(config.to_dict())).demos.exists()


def test_a_dataset_that_is_there_does_not_keep_its_demonstrations_from_being_collected_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("gap_vla.sim.collect_demos", lambda *given, **_: made.append(given[2]))
    data = dataclasses.replace(CONFIG.data, root=str(tmp_path / "data"))
    run = Run(dataclasses.replace(CONFIG, runs=str(tmp_path / "runs"), data=data))
    monkeypatch.setattr("gap_vla.training.run.require_data", lambda config, stages, collect_only: None)
    run.stages.rlds.mkdir(parents=True)
    run.collect()
    assert made == [run.stages.demos]
    stages.prepare_data(run.config, run.stages)
    assert len(made) == 1, "a run needs the dataset alone"


def test_missing_inputs_are_named():
    with pytest.raises(ConfigError, match=r"demos\.path is '/nowhere', which does not exist"):
        changed(demos=DemosConfig(path="/nowhere"))
    with pytest.raises(ConfigError, match=r"data\.rlds is '/nowhere', which holds no RLDS dataset"):
        changed(data=dataclasses.replace(CONFIG.data, rlds="/nowhere"))


def test_a_run_with_missing_inputs_leaves_no_run_directory(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        runs=str(tmp_path),
        data=dataclasses.replace(CONFIG.data, rlds="/nowhere"),
        eval=dataclasses.replace(CONFIG.eval, episodes=0),
        demos=DemosConfig(path=__file__),
    )
    with pytest.raises(ConfigError, match="holds no RLDS dataset"):
        finetune(config)
    assert not list(tmp_path.iterdir())


def test_a_refusal_while_demonstrations_are_collected_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise UserError("the simulator is not in the mood")

    monkeypatch.setattr("gap_vla.sim.collect_demos", refuse)
    data = dataclasses.replace(CONFIG.data, root=str(tmp_path / "data"))
    run = Run(dataclasses.replace(CONFIG, runs=str(tmp_path / "runs"), data=data))
    for start in (run.to_the_end, run.collect):
        with pytest.raises(UserError, match="not in the mood"):
            start()
        assert not list(tmp_path.iterdir())


@pytest.fixture
def cells(tmp_path, monkeypatch, blank_charts):
    """Runs cells without training; returns the list of those that were run."""
    ran: list[tuple[str, int]] = []

    def fake_cell(config):
        ran.append((config.method, config.train.seed))
        if config.method == "v" and config.train.seed == 1:
            return "DivergedError: the loss is nan"
        run = RunDirectory.claim(Run(config).directory.path, config.to_dict(), resume=True)
        wins = {"v": [0, 0, 1, 0], "vp": [0, 1, 1, 0], "vp_gap": [1, 1, 1, 0]}[config.method]
        finish(run, config, enumerate(wins, 100_000))
        return None

    monkeypatch.setattr(comparison, "_run_in_a_process", fake_cell)
    monkeypatch.setattr(comparison, "prepare_data", lambda config, stages: None)
    return ran


def test_a_comparison_runs_every_cell_once_records_failures_and_goes_on(cells, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, runs=str(tmp_path))
    text, failed, _ = comparison.compare(config, ["v", "vp", "vp_gap"], [0, 1])
    assert len(cells) == 6 and "VP+GAP" in text and failed == ["v, seed 1"]
    out = comparison.comparison_directory(config)
    recorded = json.loads((out / "cells.json").read_text())
    assert len(recorded["finished"]) == 5 and "DivergedError" in recorded["failed"][0]["error"]
    assert "Failed, and in no figure: v, seed 1." in (out / "table.md").read_text() and (out / "table.png").exists()
    comparison.compare(config, ["v", "vp", "vp_gap"], [0, 1])
    assert cells[6:] == [("v", 1)]
    monkeypatch.setattr(comparison, "prepare_data", None)  # of finished cells, nothing is made again
    assert comparison.compare(config, ["vp", "vp_gap"], [0, 1])[1] == []

    def without_page(config):
        run = RunDirectory.claim(Run(config).directory.path, config.to_dict(), resume=True)
        finish(run, config, enumerate([0, 1, 1, 0], 100_000))
        return "OSError: its page found no place"

    monkeypatch.setattr(comparison, "_run_in_a_process", without_page)
    monkeypatch.setattr(comparison, "prepare_data", lambda *_: None)
    assert comparison.compare(config, ["v"], [2])[1] == ["v, seed 2"]
    assert "in no figure" not in (out / "table.md").read_text()  # its rollouts are

    def other_data(summary, config, *_):
        raise ConfigError(f"{config.method} has other data")

    monkeypatch.setattr("gap_vla.training.run.require_data_of", other_data)
    with pytest.raises(ConfigError, match="vp has other data"):
        comparison.compare(config, ["vp", "vp_gap"], [0, 1])
    assert len(cells) == 7


def test_calls_on_one_configuration_write_one_after_the_other_and_each_answers_for_its_own_cells(
    cells, tmp_path, monkeypatch, capsys
):
    def then_another(finished, out, failed):
        found = render(finished, out, failed)
        assert (out / ".lock").exists()
        (out / "table.json").write_text('{"made_by": "gap_vla:comparison", "methods": ["of another call"]}')
        return found

    monkeypatch.setattr("gap_vla.report.comparison_render.render", then_another)
    config = [f"--config={Path(__file__).parents[1] / 'finetune_configs' / 'threading.py'}:debug"]
    config += [f"--config.runs={tmp_path}", "--config.eval.episodes=4", "--methods=v"]
    assert compare_command([*config, "--seeds=0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["methods"][0]["per_seed"] == {"0": 0.25} and answer["title"] == "threading: V"
    assert not list(tmp_path.glob("threading/compare-*/.lock"))


def test_a_comparison_takes_an_episode_store_as_it_is_and_collects_nothing(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "prepare_data", stages.prepare_data)
    monkeypatch.setattr(comparison, "require_ready", lambda *_: None)
    monkeypatch.setattr("gap_vla.sim.collect_demos", None)
    data = dataclasses.replace(CONFIG.data, root=str(tmp_path / "data"))
    config = dataclasses.replace(CONFIG, runs=str(tmp_path), data=data)
    store = stages.stages_of(comparison.cell_config(config, "vp", 0)).store
    store.mkdir(parents=True)
    (store / "store.json").write_text("{}")
    comparison.compare(config, ["vp"], [0])
    assert cells == [("vp", 0)] and f"only its store is here, {store}" in capsys.readouterr().out


def test_a_run_that_another_process_is_at_work_in_is_waited_for_if_asked(tmp_path, capfd):
    config = dataclasses.replace(CONFIG, runs=str(tmp_path))
    run = Run(config).directory
    program = (
        "import sys, time\n"
        "from gap_vla.core.locks import alone\n"
        "with alone(sys.argv[1], 'it'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, run.lock], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(InUseError, match=f"is in use by process {other.pid}"),
            RunDirectory.held(run.path, config.to_dict(), resume=True),
        ):
            pass
        with RunDirectory.held(run.path, config.to_dict(), resume=True, wait=True):
            assert other.poll() is not None or other.wait(5) == 0
    assert f"{run.path} is in use by process {other.pid} on " in (said := capfd.readouterr().out) and "waiting" in said


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "does not end with val/action_mse of step 2000"),
        ("", "does not end with val/action_mse of step 2000"),
        ('{"step": 3, "val/action_mse": NaN}\n', "line 1: val/action_mse is nan; .*; copy the file again"),
        ('{"step": 1, "val/action_mse": 0.5}\n', "does not end with val/action_mse of step 2000"),
    ],
)
def test_a_finished_cell_without_its_measurements_is_refused_before_anything_runs(lines, words, cells, tmp_path):
    config = dataclasses.replace(CONFIG, runs=str(tmp_path))
    comparison.compare(config, ["v"], [0])
    metrics = next(tmp_path.glob("*/v-seed0-*/metrics.jsonl"))
    metrics.unlink() if lines is None else metrics.write_text(lines)
    with pytest.raises(UserError, match=rf"metrics\.jsonl.*{words}"):
        comparison.compare(config, ["v", "vp"], [0])
    assert cells == [("v", 0)]


@pytest.mark.parametrize("name", ["table.md", "table.png", "table.json", "cells.json"])
def test_a_comparison_replaces_no_file_of_somebody_else_and_says_so_first(name, cells, tmp_path):
    config = dataclasses.replace(CONFIG, runs=str(tmp_path))
    out = comparison.comparison_directory(config)
    out.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(OutputError, match=rf"{name} exists without a mark of gap_vla"):
        comparison.compare(config, ["v", "vp"], [0])
    assert (out / name).read_text() == "mine" and not cells


def test_the_command_ends_with_one_and_names_the_runs_that_failed(cells, tmp_path, capsys):
    config = [f"--config={Path(__file__).parents[1] / 'finetune_configs' / 'threading.py'}:debug"]
    config += [f"--config.runs={tmp_path}", "--config.eval.episodes=4", "--methods=v"]
    assert compare_command([*config, "--seeds=0,1"]) == 1
    assert "failed: v, seed 1" in capsys.readouterr().out
    assert compare_command([*config, "--seeds=1"]) == 1
    assert "are of an earlier call; none finished in this one" in capsys.readouterr().out
    assert compare_command([*config, "--seeds=0,1", "--json"]) == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["failed"] == ["v, seed 1"] and answer["methods"][0]["per_seed"] == {"0": 0.25}
    assert "failed: v, seed 1" in said.err


def test_an_unknown_method_stops_a_comparison_before_anything_runs(cells, tmp_path):
    with pytest.raises(ConfigError, match="choose one of v, vp, vp_gap"):
        comparison.compare(dataclasses.replace(CONFIG, runs=str(tmp_path)), ["vp", "mask"], [0])
    with pytest.raises(ConfigError, match="methods vp,concat: two of them are names of one; name each once"):
        comparison.compare(dataclasses.replace(CONFIG, runs=str(tmp_path)), ["vp", "concat"], [0])
    assert not cells


class SlowComparison:
    """A comparison of two cells, in a process of its own, that can be stopped in the middle of the second."""

    def __init__(self, runs):
        self.runs, self.log = runs, runs / "log.txt"
        self.command = [sys.executable, str(Path(__file__).with_name("comparison_of_slow_cells.py")), str(runs)]

    def counted(self) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def stop_in_second_cell(self, stop: signal.Signals) -> tuple[int, int]:
        """Returns the exit status, and the number of the second cell's process."""
        (self.runs / "hold").touch()
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, preexec_fn=_hear_ctrl_c)
        wait_until(lambda: process.poll() is not None or any(line[:2] == ["vp", "10"] for line in self.counted()))
        assert process.poll() is None
        process.send_signal(stop)
        status = process.wait(timeout=300)
        return status, int(next(number for method, _, number in self.counted() if method == "vp"))

    def run_to_the_end(self, runner) -> None:
        (self.runs / "hold").unlink()
        done = runner.run(Path(self.command[1]), self.command[2:], self.runs)
        assert done.status == 0, done.stderr


def wait_until(what) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _hear_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell start deaf to it


@pytest.mark.slow
def test_a_killed_comparison_leaves_no_orphan_and_repeats_no_finished_cell(runner, tmp_path):
    comparison = SlowComparison(tmp_path)
    status, cell = comparison.stop_in_second_cell(signal.SIGKILL)
    assert status == -signal.SIGKILL
    wait_until(lambda: not runs(cell))  # it died with its parent; nobody else ends its waiting
    comparison.run_to_the_end(runner)
    assert [count for method, count, _ in comparison.counted() if method == "v"] == [str(n) for n in range(30)]
    assert len(list(tmp_path.glob("threading/*/summary.json"))) == 2
    assert list(tmp_path.glob("threading/compare-*/table.md"))


def test_ctrl_c_lets_the_running_cell_save_and_the_same_command_goes_on(runner, tmp_path):
    comparison = SlowComparison(tmp_path)
    status, _ = comparison.stop_in_second_cell(signal.SIGINT)
    assert status != 0
    comparison.run_to_the_end(runner)
    assert [count for method, count, _ in comparison.counted() if method == "vp"] == [str(n) for n in range(30)]
    assert len(list(tmp_path.glob("threading/*/summary.json"))) == 2
