"""What a command line says and takes."""

import subprocess
import sys

import pytest

from gap_vla import __version__
from gap_vla.cli import COMMANDS, GROUPS, main
from gap_vla.cli.arguments import command_parser
from gap_vla.cli.configured import parse_configured
from gap_vla.cli.training import finetune
from gap_vla.training.octo import FinetuneConfig

FILE = "finetune_configs/threading.py:debug"


def parsed(*words):
    return parse_configured(command_parser(finetune), FinetuneConfig, ["--config", FILE, *words])[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith(f"usage: gap-vla {name}")


def test_the_commands_are_listed_by_purpose(capsys):
    assert main(["--help"]) == 0 and main([]) == 2
    said = capsys.readouterr().out
    assert all(group in said for group in GROUPS) and all(name in said for name in COMMANDS)
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out


def test_the_list_loads_no_framework():
    code = (
        "import sys; from gap_vla.cli import main; main(['--help'])\n"
        "import gap_vla.training.run, gap_vla.training.octo, gap_vla.training.torch\n"
        "print(*{'jax', 'torch', 'tensorflow', 'mujoco'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.strip() == ""


def test_a_script_is_the_command_of_its_name():
    done = subprocess.run([sys.executable, "scripts/show_episode.py", "--help"], capture_output=True, text=True)
    assert done.stdout.startswith("usage: gap-vla show-episode")


def test_help_shows_every_key_with_type_choices_sentence_and_the_files_value(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--config", FILE, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--config.train.steps int Training steps. (default: 6)" in said
    assert "--config.model.head l1 | mse | diffusion Action head. (default: l1)" in said
    assert "--config.method v | vp | vp_slow | vp_gap" in said and "--config.data.fields.state" in said


@pytest.mark.parametrize(
    ("word", "section", "key", "value"),
    [
        ("--config.train.steps=7", "train", "steps", 7),
        ("--config.optimizer.learning_rate=1e-3", "optimizer", "learning_rate", 1e-3),
        ("--config.data.shuffle_images", "data", "shuffle_images", True),
        ("--config.demos.cameras=wrist,primary", "demos", "cameras", ("wrist", "primary")),
        ("--config.optimizer.frozen_keys=()", "optimizer", "frozen_keys", ()),
        ("--config.phases.options.sigma=3", "phases", "options", {"sigma": 3}),
        ("--config.demos.path=12", "demos", "path", "12"),
    ],
)
def test_a_key_is_overridden(word, section, key, value):
    more = ["--config.phases.method=gaussian"] if "sigma" in word else []
    assert getattr(getattr(parsed(word, *more), section), key) == value


def test_fields_are_named_one_by_one():
    config = parsed("--config.data.fields.images.image_primary=agentview_rgb", "--config.data.fields.layout=libero")
    assert config.data.fields.images == {"image_primary": "agentview_rgb"} and config.data.fields.layout == "libero"


def test_options_may_be_written_with_underscores():
    parser = command_parser(finetune)
    parser.add_argument("--image-size", type=int)
    assert parser.parse_args(["--image_size=3"]).image_size == 3
