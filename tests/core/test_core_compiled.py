"""What numba compiles is the same function, wherever it may be kept."""

from types import SimpleNamespace

import numba
import pytest
from numba.core.dispatcher import Dispatcher

from gap_vla.core import compiled


@pytest.mark.parametrize("kept", [True, False])
def test_a_loop_is_compiled_also_where_nothing_can_be_kept(kept, monkeypatch):
    """As for a user whose home cannot be written, with a package that belongs to root."""
    asked = []

    def njit(cache=False, **options):
        asked.append(cache)
        if cache and not kept:
            raise RuntimeError("cannot cache function 'twice': no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiled, "njit", njit)

    @compiled.compiled(nogil=True)
    def twice(x):
        return 2 * x

    assert twice(21) == 42 and twice.targetoptions["nogil"] and asked == ([True] if kept else [True, False])


def test_where_the_place_for_it_has_no_room_functions_are_compiled_anew(monkeypatch):
    def full(**where):
        raise OSError(28, "No space left on device", where["dir"])

    monkeypatch.setattr(compiled, "tempfile", SimpleNamespace(TemporaryFile=full))

    @compiled.compiled()
    def thrice(x):
        return 3 * x

    assert thrice(2) == 6 and thrice.stats.cache_path is None


def test_a_function_is_itself_where_numba_is_told_to_compile_nothing(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)

    def thrice(x):
        return 3 * x

    assert compiled.compiled()(thrice) is thrice


def test_packages_whose_functions_numba_cannot_keep_are_imported(monkeypatch):
    def nowhere(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(Dispatcher, "enable_caching", nowhere)
    with compiled.kept_where_there_is_room():
        assert numba.njit(cache=True)(lambda x: 2 * x)(21) == 42
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(cache=True)(lambda x: x)


@pytest.mark.parametrize(
    ("home", "writable", "kept"), [("~", False, False), ("~", True, True), ("/home/me", False, True)]
)
def test_a_user_without_a_home_gets_no_folder_of_that_name(home, writable, kept, monkeypatch):
    asked = []
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: home)
    monkeypatch.setattr("os.access", lambda path, mode: writable)
    monkeypatch.setattr(compiled, "njit", lambda cache=False, **_: asked.append(cache) or (lambda function: function))
    monkeypatch.setattr(Dispatcher, "enable_caching", lambda function: asked.append(True))
    compiled.compiled()(lambda x: 2 * x)
    with compiled.kept_where_there_is_room():
        Dispatcher.enable_caching(SimpleNamespace(py_func=lambda x: 2 * x))
    assert asked == ([True, True] if kept else [False])
