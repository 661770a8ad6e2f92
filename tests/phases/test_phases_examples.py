"""Every public name has an example; `make test` runs those of all docstrings."""

import doctest
import importlib

import pytest

import gap_vla.phases

WITHOUT = {"MotionError", "DeadBand", "METHODS", "LABELS_VERSION", "Annotation", "Annotator"}
"""An exception, a tuple, constants, and two classes that only `annotate` makes."""


def examples(name):
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder(recurse=True).find(module, name) if test.examples]


@pytest.mark.parametrize("name", sorted(set(gap_vla.phases.__all__) - WITHOUT))
def test_every_public_name_has_an_example(name):
    home = getattr(gap_vla.phases, name).__module__
    assert any(test.name.startswith(f"{home}.{name}") for test in examples(home)), f"{home}.{name} has no example"
    assert getattr(gap_vla.phases, name).__doc__
