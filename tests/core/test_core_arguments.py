"""Typos, numbers that cannot be and options without effect end a command before it does anything."""

import argparse
import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts_under_test import COMMANDS, call, load

from gap_vla.cli.arguments import Cameras, Pairs, command_parser, json_or_name, real, whole

CHECKPOINT = "evaluate --checkpoint d"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("collect_demos --task stack --out x.hdf5 --seed 2**70", "it must be a whole number from 0 to 2147483647"),
        (f"collect_demos --task stack --out x.hdf5 --seed {2**70}", "from 0 to 2147483647"),
        ("collect_demos --task stack --out x.hdf5 --episodes -1", "from 1 to 100000"),
        ("collect_demos --task stack --out x.hdf5 --workers 1000000000", "from 1 to 256"),
        ("collect_demos --task stack --out x.hdf5 --image-size 50000", "from 16 to 1024"),
        ("collect_demos --task stack --out x.hdf5 --action-noise nan", "from 0 to 1"),
        ("collect_demos --task stack --out x.hdf5 --cameras none --image-size 84", "no effect without cameras"),
        ("collect_demos --task stack --out x.mp4", "must end in .hdf5 or .h5"),
        (f"{CHECKPOINT} --image-size 0", "from 16 to 1024"),
        (f"{CHECKPOINT} --execute 0", "from 1 to 256"),
        (f"{CHECKPOINT} --horizon -5", "from 1 to 100000"),
        (f"{CHECKPOINT} --horizon 0", "from 1 to 100000"),
        (f"{CHECKPOINT} --policy-limit 0", "from 0.01 to 86400"),
        (f"{CHECKPOINT} --split train", "--split has no effect without --rlds"),
        (f"{CHECKPOINT} --rlds d --horizon 9", "--horizon has no effect with --rlds"),
        (f"{CHECKPOINT} --keys k.json", "--keys has no effect without a server"),
        ("evaluate --policy http://here:80 --task stack --keys k.json", "of a server begins with ws:// or wss://"),
        ("evaluate --policy random --task stack --patience 3", "--patience has no effect without a server"),
        (f"{CHECKPOINT} --execute 2 --ensemble", "--ensemble: not allowed with argument --execute"),
        (f"{CHECKPOINT} --other-view", "--other-view has no effect without --camera"),
        ("evaluate --policy expert --task stack --cameras --videos 2", "--videos has no effect without cameras"),
        (
            "evaluate --policy expert --task stack --image-size 64 --cameras",
            "--image-size has no effect without cameras",
        ),
        (f"{CHECKPOINT} --cameras wrist --camera near", "--camera has no effect without the primary camera"),
        ("serve_policy --checkpoint d --whole-chunks --execute 2", "not allowed with argument --whole-chunks"),
        ("collect_demos --task stack --out x.hdf5 --cameras wrist --camera side", "without the primary camera"),
        ("compare --config c.py --config.train.seed=5", "--config.train.seed=5 has no effect here"),
        ("finetune --config c.py --dry-run --resume", "--resume: not allowed with argument --dry-run"),
        ("build_dataset d.hdf5 --name x --method none --fit-episodes 3", "has no effect with --method none"),
        (
            "build_dataset d.hdf5 --name x --method none --beam --workers 2",
            "has no effect with --beam, whose runner has",
        ),
        (
            "annotate d.hdf5 --out x.hdf5 --method gaussian --seed 0",
            "--seed has no effect with --method gaussian",
        ),
        (
            "build_dataset d.hdf5 --name x --method fixed --seed 0",
            "--seed has no effect with --method fixed",
        ),
        ("compare --config c.py -config.method=v", "-config.method=v has no effect here"),
        ("compare --config c.py --config.train.seed 3", "--config.train.seed has no effect here"),
        ("evaluate --policy expert --task stack --step 3", "--step has no effect without --checkpoint"),
        ("diagnose --policy expert --task stack", "argument --policy: expert looks at nothing"),
        ("diagnose --checkpoint d --interventions images_black", "no effect without --closed-loop"),
        ("serve_policy --checkpoint d --port 99999", "from 0 to 65535"),
        ("serve_policy --checkpoint d --port -1", "from 0 to 65535"),
        (
            "serve_policy --checkpoint d --origin x.org/page",
            "'x.org/page' is no place of web pages; give SCHEME://HOST",
        ),
        ("show_episode d.hdf5 --fps 0 --out x.mp4", "from 0.1 to 1000"),
        ("show_episode d.hdf5 --fps 10", "--fps has no effect unless --out is a video"),
        ("show_episode d.hdf5 --out x.txt", "must end in .html or .mp4 or .png"),
        ("show_episode d.hdf5 --split val", "--split has no effect on files that are no RLDS dataset"),
        ("annotate d.hdf5 --out x.hdf5 --layout nope", "unknown layout 'nope'"),
        ("annotate d.hdf5 --out x.hdf5 --seed 1_0", "1_0 is refused; it must be a whole number from 0 to"),
        ("show_episode d.hdf5 --out x.mp4 --fps ２０", "２０ is refused; it must be a number from 0.1 to"),
        ("phase_benchmark --tasks assembly assembly", "argument --tasks: assembly assembly; name each once"),
        ("report a b a", "argument RUN: a b a; name each once"),
        ("annotate d.hdf5 --out x.hdf5 --seed 1 --seed 2", "argument --seed: it is given twice"),
        ("evaluate --policy random --task assembly --image_size 64 --image-size 32", "--image-size: it is given twice"),
        ("annotate d.hdf5 --out x.hdf5 --option a=1 --option a=2", "argument --option: a is given twice"),
        ("build_dataset d.hdf5 --name x --reader a=1 --reader a=1", "argument --reader: a is given twice"),
        ('build_dataset d.hdf5 --name x --reader a={"b":1,"b":2}', "'b' is given twice"),
        ('annotate d.hdf5 --out x.hdf5 --layout {"b":1,"b":2}', "'b' is given twice"),
        ("annotate d.hdf5 --out x.hdf5 --show 5", "--show has no effect without --report"),
        ("annotate d.hdf5 --out x.hdf5 --annotator a --seed 3", "--seed has no effect with --annotator"),
        ("annotate d.hdf5 --out x.hdf5 --option sigma", "is not KEY=VALUE"),
        (
            "build_dataset d.hdf5 --name x --reader language_instruction=",
            "language_instruction: an empty text is no value",
        ),
        (
            r'build_dataset d.hdf5 --name x --reader language_instruction="\t"',
            "an empty text is no value; leave it out",
        ),
        ('annotate d.hdf5 --out x.hdf5 --option sigma=""', "argument --option: sigma: an empty text is no value"),
        ("annotate d.hdf5 --out x.npz", "must end in .hdf5 or .h5"),
        ("annotate d.hdf5 --out x.hdf5 --report x.pdf", "must end in .html"),
        ("annotate d.hdf5 --out x.hdf5 --over", "unrecognized arguments: --over"),
        ("build_dataset d.hdf5 --name x --val-fraction 2", "from 0 to 0.9"),
        ("build_dataset d.hdf5 --name x --dry-run --overwrite", "--overwrite has no effect with --dry-run"),
        ("annotate d.hdf5 --out x.hdf5 --annotator a --method lstm", "--method has no effect with --annotator"),
        ("annotate d.hdf5 --out=", "argument --out: an empty text is no value"),
        ("show_episode d.hdf5 --camera=", "argument --camera: an empty text is no value"),
        ("evaluate --policy random --task assembly --cameras wrist wrist", "wrist wrist; name each once"),
        ("evaluate --policy random --task assembly --split val", "--split has no effect without --rlds"),
        ("annotate d.hdf5 --out x.hdf5 --annotator a --seed=0", "--seed has no effect with --annotator"),
        ("evaluate --policy random --task assembly --seed 1" + 400 * "0", "from 0 to 2147383647"),
        ("reproduce --table evidence --tasks ,", "argument --tasks: ','; give names separated by single commas"),
        ("collect_demos --task threading --episodes 1 --out .", "must end in .hdf5 or .h5"),
        ("report d --probe --takeover e", "unrecognized arguments: --probe"),
        ("look d --episodes 9", "--episodes has no effect without --takeover"),
        ("reproduce --table evidence --jobs 0", "from 1 to 256"),
        ("reproduce --table evidence --render --retry", "--retry has no effect with --render"),
        ("reproduce --render --seeds 0", "--seeds has no effect without --table"),
        ("reproduce --table evidence --look probe --jobs 2", "--jobs has no effect with --look"),
        ("reproduce --table evidence --dry-run --budget 5m", "--budget has no effect with --dry-run"),
        ("diagnose --checkpoint d --closed-loop 5001", "5001 is refused; it must be a whole number from 0 to 5000"),
        ("serve_policy --checkpoint d --origin http://x.org:80", "'http://x.org:80' is http://x.org as browsers say"),
        ("serve_policy --checkpoint d --origin https://X.org:8443", "is https://x.org:8443 as browsers say it"),
        ("serve_policy --checkpoint d --origin http://x.org?a", "is no place of web pages"),
        ("serve_policy --checkpoint d --origin http://x.org:70000", "is no place of web pages"),
        ("serve_policy --checkpoint d --origin http://*:3000", "is no place of web pages"),
        ("serve_policy --checkpoint d --origin http://x.org:03000", "is no place of web pages"),
        ("serve_policy --checkpoint d --origin http://127.1:3000", "is no place of web pages"),
        ("serve_policy --checkpoint d --origin http://[0:0:0:0:0:0:0:1]:3000", "is no place of web pages"),
        ("serve_policy --checkpoint d --origin http://roböter.lan", "is no place of web pages"),
        ("serve_policy --checkpoint d --origin file://localhost", "is no place of web pages"),
        ("look d --workers 2", "--workers has no effect where nothing is simulated"),
        ("phase_benchmark --stages rho --sets x", "--sets has no effect without the stage untouched"),
        ("build_dataset d.hdf5 --name x --dry-run --version 2.0.0", "--version has no effect with --dry-run"),
        ("annotate d.hdf5 --out x.hdf5 --report x.hdf5.annotator/r.html", "r.html lies in x.hdf5.annotator, which is"),
    ],
)
def test_it_is_refused_with_the_reason(line, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "d.hdf5").touch()
    monkeypatch.chdir(tmp_path)
    assert call(*line.split()) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("error: ") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d.hdf5"]


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_a_number_without_bounds(name):
    text = Path(load(name).main.__wrapped__.__code__.co_filename).read_text()
    assert (
        re.search(r"(command_parser|config_parser|train)\(__doc__", text)
        and "type=int" not in text
        and "type=float" not in text
    )


@pytest.mark.parametrize(
    ("command", "given", "present"),
    [
        ("build_dataset d.hdf5 --name x", "--data_dir a --val_fraction 0.2", "--data-dir a --val-fraction 0.2"),
        ("diagnose --checkpoint d", "--closed_loop 5 --image_size 32", "--closed-loop 5 --image-size 32"),
        (f"{CHECKPOINT} --camera x", "--image_size=32 --other_view", "--image-size=32 --other-view"),
        (CHECKPOINT, "--policy_limit 9", "--policy-limit 9"),
        ("look d --probe", "--probe_episodes 9", "--probe-episodes 9"),
        ("serve_policy --checkpoint d", "--whole_chunks --max_prompt 9", "--whole-chunks --max-prompt 9"),
        ("serve_policy --checkpoint d", "--max_message 9 --max_connections 9", "--max-message 9 --max-connections 9"),
    ],
)
def test_options_are_taken_with_underscores_too(command, given, present):
    name, *words = command.split()
    parse = importlib.import_module(load(name).main.__module__).parse
    found = [parse([*words, *options.split()]) for options in (given, present)]
    one, other = (each[1] if isinstance(each, tuple) else each for each in found)  # beside its parser
    assert one == other


def test_help_shows_the_bounds_and_short_forms_are_no_options(capsys):
    parser = command_parser("Does something.")
    parser.add_argument("--workers", type=whole(1, 256), help="processes")
    parser.add_argument("--noise", type=real(0, 1), help="standard deviation", default=0.0)
    assert "processes [1 to 256]" in parser.format_help()
    assert parser.parse_args(["--workers", "2"]).workers == 2
    for wrong in (["--work", "2"], ["--workers", "2.5"], ["--noise", "inf"], ["--workers", ""]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    options = parser.parse_args(["--noise", "0.5"])
    with pytest.raises(SystemExit):
        parser.refuse_idle(options, "here", "noise")
    parser.refuse_idle(options, "here", "workers")


def test_cameras_are_named_in_one_way_by_all_commands():
    parser = command_parser("")
    parser.add_argument("--cameras", action=Cameras, default=("primary",))
    parser.add_argument("--quiet", action="store_true")
    calls = {"": ("primary",), "--cameras none": (), "--cameras": (), "--cameras wrist": ("wrist",)}
    calls |= dict.fromkeys(("--cameras primary wrist", "--cameras primary,wrist --quiet"), ("primary", "wrist"))
    assert {call: parser.parse_args(call.split()).cameras for call in calls} == calls
    for wrong in ("left", "primary.wrist", "none,wrist", "none wrist"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--cameras", *wrong.split()])


def test_values_of_options():
    parser = command_parser("")
    parser.add_argument("--option", action=Pairs)
    given = parser.parse_args(["--option", "a=[1, 2]", "--option", "b=b=c", "--option", "c=" + 300_000 * "["]).option
    assert given["a"] == [1, 2] and given["b"] == "b=c" and given["c"].startswith("[[")
    assert parser.parse_args([]).option == {} and parser.parse_args(["--option", "a=1"]).option == {"a": 1}
    assert json_or_name("bridge") == "bridge" and json_or_name('{"width": 7}') == {"width": 7}
    with pytest.raises(argparse.ArgumentTypeError, match="is no JSON"):
        json_or_name('{"width"')


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_printed_waits_for_a_pipe_that_is_full_and_does_not_block(number):
    code = (
        "import sys\nfrom gap_vla.core.errors import command\n"
        "@command\ndef main():\n    print('{\"found\": 1}', file=sys.stderr if sys.argv[1] == '2' else sys.stdout)\n"
        "sys.exit(main())\n"
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += os.write(writer, b"." * 512)
    streams = {("stdout", "stderr")[number - 1]: writer}
    process = subprocess.Popen([sys.executable, "-c", code, f"{number}"], cwd=Path(__file__).parents[2], **streams)
    os.close(writer)
    time.sleep(1)
    with open(reader, "rb") as stream:
        assert json.loads(stream.read()[filled:]) == {"found": 1}
    assert process.wait(60) == 0


def test_work_goes_on_when_its_terminal_is_closed():
    code = (
        "import os, sys\nfrom gap_vla.core.errors import command\n"
        "from gap_vla.core.lazy import _without_start_up_lines\n"
        "@command\ndef main():\n    print('begun', flush=True)\n    sys.stdin.read()\n"
        "    with _without_start_up_lines():\n        os.write(2, b'lost')\n    print('lost')\n"
        "    print('lost too', file=sys.stderr, flush=True)\n    return 7\n"
        "sys.exit(main())\n"
    )
    screen, terminal = os.openpty()
    place = Path(__file__).parents[2]
    streams = {"stdin": subprocess.PIPE, "stdout": terminal, "stderr": terminal}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=place, start_new_session=True, **streams)
    os.close(terminal)
    assert os.read(screen, 5) == b"begun"
    os.close(screen)
    process.stdin.close()
    assert process.wait(60) == 7
