"""The installer of a clone: uv with pip's own settings, and pip where uv cannot."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

INSTALL = Path(__file__).parents[1] / ".ci/install"
SAID = r""":env:.default-timeout='180'
:env:.extra-index-url='https://three/simple'
global.cert='/etc/my ca.pem'
global.extra-index-url='https://one/simple\nhttps://two/simple'
wheel.find-links='/elsewhere'
"""


@pytest.mark.parametrize("uv_can", [True, False])
def test_pip_installs_the_same_where_uv_cannot(monkeypatch, uv_can):
    calls: list[list[str]] = []

    def run(command, **options):
        calls.append([str(word) for word in command[1:]])
        if command[2] == "uv" and not uv_can:
            raise subprocess.CalledProcessError(2, command)
        if command[2] == "uv":
            assert options["env"]["SSL_CERT_FILE"] == "/etc/my ca.pem"
        return SimpleNamespace(stdout=SAID, returncode=3)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    wanted = ["--constraint", "constraints.txt", "--editable", ".[sim]"]
    installer = runpy.run_path(str(INSTALL))["main"]
    if uv_can:
        installer("sim")
    else:
        with pytest.raises(SystemExit) as ended:
            installer("sim")
        assert ended.value.code == 3
        assert calls[-1] == ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile", *wanted]
    (by_uv,) = [call for call in calls if call[1] == "uv"]
    assert by_uv[-4:] == wanted and by_uv[by_uv.index("--python") + 1] == sys.executable
    assert [word for word in by_uv if "index-url" in word] == ["--extra-index-url=https://three/simple"]


def test_pip_installs_where_it_has_a_setting_that_uv_is_not_told_of(monkeypatch):
    calls = []

    def run(command, **options):
        calls.append(command[3:])
        return SimpleNamespace(stdout=SAID + ":env:.no-index='1'\n", returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(INSTALL))["main"]("sim")
    assert ended.value.code == 0 and [call[:2] for call in calls] == [
        ["--disable-pip-version-check", "config"],
        ["--disable-pip-version-check", "install"],
    ]
