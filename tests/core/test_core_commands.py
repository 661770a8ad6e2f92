"""All commands fail in one way: a line and status 2 for what a user can put right, 130 for Ctrl-C, 70 for our bugs."""

import contextlib
import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from scripts_under_test import COMMANDS, ROOT, WITH_CONFIG, call, load, start

import gap_vla.cli
from gap_vla.cli.arguments import answering, to_stderr
from gap_vla.cli.configured import config_parser, load_config, run_configured
from gap_vla.core import identity
from gap_vla.core.errors import BUG, INTERRUPTED, USER_ERROR, UserError, command, is_full_disk, keeping, message_of
from gap_vla.core.foreign import refusing
from gap_vla.core.typed_config import ConfigError


class Unspeakable(UserError):
    """An error of somebody's configuration that fails when it is asked what it says."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            UserError("demos.hdf5: no episodes;\ncollect some"),
            USER_ERROR,
            "error: demos.hdf5: no episodes; collect some",
        ),
        (OSError(28, "No space left on device", "/full/x"), USER_ERROR, "error: /full/x: No space left on device"),
        (MemoryError(), USER_ERROR, "error: not enough memory"),
        (RuntimeError("can't start new thread"), USER_ERROR, "error: can't start new thread: this account"),
        (BlockingIOError(11, "Resource temporarily unavailable"), USER_ERROR, "error: [Errno 11] Resource"),
        (KeyboardInterrupt("3 episodes are kept"), INTERRUPTED, "interrupted; 3 episodes are kept"),
        (
            ModuleNotFoundError("No module named 'flax.linen'", name="flax.linen"),
            USER_ERROR,
            "error: this needs the module flax, which is not installed: pip install -e '.[octo]' in",
        ),
        (
            ModuleNotFoundError("No module named 'imageio_ffmpeg'", name="imageio_ffmpeg"),
            USER_ERROR,
            "error: this needs the module imageio_ffmpeg, which is not installed: pip install -e '.[phases]' in",
        ),
        (
            ModuleNotFoundError("No module named 'numpy'", name="numpy"),  # as of the system's Python in a cron job
            USER_ERROR,
            f"error: {sys.executable} lacks the module numpy: call the Python in which gap_vla is installed",
        ),
        (
            ImportError("libtensorflow_framework.so.2: failed to map segment from shared object"),
            USER_ERROR,
            "error: not enough memory: libtensorflow_framework.so.2: failed to map segment from shared object; use",
        ),
        (Unspeakable(), USER_ERROR, "error: Unspeakable"),
        (
            FileExistsError(17, "File exists", "/data/.copy.gap_vla-ab12cd34.partial/copy"),
            USER_ERROR,
            "error: /data/copy: File exists",
        ),
        (ModuleNotFoundError("No module named 'gap_vla.x'", name="gap_vla.x"), BUG, "this is a bug of gap_vla"),
        (ZeroDivisionError("x"), BUG, "this is a bug of gap_vla"),
    ],
)
def test_a_command_turns_what_goes_wrong_into_a_line_and_a_status(error, status, said, capsys):
    @command
    def main():
        raise error

    assert main() == status
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(said)


def test_a_message_that_quotes_a_whole_file_is_cut_in_its_middle():
    line = message_of(UserError(f"unknown layout '{'[' * 100_000}'; known: gap"))
    assert line.startswith("unknown layout '[[[") and line.endswith("[['; known: gap") and len(line) < 2100


@pytest.mark.parametrize("name", ["JAX_ENABLE_X64", "TORCH_LOGS"])
def test_a_setting_that_a_library_refuses_is_named(monkeypatch, capsys, name):
    @command
    def main():
        raise ValueError(f"invalid truth value 'x' for environment '{name}'")

    assert main() == BUG
    monkeypatch.setenv("NUMBA_OPT", "x")
    capsys.readouterr()
    assert main() == BUG
    assert re.search(
        r"not a mistake of yours \(or of a setting in .*NUMBA_OPT.*: try without\)", capsys.readouterr().err
    )
    monkeypatch.setenv(name, "x")
    assert main() == USER_ERROR
    assert capsys.readouterr().err.endswith(f"'{name}'; correct {name}, or unset it\n")


def test_a_part_of_a_package_that_is_loaded_later_and_cannot_be_is_named(tmp_path, capsys, monkeypatch):
    package = tmp_path / "loads_later"
    package.mkdir()
    (package / "__init__.py").write_text("def use():\n    from loads_later import part\n")
    (package / "part.py").write_text("int('30s')\n")
    monkeypatch.syspath_prepend(tmp_path)

    @command
    def main():
        import loads_later

        loads_later.use()

    assert main() == USER_ERROR
    assert "error: loads_later cannot be imported: invalid literal for int()" in capsys.readouterr().err


def test_a_package_of_others_that_cannot_be_imported_is_named_and_its_fault_is_no_bug_of_ours(tmp_path):
    (tmp_path / "h5py.py").write_text("raise TypeError('Not a datatype')")
    call = [sys.executable, "-c", "import sys; from gap_vla.cli.annotate import main; sys.exit(main())", "a.hdf5"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([*call, "--out", "b.hdf5"], env=environment, capture_output=True, text=True)
    assert done.returncode == USER_ERROR and done.stderr.startswith("error: h5py cannot be imported: Not a datatype")
    assert done.stderr.endswith("; install it again, or unset its environment variables\n")


def test_what_numba_kept_and_cannot_read_any_more_is_named(tmp_path, monkeypatch, capsys):
    """As after a power cut: the index of what was compiled is empty."""
    (tmp_path / "kept_by_numba.py").write_text("import numba\n@numba.njit(cache=True)\ndef add(a): return a + 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    @command
    def main():
        sys.modules.pop("kept_by_numba", None)
        importlib.import_module("kept_by_numba").add(1)

    assert main() == 0
    [index] = tmp_path.rglob("*.nbi")
    index.write_bytes(b"")
    assert main() == USER_ERROR
    said = f"error: {index.parent}, which Numba compiled earlier, is damaged; remove that folder\n"
    assert capsys.readouterr().err == said


def test_the_innermost_word_about_what_is_kept_holds():
    with pytest.raises(KeyboardInterrupt, match="the shard"), keeping("nothing"), keeping("the shard"):
        raise KeyboardInterrupt


def test_a_ctrl_c_that_a_library_turned_into_its_own_error_is_a_ctrl_c(capsys):
    """Numba's compiled functions do."""

    @command
    def main():
        with keeping("all is as it was"):
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as interrupt:
                raise SystemError("returned a result with an exception set") from interrupt

    assert main() == INTERRUPTED
    assert capsys.readouterr().err == "interrupted; all is as it was\n"


def test_a_ctrl_c_that_a_library_dropped_for_an_error_of_its_own_is_a_ctrl_c(capsys):
    """As Matplotlib's compiled code does where it asks an array's `__array__`."""

    @command
    def main(argv):
        with keeping("all is as it was"):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise ValueError("Invalid bounding box")

    assert main([]) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted; all is as it was\n"

    @command
    def full(argv):
        with keeping("all is as it was"), contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with keeping("all is as it was"):
            raise UserError("no space left; free some")

    assert full([]) == USER_ERROR
    with pytest.raises(ValueError, match="a program's"), keeping("nothing"):
        raise ValueError("a program's")


def test_a_ctrl_c_soon_after_that_of_an_earlier_command_is_heard():
    """As in a notebook, where somebody corrects an option and starts the command again."""

    @command
    def main(argv):
        signal.raise_signal(signal.SIGINT)

    assert [main([]), main([])] == [INTERRUPTED, INTERRUPTED]


def test_a_ctrl_c_that_falls_into_a_destructor_still_ends_the_command(capsys):
    """Python drops what is raised there; JAX's callback of the garbage collector has swallowed some."""

    class Pressed:
        def __del__(self):
            raise KeyboardInterrupt

    @command
    def main():
        with keeping("all is as it was"):
            Pressed()
            time.sleep(60)
            raise AssertionError("nothing ended it")

    assert main() == INTERRUPTED
    assert capsys.readouterr().err == "interrupted; all is as it was\n"


def test_every_command_is_wrapped_and_loads_nothing_before():
    """A Ctrl-C that comes before `main` is running would end in a traceback."""
    assert all(load(name).main.__wrapped__ for name in COMMANDS)
    code = (
        "import importlib, sys; sys.path.insert(0, 'scripts')\n"
        "heavy = {'numpy', 'absl', 'ml_collections', 'jax', 'torch', 'tensorflow'}\n"
        f"for name in {COMMANDS}:\n"
        "    importlib.import_module(name)\n"
        "    assert not heavy & {*sys.modules}, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_of_the_working_folder_is_no_module_of_a_worker(tmp_path):
    """`finetune_configs/threading.py` has the name of one of Python's own modules."""
    (tmp_path / "threading.py").write_text("raise SystemExit('a configuration was imported')")
    script = tmp_path / "bin" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "from gap_vla.core.processes import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as pool:\n"
        "        print(pool.submit(abs, -1).result())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_the_help_of_every_command_needs_no_extra():
    """Only what `pip install gap_vla` brings; `make wheel-check` does the same with the wheel."""
    extras = "numba torch scipy sklearn h5py matplotlib PIL tensorflow grain jax flax optax mujoco gymnasium websockets"
    code = (
        f"import contextlib, sys; sys.modules |= dict.fromkeys({extras!r}.split())\n"
        "from gap_vla.cli import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        assert main([name, '--help']) == 0, name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("usage: gap-vla ")) == (0, "", len(gap_vla.cli.COMMANDS))


@pytest.mark.parametrize(
    ("line", "arguments", "words"),
    [
        ("annotate", ["nothing", "--out", "x"], "nothing: no such file or folder"),
        ("annotate", ["nothing", "--out", "x", "--layout", '{"position"'], "is no JSON"),
        (
            "build_dataset",
            ["nothing.hdf5", "--name", "x y"],
            "at most 190 small letters a to z, digits and underscores",
        ),
        ("check_dataset", ["nothing"], "nothing"),
        ("collect_demos", ["--task", "sewing", "--out", "x.hdf5"], "sewing"),
        ("diagnose", ["--checkpoint", "nowhere"], "nowhere: no such directory"),
        ("evaluate", ["--checkpoint", "nowhere"], "nowhere: no such directory"),
        ("evaluate", ["--policy", f"ws://{70 * 'a'}.x:80", "--task", "assembly"], "is no address"),
        ("look", ["nowhere", "--probe"], "nowhere"),
        ("phase_benchmark", ["--sets", "x"], "no set 'x'"),
        ("report", ["nowhere"], "nowhere"),
        ("reproduce", ["--table", "evidence", "--budget", "soon"], "60m"),
        ("serve_policy", ["--checkpoint", "nowhere"], "nowhere: no such directory"),
        ("show_episode", ["nothing"], "nothing: no such file or folder"),
        ("task_table", ["--tasks", "sewing"], "sewing"),
        *((name, [], "--config FILE[:PROFILE] is missing") for name in WITH_CONFIG),
    ],
)
def test_a_mistake_is_one_line_and_status_2(line, arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(line, *arguments) == USER_ERROR
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in said and words in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", "line 1: SyntaxError"),
        ("\nx = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def get_config(profile=''):\n    return missing\n", "line 2: NameError"),
        ("import nowhere\n", "line 1: ModuleNotFoundError"),
        ("def get_config():\n    return 3\n", "it must return a ConfigDict"),
        (
            "def get_config(profile):\n    return profile\n",
            r"for several profiles; name one: --config .*:PROFILE",
        ),
        ("x = '\x00'\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    ],
)
def test_a_broken_configuration_file_is_named_with_its_line(text, words, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(str(path))


def test_gap_vla_lists_every_command_at_once():
    code = "import sys; from gap_vla.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in said.stdout.splitlines() if line.startswith("  ")] == list(gap_vla.cli.COMMANDS)
    assert not {"argparse", "numpy"} & set(said.stderr.split())
    modules = {path.stem for path in (ROOT / "gap_vla" / "cli").glob("*.py")} - {"__init__", "arguments", "configured"}
    assert {name.replace("-", "_") for name in gap_vla.cli.COMMANDS} == modules


@pytest.mark.parametrize("name", gap_vla.cli.COMMANDS)
def test_help_of_a_command_says_how_it_is_called(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gap-vla"])
    with pytest.raises(SystemExit) as end:
        gap_vla.cli.main([name, "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith(f"usage: gap-vla {name} [-h]") and f"    gap-vla {name} " in said
    assert not re.search(r"--[a-z]+_[a-z]+", said.partition("configuration keys")[0])


def test_gap_vla_runs_a_command_and_names_the_nearest_to_a_mistyped_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gap-vla"])
    for name in ("show-episode", "show_episode"):
        assert gap_vla.cli.main([name, "nothing"]) == USER_ERROR
        assert capsys.readouterr().err.startswith("error: nothing: no such file or folder")
    assert gap_vla.cli.main(["finetun"]) == USER_ERROR
    assert "did you mean 'finetune'?" in capsys.readouterr().err
    assert gap_vla.cli.main([]) == USER_ERROR


ENOUGH = {
    "annotate": ["d.hdf5", "--out", "x"],
    "build_dataset": ["d.hdf5", "--name", "x"],
    "check_dataset": ["d"],
    "collect_demos": ["--task", "assembly", "--out", "x.hdf5"],
    "diagnose": ["--checkpoint", "d"],
    "evaluate": ["--checkpoint", "d"],
    "look": ["d"],
    "report": ["d"],
    "reproduce": ["--table", "evidence"],
    "serve_policy": ["--checkpoint", "d"],
    "show_episode": ["d.hdf5"],
}


QUICK = ("annotate", "look", "train_small")
LOADING = [name for name in COMMANDS if name != "same_numbers"]  # which leaves that to the processes that it starts


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LOADING]
)
def test_ctrl_c_while_libraries_load_ends_in_a_line(name, tmp_path):
    (tmp_path / "d.hdf5").touch()
    slow = tmp_path / "slow"  # what every command needs, and what never finishes loading
    slow.mkdir()
    # In small pieces, for a signal that comes just before a system call does not end it.
    wait = "for _ in range(600):\n    time.sleep(0.1)\n"
    (slow / "numpy.py").write_text(f"import time\nprint('loading', flush=True)\n{wait}")
    process = start(name, *ENOUGH.get(name, ()), cwd=tmp_path, first_on_path=slow)
    assert process.stdout and process.stdout.readline() == "loading\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED and said.startswith("interrupted") and "Traceback" not in said


def test_ctrl_c_before_a_command_has_begun_leaves_no_traceback():
    program = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'gap_vla.core.errors':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "import gap_vla.cli\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (INTERRUPTED, "")


def test_a_full_disk_is_known_from_what_tensorstore_says():
    said = 'OUT_OF_RANGE: Failed writing: "d/20": Failed to write 29103 bytes to file 28: File too large'
    assert is_full_disk(ValueError(f"{said} [os_error_code='27']")) and not is_full_disk(ValueError(said))


def test_a_full_disk_is_known_from_what_safetensors_says():
    from safetensors import SafetensorError

    assert is_full_disk(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full_disk(SafetensorError("Error while deserializing: header too large"))


def test_a_full_disk_is_not_blamed_on_the_file_that_is_read():
    with pytest.raises(OSError) as full, refusing("in.npz", "copy it again"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "in.npz" not in message_of(full.value) and message_of(full.value).endswith("; free some space")
    with pytest.raises(PermissionError) as closed, refusing("in/toy: cannot be opened", "copy it again"):
        raise PermissionError(errno.EACCES, "Permission denied", "in/toy/shard")
    assert message_of(closed.value) == "in/toy/shard: Permission denied; ask for the right, or give another path"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("kind", [zipfile.BadZipFile, KeyError])
def test_a_disk_that_fails_is_not_taken_for_a_damaged_file(kind, number):
    with (
        pytest.raises(UserError, match=r"in\.npz: its disk, or the network, failed"),
        refusing("in.npz", "copy it again"),
    ):
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            raise kind("File is not a zip file")  # as zipfile does  # noqa: B904
    with pytest.raises(UserError, match="its disk, or the network, failed"), refusing("in.hdf5", "copy it again"):
        raise KeyError("Unable to open object (file read failed: errno = 5, error message = 'Input/output error')")
    with pytest.raises(UserError, match="copy it again"), refusing("in.npz", "copy it again"):
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError:
            raise kind("another thing") from None
    with pytest.raises(UserError, match="copy it again"), refusing("in.npz", "copy it again"):
        try:
            raise kind("its own cause")
        except kind as problem:
            raise problem from problem


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EFBIG, "raise the limit of file sizes (ulimit -f)"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
        (errno.ENAMETOOLONG, "give a shorter name"),
        (errno.ENOTDIR, "check the path, or give another"),
    ],
)
def test_what_the_system_says_of_a_file_comes_with_what_to_do(number, advice):
    assert message_of(OSError(number, os.strerror(number), "a/b")) == f"a/b: {os.strerror(number)}; {advice}"


def test_a_file_without_a_name_that_grew_too_large_is_no_full_disk():
    assert message_of(OSError(errno.EFBIG, "File too large")).endswith("; raise the limit of file sizes (ulimit -f)")


def test_a_missing_folder_for_temporary_files_is_not_taken_for_a_deleted_working_folder():
    said = "No usable temporary directory found in ['/tmp']"
    assert said in message_of(FileNotFoundError(errno.ENOENT, said))


def shell(line: str, cwd: object) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `gap` is the command of this checkout."""
    gap = f"gap() {{ {sys.executable} -c 'from gap_vla.cli import main; exit(main())' \"$@\"; }}\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)  # what is printed waits, as it does for most users
    words = ["bash", "-c", gap + line]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (
            "gap annotate $'\\xff.hdf5' --out x.hdf5",
            USER_ERROR,
            r"error: '\\udcff\.hdf5' is no text of UTF-8; rename it$",
        ),
        (
            "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 gap annotate ρ.hdf5 --out x.hdf5",
            USER_ERROR,
            r"hdf5' is read as ASCII; set PYTHONUTF8=1$",
        ),
        ("gap check-dataset nowhere --json >&-", USER_ERROR, "error: nowhere"),
        ("gap nothing <&- >&-", USER_ERROR, "error: the command 'nothing' is unknown"),
        ("gap annotate d --out e --layout '{'$(printf '[%.0s' {1..100000})", USER_ERROR, "is no JSON"),
        ("PYTHONIOENCODING=ascii gap annotate --help | grep -c u03c1 >&2", 0, "^[1-9]"),
        ("mkdir x; cd x; rmdir ../x; gap show-episode /d --out /tmp", USER_ERROR, "^error: the folder in which this"),
        (
            f"ulimit -v 2000000; gap check-dataset {ROOT}/tests/data/rlds/made_by_0.1.0/toy/1.0.0",
            USER_ERROR,
            "^error: not enough memory: tensorflow needs 4 GiB of addresses, and ulimit -v allows 1.9 GiB",
        ),
        (
            f"mkdir scripts gap_vla; touch gap_vla/__init__.py; cp {ROOT}/scripts/annotate.py scripts; "
            f"{sys.executable} scripts/annotate.py --help > help.txt",
            0,
            "^note: .*/scripts/annotate.py runs .*/gap_vla, not the code beside it; set PYTHONPATH$",
        ),
        ("gap --help >/dev/full", USER_ERROR, "^error: No space left .*, for what is printed or"),
        ("gap annotate --help >/dev/full", USER_ERROR, "^error: No space left .*, for what is printed or"),
        ("gap nothing >/dev/full 2>/dev/full", USER_ERROR, "^$"),
        ("gap --help | true", 0, "^$"),
    ],
)
def test_what_a_shell_can_do_to_a_command_is_a_line(line, status, said, tmp_path):
    done = shell(line, tmp_path)
    assert done.returncode == status and re.search(said, done.stderr) and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") <= 1, done.stderr


def test_what_a_configuration_prints_is_no_part_of_the_answer(tmp_path, capfd):
    text = (ROOT / "finetune_configs" / "small_assembly.py").read_text()
    (tmp_path / "c.py").write_text(f"{text}\nimport os\nprint('hello')\nos.system('echo from a child')\n")

    def run(config, options):
        with answering(options) as answer:
            answer["task"] = config.task

    run_configured(run, config_parser("Answers."), ["--config", f"{tmp_path}/c.py:debug", "--json"])
    said = capfd.readouterr()
    assert said.out == '{"task": "assembly"}\n' and sorted(said.err.split("\n")) == ["", "from a child", "hello"]


@pytest.mark.parametrize(
    ("name", "given", "goes_on"),
    [
        ("finetune", [], "the same command with --resume goes on"),
        ("finetune", ["--resume"], "the same command goes on"),
        ("train_small", ["--dry-run"], "the same command goes on"),
        ("compare", [], "the same command goes on"),
    ],
)
def test_what_goes_on_after_ctrl_c_is_a_command_that_there_is(name, given, goes_on, capsys, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    command_of = importlib.import_module(f"gap_vla.cli.{name}")
    monkeypatch.setattr(f"gap_vla.cli.{'compare' if name == 'compare' else 'finetune'}._run", pressed)
    assert command_of.main(["--config", f"{ROOT}/finetune_configs/small_threading.py:debug", *given]) == INTERRUPTED
    assert capsys.readouterr().err == f"interrupted; finished stages are kept; {goes_on}\n"


def test_a_command_that_a_program_calls_leaves_that_program_as_it_was(tmp_path):
    """It is not replaced by the command, which starts itself anew for its allocator, and keeps its Ctrl-C."""
    lines = (
        "import signal, sys",
        "from gap_vla.cli import main",
        "print('started', file=sys.stderr)",
        "before = sys.argv, signal.getsignal(signal.SIGINT)",
        "status = main(['train-small'])",
        "print(status, before == (sys.argv, signal.getsignal(signal.SIGINT)), 'went on', file=sys.stderr)",
    )
    (tmp_path / "program.py").write_text("\n".join(lines))
    done = shell(f"unset GLIBC_TUNABLES; {sys.executable} program.py; {sys.executable} < program.py", tmp_path)
    missing = "error: --config FILE[:PROFILE] is missing, e.g. --config finetune_configs/threading.py"
    assert done.stderr == f"started\n{missing}\n2 True went on\n" * 2, done.stderr


def test_commands_of_two_threads_give_back_what_they_found():
    """Each printed to stderr meanwhile, and the second gave back the first one's."""
    first, then = threading.Event(), threading.Event()

    @command
    def main(argv):
        with to_stderr():
            first.set()
            then.wait(0.2 if argv else 5)
        then.set()

    found = os.fstat(1)[:3], sys.stdout, sys.unraisablehook
    with ThreadPoolExecutor(2) as threads:
        threads.submit(main, ["begins"])
        first.wait(5)
        threads.submit(main, [])
    assert (os.fstat(1)[:3], sys.stdout, sys.unraisablehook) == found


def test_a_configuration_is_executed_once(tmp_path):
    """Also where the command starts itself anew for its allocator."""
    (tmp_path / "c.py").write_text("import os\nos.mkdir('once')\n")
    script = ROOT / "scripts" / "train_small.py"
    done = shell(f"unset GLIBC_TUNABLES; {sys.executable} {script} --config c.py --dry-run", tmp_path)
    assert done.stderr == "error: c.py defines no get_config(profile) that returns a ConfigDict\n"


def test_the_commit_is_this_projects_or_unknown(tmp_path, monkeypatch):
    shell("git init -q; git -c user.name=a -c user.email=a commit -q --allow-empty -m one", tmp_path)
    ours = identity.commit()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in its hooks
    assert identity.commit() == ours
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "site-packages" / "gap_vla" / "core" / "identity.py"))
    (tmp_path / "site-packages").mkdir()
    assert identity.commit() == "unknown"


@pytest.mark.parametrize(
    ("call", "does"),
    [
        ("debug CONFIG=finetune_configs/assembly.py", "--config finetune_configs/assembly.py:debug --resume"),
        ("debug", "--config finetune_configs/threading.py:debug --resume"),
        ("setup EXTRAS=all,cuda", ".ci/install all,cuda"),
        ("setup EXTRAS=all,cuda", "touch .venv/ready-all,cuda .venv/main-ready .venv/sim-ready\n"),
        ("setup EXTRAS=rlds,small", "touch .venv/ready-rlds,small \n"),
        ("finetune EXTRAS=all,cuda", ".ci/install all,cuda"),
    ],
)
def test_make_does_what_it_is_asked_for(call, does):
    """Also in a checkout in which other extras were installed before."""
    done = subprocess.run(["make", "-n", *call.split()], cwd=ROOT, capture_output=True, text=True, check=True)
    assert does in done.stdout


def test_make_knows_its_variables_in_capitals_alone():
    done = subprocess.run(["make", "-n", "finetune", "config=x.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "config= has no effect; variables are PYTHON" in done.stderr


def test_make_clean_leaves_demonstrations_and_runs():
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[2:] == [".venv", ".venv-lerobot", "site"]


def test_a_python_that_may_not_be_started_again_is_named(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/finetune.py", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "/somewhere/finetune.py"])
    monkeypatch.setattr(sys, "executable", "/root/python")
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(os, "execv", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match=r"^/root/python, .*, may not be started again \(Permission denied\)"):
        gap_vla.cli.restart_with_huge_pages()
