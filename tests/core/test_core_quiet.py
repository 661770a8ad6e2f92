"""Nothing but the command's own lines reaches a user: no start-up lines of TensorFlow, absl, oneDNN or XLA."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from scripts_under_test import ROOT

from gap_vla.core.errors import command

DATASET = ROOT / "tests" / "data" / "rlds" / "made_by_0.1.0" / "toy" / "1.0.0"


def run(*words: object, cwd: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with nothing set that makes libraries quiet."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, *map(str, words)]
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow  # test_errors_on_starting_are_shown has the lines of a TensorFlow that takes no time
def test_a_command_that_loads_tensorflow_says_nothing_but_its_own_lines(tmp_path):
    copy = shutil.copytree(DATASET, tmp_path / "toy" / "1.0.0")
    words = (copy, "--out", tmp_path / "toy" / "1.1.0", "--method", "gaussian", "--json")
    done = run(ROOT / "scripts" / "annotate.py", *words, cwd=tmp_path)
    own = [line for line in done.stderr.splitlines() if not line.startswith("change points: ")]  # a slow machine's
    assert done.returncode == 0 and own[1].startswith("4 episodes, 56 steps, ")
    assert ": proprio <- observation/proprio (xyz in m from column 0, " in own[0]
    assert [line.split(":")[0] for line in own[2:]] == ["ρ", "annotated copy", "annotator"]
    answer = json.loads(done.stdout)
    assert answer["copy"] == str(tmp_path / "toy" / "1.1.0") and answer["labels"]["steps"] == 56


def test_what_libraries_warn_of_is_no_error_whatever_python_was_told(tmp_path):
    quiet = "from gap_vla.core.lazy import start_quietly; start_quietly()"
    code = f"{quiet}; import warnings; warnings.warn('old', UserWarning)"
    for words, variables in ((["-W", "error"], {}), ([], {"PYTHONWARNINGS": "error::UserWarning"})):
        done = run(*words, "-c", code, cwd=tmp_path, **variables)
        assert done.returncode == 0 and done.stderr == "warning: old\n"


def test_a_date_of_sources_that_is_none_does_not_end_numpy(tmp_path):
    code = "from gap_vla.core.lazy import start_quietly; start_quietly(); import numpy.f2py"
    done = run("-c", code, cwd=tmp_path, SOURCE_DATE_EPOCH="yesterday")
    assert done.returncode == 0, done.stderr


IMPORT = "from gap_vla.core.lazy import start_quietly; start_quietly(); import tensorflow"


def fake_tensorflow(folder, lines):
    (folder / "tensorflow.py").write_text(f"import os, sys\n{lines}")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


LINES = b"I0000 00:00:17.1 7 port.cc:153] oneDNN is on\nE0000 00:00:17.1 7 x.cc:1] the disk is damaged\n"
SAID = f"os.write(2, {LINES!r})\n"


@pytest.mark.parametrize("end", ["", "raise ImportError('libfoo.so is missing')"])
def test_errors_on_starting_are_shown(tmp_path, end):
    done = run("-c", IMPORT, cwd=tmp_path, **fake_tensorflow(tmp_path, SAID + end))
    assert done.stderr.startswith("E0000 00:00:17.1 7 x.cc:1] the disk is damaged\n")
    assert ("libfoo.so is missing" in done.stderr) == bool(end)


def test_who_asks_for_every_line_gets_it(tmp_path):
    done = run("-c", IMPORT, cwd=tmp_path, TF_CPP_MIN_LOG_LEVEL="0", **fake_tensorflow(tmp_path, SAID))
    assert "oneDNN is on" in done.stderr and done.returncode == 0


@pytest.mark.parametrize(
    "first", ["import gap_vla.rlds", "from gap_vla.core.lazy import start_quietly; start_quietly()"]
)
def test_triton_is_loaded_before_tensorflow_which_would_end_the_process(tmp_path, first):
    (tmp_path / "triton.py").write_text("print('before')")
    done = run("-c", f"{first}; import tensorflow", cwd=tmp_path, **fake_tensorflow(tmp_path, "print('after')"))
    assert done.stdout == "before\nafter\n", done.stderr
    (tmp_path / "triton.py").unlink()
    done = run("-c", f"{first}; import tensorflow", cwd=tmp_path, **fake_tensorflow(tmp_path, "print('after')"))
    assert done.stdout == "after\n", done.stderr


def test_pictures_are_the_same_whatever_the_settings_of_matplotlib_say(tmp_path):
    """Texts of others are no formulas in them either."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    shown = "import matplotlib; print(matplotlib.rcParams['text.usetex'])\n"
    assert run("-c", shown, cwd=tmp_path).stdout == "True\n"
    code = (
        f"from gap_vla.core.lazy import start_quietly; start_quietly(); {shown}"
        "from matplotlib.figure import Figure\n"
        "figure = Figure(); figure.text(0, 0, r'pay $5 for $\\frac{the$'); figure.savefig('p.png')"
    )
    done = run("-c", code, cwd=tmp_path, MPLBACKEND="nonsense")
    assert (done.stdout, done.stderr) == ("False\n", "") and (tmp_path / "p.png").exists()


@pytest.mark.parametrize("loads", ["import matplotlib", "pass"])
def test_a_program_that_plots_after_a_command_has_its_backend_and_its_style(loads, tmp_path):
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 7\n")
    code = (
        f"from gap_vla.core.errors import command; command(lambda argv: exec({loads!r}))([]); import matplotlib; "
        "print(*(matplotlib.rcParams[key] for key in ('lines.linewidth', 'backend', 'text.parse_math')))"
    )
    assert run("-c", code, cwd=tmp_path, MPLBACKEND="svg").stdout == "7.0 svg True\n"


def test_a_program_that_calls_a_command_has_its_settings_again_afterwards():
    import jax
    import matplotlib
    import torch
    from PIL import ImageFile

    def of_libraries():
        kinds = torch.get_default_dtype(), torch.get_default_device().type, torch.is_grad_enabled()
        wide, cut_off = jax.config.jax_enable_x64, ImageFile.LOAD_TRUNCATED_IMAGES
        precise = jax.config.jax_default_matmul_precision, torch.backends.mkldnn.matmul.fp32_precision
        return (matplotlib.rcParams["text.usetex"], *kinds, wide, *precise, cut_off)

    def casts():
        return torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()

    def work(argv):
        seen.append(of_libraries())
        assert casts() == (False, False)
        torch.manual_seed(3)
        torch.set_num_threads(threads + 1)
        torch.use_deterministic_algorithms(True)

    def drawn_next():
        return torch.random.get_rng_state().tolist(), torch.get_num_threads(), torch.get_deterministic_debug_mode()

    seen, threads = [], torch.get_num_threads()
    main, before = command(work), drawn_next()
    with matplotlib.rc_context({"text.usetex": True}), torch.no_grad(), torch.autocast("cpu"):
        try:
            jax.config.update("jax_enable_x64", True)
            jax.config.update("jax_default_matmul_precision", "highest")
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            torch.set_default_dtype(torch.float64)
            torch.set_default_device("meta")
            torch.set_float32_matmul_precision("medium")
            assert main([]) == 0 and drawn_next() == before and casts() == (True, True)
            assert of_libraries() == (True, torch.float64, "meta", False, True, "highest", "bf16", True)
        finally:
            jax.config.update("jax_enable_x64", False)
            jax.config.update("jax_default_matmul_precision", None)
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
            torch.set_float32_matmul_precision("highest")
    assert seen == [(False, torch.float32, "cpu", True, False, None, "ieee", False)]


def test_keras_makes_no_folder_of_the_name_of_a_home_that_is_not_known(tmp_path):
    code = "import os; os.path.expanduser = str; import gap_vla.core.lazy, tensorflow"
    done = run("-c", code, cwd=tmp_path, **fake_tensorflow(tmp_path, "print(os.environ.get('KERAS_HOME'))"))
    assert done.stdout == f"{tempfile.gettempdir()}/.keras\n", done.stderr
