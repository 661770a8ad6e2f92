"""The configuration rejects what cannot run, in words, and before anything heavy is imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from experiment_files import profiles
from gap_vla.training.idle_keys import _IDLE, without_effect
from processor_time import run_measured, two_seconds

from gap_vla.cli.configured import config_parser, load_config, run_configured
from gap_vla.cli.finetune import main as finetune_command
from gap_vla.core.identity import flat
from gap_vla.core.typed_config import ConfigError, number_fields
from gap_vla.policies.config import RivalsConfig
from gap_vla.policies.registry import METHODS
from gap_vla.sim import TASK_NAMES
from gap_vla.training.config import experiment
from gap_vla.training.octo import FinetuneConfig
from gap_vla.training.torch import SmallConfig

ROOT = Path(__file__).parent.parent
CIRCLE: dict = {}
CIRCLE["sigma"] = CIRCLE


def test_from_dict_reads_back_what_to_dict_writes():
    config = FinetuneConfig.from_dict({"task": "threading", "model": {"window_size": 2}})
    assert FinetuneConfig.from_dict(config.to_dict()) == config


def test_a_configuration_without_a_task_is_told_so():
    with pytest.raises(ConfigError, match=r"^the configuration does not say task; set it$"):
        FinetuneConfig.from_dict({"method": "vp"})


def test_a_home_folder_that_no_shell_has_replaced_is_one(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    data = {"rlds": "~/d", "mixture": [["~/m", 1.0]]}
    config = FinetuneConfig.from_dict({"task": "threading", "data": data, "model": {"pretrained": "~/octo"}})
    found = config.data.rlds, config.data.mixture, config.model.pretrained
    assert found == ("/home/me/d", (("/home/me/m", 1.0),), "/home/me/octo")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"task": "threadin"}, "did you mean 'threading'"),
        ({"task": "threading", "method": "gradnorm"}, "choose one of v, vp, vp_gap"),
        ({"task": "threading", "rival": {"alpha": 1.0}}, "unknown configuration key rival"),
        ({"task": "threading", "trian": {}}, "did you mean train"),
        ({"task": "threading", "train": {"stepz": 1}}, "did you mean train.steps"),
        ({"task": "threading", "train": {"steps": 0}}, "train.steps is 0; it must be a whole number from 1 to"),
        ({"task": "threading", "train": {"steps": 1.5}}, "must be int"),
        ({"task": "threading", "train": {"steps": True}}, "must be int"),
        ({"task": "threading", "train": 3}, "must be a section"),
        ({"task": "threading", "demos": {"cameras": "primary"}}, "must be a sequence"),
        ({"task": "threading", "demos": {"cameras": {"primary", "wrist"}}}, "must be a sequence"),
        ({"task": "threading", "demos": {"image_size": 60}}, "must be a multiple of 8"),
        ({"task": "threading", "data": {"val_fraction": 1.0}}, r"data.val_fraction is 1.0; .* to 0.9 \(both splits"),
        ({"task": "threading", "data": {"mixture": ["a", 1.0]}}, r"data.mixture\[0\] is 'a'; it must be a sequence"),
        (
            {"task": "threading", "data": {"augment": {"primary": {"crop_scale": [0.5]}}}},
            r"crop_scale is .*; it must have 2 entries$",
        ),
        ({"task": "threading", "data": {"mixture": [["a"]]}}, r"data.mixture\[0\] is \('a',\); it must have 2 entries"),
        (
            {"task": "threading", "data": {"mixture": [[3, 1.0]]}},
            r"data.mixture\[0\]\[0\] is 3 \(int\); it must be str",
        ),
        ({"task": "threading", "data": {"mixture": [["a", 0.0]]}}, r"data.mixture is .*; each must be .* from 0.001"),
        ({"task": "threading", "data": {"mixture": [["a", 1]], "shuffle_images": True}}, "of one dataset; leave"),
        ({"task": "threading", "adjustment": {"mode": "sampel"}}, "sample_lambda"),
        ({"task": "threading", "adjustment": {"lam": 1.5}}, "adjustment.lam is 1.5; it must be a number from 0 to 1"),
        ({"task": "threading", "model": {"num_heads": 3}}, "divisible"),
        ({"task": "threading", "eval": {"execute": 99}}, "action_horizon"),
        ({"task": "threading", "phases": {"method": "lstn"}}, "did you mean 'lstm'"),
        ({"task": "threading", "eval": {"variant": "lihgt"}}, "did you mean 'light'"),
        ({"task": "threading", "demos": {"camera": "agentveiw"}}, "did you mean 'agentview'"),
        ({"task": "assembly", "demos": {"camera": "agentview"}}, "choose one of near, topview"),
        ({"task": "threading", "data": {"augment": {"cameras": ["wrist"]}}}, "names 'wrist', but demos.cameras is"),
        ({"task": "threading", "data": {"augment": {"cameras": ["left"]}}}, "choose one of primary, wrist"),
        ({"task": "threading", "data": {"augment": {"cameras": 2 * ["primary"]}}}, "cameras is .*; name each once"),
        ({"task": "threading", "optimizer": {"frozen_keys": ["a", "b", "a"]}}, "frozen_keys is .*; name each once"),
        ({"task": "threading", "data": {"augment": {"primary": {"contrast": [2.0, 1.0]}}}}, "smaller one comes first"),
        ({"task": "threading", "model": {"stem_patch": 12}}, "one token of 48 × 48 pixels"),
        ({"task": "threading", "data": {"root": "a\0b"}}, "data.root is 'a.x00b'; no name or path holds a null"),
        (
            {"task": "threading", "phases": {"options": CIRCLE}},
            "must be a section with values that JSON can",
        ),
        ({"task": "threading", "phases": {"options": 5}}, "phases.options must be a section"),
        ({"task": "threading", "train": {"steps": 10**5000}}, "train.steps is a number of 16610 bits; it must be"),
        ({}, "task"),
    ],
)
def test_wrong_configurations_are_refused_in_words(values, words):
    with pytest.raises(ConfigError, match=words):
        FinetuneConfig.from_dict(values)


def test_small_policies_take_no_mixture():
    with pytest.raises(ConfigError, match=r"data\.mixture is for `gap-vla finetune`"):
        SmallConfig.from_dict({"task": "threading", "data": {"mixture": [["a", 0.5]]}})


def test_a_mixture_is_part_of_a_configuration_only_where_there_is_one():
    alone = FinetuneConfig.from_dict({"task": "threading"})
    mixed = FinetuneConfig.from_dict({"task": "threading", "data": {"mixture": [["a", 1], ["b", 0.5]]}})
    assert "mixture" not in alone.to_dict()["data"]
    assert mixed.data.mixture == (("a", 1.0), ("b", 0.5)) and FinetuneConfig.from_dict(mixed.to_dict()) == mixed


def test_a_configuration_recorded_with_an_empty_rival_is_read_and_written_as_it_was():
    recorded = FinetuneConfig(task="threading").to_dict()
    assert recorded["rival"] == {} and FinetuneConfig.from_dict(recorded).to_dict() == recorded


@pytest.mark.parametrize(("octo", "small"), [("v", "vision"), ("vp", "concat"), ("vp_gap", "gap")])
def test_a_method_is_understood_by_both_of_its_names_and_recorded_by_the_backends_own(octo, small):
    for name in (octo, small):
        for config, own in ((FinetuneConfig, octo), (SmallConfig, small)):
            assert config.from_dict({"task": "threading", "method": name}).to_dict()["method"] == own


def test_only_vp_gap_adjusts_gradients_and_only_v_is_blind_to_proprio():
    modes = {m: FinetuneConfig(task="threading", method=m) for m in ("v", "vp", "vp_gap")}
    assert [modes[m].schedule.mode for m in modes] == ["none", "none", "sample"]
    assert [modes[m].uses_proprio for m in modes] == [False, True, True]


def test_an_experiment_applies_defaults_then_changes_then_profile():
    profiles = {"default": {}, "short": {"train": {"steps": 2}}}
    config = experiment(
        FinetuneConfig, "threading", [{"train": {"steps": 9}}, {"train": {"batch_size": 4}}], profiles, "short"
    )
    assert (config.train.steps, config.train.batch_size, config.train.seed) == (2, 4, 0)
    with pytest.raises(ConfigError, match="did you mean steps"):
        experiment(FinetuneConfig, "threading", [{"train": {"step": 9}}], profiles, "default")


@pytest.mark.parametrize(("name", "profile"), [pair for pair in profiles() if not pair[0].startswith("small_")])
def test_every_experiment_file_and_profile_is_valid(name, profile):
    from gap_vla.cli.configured import load_config

    FinetuneConfig.from_dict(load_config(f"{ROOT}/finetune_configs/{name}.py:{profile}").to_dict())


def test_every_task_has_an_experiment_file_of_its_own():
    from gap_vla.cli.configured import load_config

    octo = [ROOT / "finetune_configs" / f"{task}.py" for task in TASK_NAMES]
    assert {name for name, _ in profiles() if not name.startswith("small_")} == set(TASK_NAMES)
    for path in octo:
        config = FinetuneConfig.from_dict(load_config(str(path)).to_dict())
        assert (config.task, config.demos.cameras) == (path.stem, config.data.augment.cameras)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": 3}, "train is 3; give keys and their values"),
        ({"train": {"steps": {"many": 9}}}, "train.steps is one value, not a section"),
        ("train", "a change is 'train'; give keys and their values"),
    ],
)
def test_changes_of_another_form_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        experiment(FinetuneConfig, "threading", [change], {"short": {}}, "short")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model.depth=1"], "unknown configuration key model.depth (known here: "),
        (["--config.task.name=x"], "task is no section"),
        (["--config.phases.options.sigma"], "--config.phases.options.sigma needs a value: --config.phases.options"),
        (["--config.phases.options.sigma="], "--config.phases.options.sigma needs a value: --config.phases.options"),
        (["--config.train.steps", "7"], "--config.train.steps needs a value: --config.train.steps=VALUE"),
        (["--config.demos.path="], "--config.demos.path is given an empty value; leave it out"),
        (["--config.method=gradnorm"], "choose one of v, vp, vp_gap"),
        (["--config.task=sewing"], "task 'sewing' is unknown"),
        (["--config.demos.camera=corner"], "choose one of near, frontview"),
        (["--config.train.steps=1" + 400 * "0"], "it must be a whole number from 1 to"),
        (["--config.train.steps=-1"], "train.steps is -1; it must be a whole number from 1 to"),
        (["--config.train.steps=1_0"], "train.steps is '1_0'; write numbers with the digits 0 to 9"),
        (["--config.train.steps=1.5"], "--config.train.steps=1.5: must be a whole number, not '1.5'"),
        (["--config.optimizer.learning_rate=x"], "learning_rate=x: must be a number, not 'x'"),
        (["--stepz=1"], "unknown option --stepz"),
        (["--undefok=stepz", "--stepz=1"], "unknown option --undefok"),
    ],
)
def test_the_command_refuses_wrong_settings(arguments, words, capsys):
    assert finetune_command(["--config", f"{ROOT}/finetune_configs/threading.py", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


@pytest.mark.parametrize("key", ["train.batch_size=8", "eval.variants=('light',)", "phases.options.penalty=3"])
def test_keys_that_a_file_does_not_set_are_overridden_too(key, tmp_path):
    lines = ["from ml_collections import ConfigDict", "def get_config():"]
    values = "'task': 'threading', 'method': 'gap', 'train': {'steps': 10}, 'model': {'encoder': 'small'}"
    (tmp_path / "short.py").write_text("\n".join([*lines, f"    return ConfigDict({{{values}}})"]))
    command = ["--config", f"{tmp_path}/short.py"]
    before, after = (
        run_configured(lambda config, options: config, config_parser("", SmallConfig), [*command, *more])
        for more in ((), (f"--config.{key}",))
    )
    assert before == SmallConfig.from_dict(load_config(command[1]).to_dict())
    told = dict(flat(before.to_dict()))
    changed = [name for name, value in flat(after.to_dict()) if value != told.get(name)]
    assert changed == [key.partition("=")[0]]


def test_the_command_refuses_a_wrong_setting_within_two_seconds():
    command = [sys.executable, "scripts/finetune.py", "--config", "finetune_configs/threading.py"]
    result, seconds = run_measured([*command, "--config.train.stepz=1"])
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "unknown configuration key train.stepz; did you mean train.steps?" in result.stderr
    assert seconds < two_seconds()


def octo_or_small(*words):
    file = f"{ROOT}/finetune_configs/{'small_' if words[0] == 'small' else ''}assembly.py"
    given = [f"--config.{word}" for word in words[1:]]
    return run_configured(lambda config, options: config, config_parser(""), ["--config", file, *given])


IDLE = {
    "octo data.rlds=d demos.seed=1": "with data.rlds",
    "octo data.rlds=d demos.path=e": "with data.rlds",
    "octo data.rlds=d phases.method=gaussian": "with data.rlds",
    "octo data.rlds=d phases.options.penalty=3": "with data.rlds",
    "small method=gap_gaussian data.rlds=d phases.method=gaussian": "with data.rlds",
    "small method=gap_gaussian data.rlds=d phases.seed=0": (
        "with data.rlds and method gap_gaussian, which draws nothing"
    ),
    "octo demos.path=d demos.episodes=9": "with demos.path",
    "octo demos.kind=npz": "without demos.path",
    "octo data.augment.cameras=() data.augment.wrist.hue=0.1": "unless data.augment.cameras names it",
    "octo model.pretrained=d model.num_layers=2": "with model.pretrained",
    "octo model.pretrained=d model.token_embedding_size=64": "with model.pretrained",
    "octo method=v model.proprio_tokens=2": "with method v",
    "octo method=v adjustment.lam=0.3": "with method v and adjustment.mode sample",
    "octo adjustment.fixed_rho=0.3": "with method vp_gap and adjustment.mode sample",
    "octo adjustment.mode=fixed adjustment.rho=step": "with method vp_gap and adjustment.mode fixed",
    "octo eval.ensemble=True eval.execute=2": "with eval.ensemble",
    "octo eval.episodes=0 eval.variant=light": "without eval.episodes",
    "small train.epochs=2 train.steps=9": "with train.epochs",
    "small method=gap_watched adjustment.lam=0.3": "with method gap_watched and adjustment.mode sample",
    "small method=gap_watched adjustment.window=0.9": "with method gap_watched and adjustment.mode sample",
    "small method=lambda_only adjustment.fixed_rho=0.3": "with method lambda_only and adjustment.mode sample",
    "small method=concat adjustment.mode=fixed": "with method concat and adjustment.mode fixed",
    "small method=gap adjustment.window=0 adjustment.lam=0.2": "with adjustment.window 0",
    "octo adjustment.window=0 adjustment.rho=step": "with adjustment.window 0",
    "octo adjustment.rho=step": "with one step of state in a sample",
    "small method=gap model.proprio_history=1 adjustment.rho=step": "with one step of state in a sample",
    "small method=fixed_rho adjustment.window=0 adjustment.fixed_rho=0.9": "with adjustment.window 0",
    "small method=keyframe rivals.keyframe_weight=1 rivals.keyframe_radius=3": "with rivals.keyframe_weight 1",
    "small rivals.noise=0.3": "with method gap",
    "small method=mask rivals.dropout=0.3": "with method mask",
    "small model.temporal_heads=2": "without model.temporal",
    "small model.phases=2": "without phase_gate",
    "small model.encoder=resnet18 model.encoder_width=8": "unless model.encoder is small",
    "small method=vision model.proprio_layers=2": "with method vision",
    "small method=vision model.proprio_history=3": "with method vision and no model.temporal",
    "small method=proprio model.encoder_width=8": "with method proprio",
    "small method=proprio train.precision=float32": "with method proprio",
    "small method=proprio data.shuffle_images=True": "with method proprio",
    "small method=proprio data.augment.cameras=('primary',)": "with method proprio",
    "small method=proprio model.image_history=2": "with method proprio and no model.temporal",
    "octo demos.path=d eval.episodes=0 eval.workers=2": "without eval.episodes and demonstrations to collect",
    "octo method=v phases.method=none phases.seed=0": "with phases.method none, which draws nothing",
    "octo phases.method=gaussian phases.seed=0": "with phases.method gaussian, which draws nothing",
    "small method=vision model.fusion=concat": "with method vision",
    "small method=msbot model.fusion=phase_gate": "with method msbot",
    "small demos.cameras=('wrist',) demos.camera=corner": "unless demos.cameras names primary, whose view it is",
}


@pytest.mark.parametrize(("line", "why"), IDLE.items())
def test_a_key_that_is_given_in_vain_is_refused_on_the_command_line_and_allowed_in_a_file(line, why):
    with pytest.raises(ConfigError, match=rf"has no effect {re.escape(why)}; leave it out$"):
        octo_or_small(*line.split())
    assert octo_or_small(*line.split()[:-1])


@pytest.mark.parametrize(
    "line",
    [
        "octo model.window_size=2 adjustment.lam=0.2 adjustment.window=0.4 adjustment.rho=step adjustment.mode=batch",
        "octo adjustment.mode=fixed adjustment.fixed_rho=0.2 adjustment.lam=0.1",
        "octo adjustment.mode=none",
        "octo adjustment.window=0",
        "small method=keyframe rivals.keyframe_weight=2 rivals.keyframe_radius=3",
        "octo data.augment.primary.hue=0.1 eval.seed=3 eval.videos=1 eval.execute=2 model.proprio_tokens=1",
        "octo demos.path=d demos.kind=npz",
        "octo model.pretrained=d model.proprio_tokens=1 model.token_embedding_size=64",
        "octo eval.episodes=0 eval.workers=2",
        "small demos.cameras=('wrist',) data.rlds=d demos.camera=corner",
        "small method=proprio demos.camera=corner",
        "small method=gap_gaussian data.rlds=d phases.method=gaussian phases.options.sigma=3",
        "small method=gap_hdbscan data.rlds=d phases.method=hdbscan phases.options.rho=lstm phases.seed=0",
        "small method=fixed_rho adjustment.fixed_rho=0.2 adjustment.lam=0.2",
        "small method=dropout_noise rivals.dropout=0.1 rivals.noise=0.2",
        "small method=ogm_ge rivals.ogm_alpha=0.1",
        "small method=msbot model.phases=9 rivals.msbot_weight=0.2",
        "small method=gap_watched adjustment.rho=current",
        "small model.encoder_width=8 train.steps=9 eval.episodes=0 eval.execute=2",
    ],
)
def test_a_key_that_has_an_effect_is_taken(line):
    octo_or_small(*line.split())


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "proprio", "demos": {"cameras": ("wrist",)}, "data": {"augment": {"cameras": ("primary",)}}},
        {"method": "proprio", "demos": {"image_size": 32}, "model": {"encoder": "resnet18"}},
        {"method": "vision", "model": {"fusion": "film"}},
        {"method": "msbot", "model": {"fusion": "film", "phases": 64}},
        {"eval": {"ensemble": True, "execute": 4}, "model": {"action_horizon": 2}},
    ],
)
def test_what_a_file_says_for_other_methods_is_passed_over(changes):
    SmallConfig.from_dict({"task": "threading", "method": "gap", **changes}).require_ready()


def test_every_key_without_an_effect_is_one_that_there_is():
    configs = SmallConfig("threading", "concat"), FinetuneConfig("threading", "vp")
    keys = [key for config in configs for key, _ in flat(config.to_dict())]
    keys += ["data.augment.primary.crop", "phases.options.sigma"]
    for pattern, _, _ in _IDLE:
        assert any(re.fullmatch(pattern, key) for key in keys), pattern


def test_every_setting_of_a_rival_method_has_an_effect_with_one_of_the_methods_alone():
    for key in number_fields(RivalsConfig):
        heard = [m for m in METHODS if not without_effect(SmallConfig("threading", m), f"rivals.{key}")]
        assert len(heard) == 1, (key, heard)


def test_demonstrations_alone_are_no_run_that_could_have_a_name(capsys):
    assert (
        finetune_command(
            ["--config", f"{ROOT}/finetune_configs/assembly.py:debug", "--collect-only", "--run-name", "x"]
        )
        == 2
    )
    assert capsys.readouterr().err.startswith("error: --run-name has no effect with --collect-only, which makes no run")


@pytest.mark.parametrize("key", ["train", "data.augment.primary", "eval"])
def test_a_section_is_not_replaced_whole(key):
    with pytest.raises(ConfigError, match=f"^{key} is a section; set its keys one by one: "):
        octo_or_small("octo", f"{key}={{'seed':5}}")


def test_options_of_the_phase_method_are_taken_from_the_command_line():
    from gap_vla.cli.configured import take_options

    rest, options = take_options(["x", "--config.phases.options.rho=hard", "--config.phases.options.sigma=2.5"])
    assert (rest, options) == (["x"], {"rho": "hard", "sigma": 2.5})
    assert take_options(["--config.phases.options.sigma={[1]:2}"])[1] == {"sigma": "{[1]:2}"}
    words = ["phases.options.penalty=2.5", "train.steps=7", "runs=a folder"]
    config = octo_or_small("octo", *words)
    assert (config.phases.options, config.train.steps, config.runs) == ({"penalty": 2.5}, 7, "a folder")


def test_a_configuration_file_in_another_encoding_than_it_says_is_refused(tmp_path, capsys):
    file = tmp_path / "own.py"
    text = (ROOT / "finetune_configs" / "small_assembly.py").read_text() + "\n# für den großen Tisch\n"
    file.write_text("# coding: cp1252\n" + text, encoding="cp1252")
    assert load_config(f"{file}:debug").task == "assembly"
    file.write_text(text, encoding="cp1252")
    with pytest.raises(ConfigError, match=r"own\.py.*: UnicodeDecodeError: .* can't decode byte 0x"):
        load_config(f"{file}:debug")


def test_a_configuration_file_runs_once(tmp_path):
    from gap_vla.cli.configured import config_parser, run_configured

    file, log = tmp_path / "c.py", tmp_path / "log"
    counted = f"\nwith open({str(log)!r}, 'a') as stream:\n    stream.write('x')\n"
    file.write_text((ROOT / "finetune_configs" / "threading.py").read_text() + counted)
    run_configured(lambda config, options: None, config_parser(""), ["--config", str(file), "--config.train.steps=7"])
    assert log.read_text() == "x"
    assert not (tmp_path / "__pycache__").exists(), "nothing is left beside somebody's file"


def test_a_configuration_file_is_python_in_whatever_folder_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    own = "import dataclasses\n@dataclasses.dataclass\nclass Mine:\n    seeds: list[int]\n"
    text = (ROOT / "finetune_configs" / "small_assembly.py").read_text()
    for name in ("threading.py", "c:d.py"):
        (tmp_path / "a:b" / name).write_text("from __future__ import annotations\n" + own + text)
        for path in (f"a:b/{name}", f"./a:b/../a:b/{name}:debug"):
            assert load_config(path).task == "assembly"


def test_a_configuration_that_holds_itself_is_refused(tmp_path):
    (tmp_path / "c.py").write_text(
        (ROOT / "finetune_configs" / "small_assembly.py").read_text()
        + "\nplain = get_config\ndef get_config(profile='debug'):\n    config, own = plain(profile), {}\n"
        "    own['own'] = own\n    config.phases.options = {'own': own}\n    return config\n"
    )
    with pytest.raises(ConfigError, match=r"c\.py: the configuration holds itself, or is nested too deeply"):
        load_config(str(tmp_path / "c.py"))


def test_what_a_configuration_and_its_children_print_is_no_part_of_an_answer(runner, tmp_path):
    (tmp_path / "c.py").write_text(
        "import os\nprint('mine')\nos.system('echo a child')\n"
        + (ROOT / "finetune_configs" / "small_assembly.py").read_text()
    )
    words = ["--config", "c.py:debug", "--json", "--dry-run"]
    done = runner.run("train_small", [*words, f"--config.runs={tmp_path}/runs", "--config.data.root=data"], tmp_path)
    assert done.status == 0 and "mine" in done.stderr and "a child" in done.stderr
    assert json.loads(done.stdout)["run"].startswith(f"{tmp_path}/runs/assembly/")


def test_a_wrong_setting_is_found_before_jax_tensorflow_or_mujoco_load():
    code = (
        "import sys; from gap_vla.cli.finetune import main\n"
        "assert main(['--config', 'finetune_configs/threading.py', '--config.method=gpa']) == 2\n"
        "heavy = {'jax', 'tensorflow', 'mujoco', 'torch', 'robosuite'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is a folder, no regular file"),
        (os.mkfifo, "is a pipe or a device, no regular file"),
        (lambda path: None, "does not exist"),
    ],
)
def test_what_is_no_configuration_file_is_called_what_it_is(make, words, tmp_path):
    make(tmp_path / "c.py")
    with pytest.raises(ConfigError, match=rf"c\.py'? {words}"):
        load_config(str(tmp_path / "c.py"))


def test_a_file_does_not_allow_bfloat16_in_products_of_a_torch_before_2_9(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr("gap_vla.core.resources.products", lambda torch: [])
    path = tmp_path / "c.py"
    path.write_text("import torch\ntorch.set_float32_matmul_precision('medium')\ndef get_config(profile=''): ...\n")
    torch.set_float32_matmul_precision("highest")
    try:
        with pytest.raises(ConfigError, match=r"c.py changes torch's precision for all that follows"):
            load_config(str(path))
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ("import torch\ntorch.set_default_dtype(torch.float64)\n", "torch's default type"),
        ("import torch\ntorch.set_default_device('meta')\n", "torch's default device"),
        ("import torch\ntorch.set_default_device('cuda')\n", "torch's default device"),
        ("import torch\ntorch.set_grad_enabled(False)\n", "torch's gradients"),
        ("import torch\ntorch.set_autocast_enabled('cpu', True)\n", "torch's automatic casts"),
        ("import torch\ntorch.set_float32_matmul_precision('medium')\n", "torch's precision"),
        ("import jax\njax.config.update('jax_enable_x64', True)\n", "JAX's jax_enable_x64 to True"),
        ("import jax\njax.config.update('jax_disable_jit', True)\n", "JAX's jax_disable_jit to True"),
    ],
)
def test_a_file_does_not_change_what_is_trained_in(changed, what, tmp_path):
    import jax
    import torch

    path = tmp_path / "c.py"
    path.write_text(changed + "def get_config(profile=''):\n    return None\n")
    precision = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", "highest")  # by somebody who loads it
    load_config(str(ROOT / "finetune_configs" / "assembly.py"))
    try:
        with pytest.raises(ConfigError, match=f"c.py changes {what} for all that follows; leave it as it is"):
            load_config(str(path))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.set_autocast_enabled("cpu", False)
        torch.set_float32_matmul_precision("highest")
        jax.config.update("jax_enable_x64", False)
        jax.config.update("jax_disable_jit", False)
        jax.config.update("jax_default_matmul_precision", precision)


def test_a_file_does_not_change_where_everything_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.py").write_text("import os\nos.chdir('/')\ndef get_config(profile=''):\n    return None\n")
    with pytest.raises(ConfigError, match=r"c\.py changes the folder in which all that follows is looked for"):
        load_config("c.py")
