"""The examples in the docstrings run, and every public name has one."""

import doctest
import importlib
import pkgutil

import pytest

import gap_vla.labelling
import gap_vla.phases

MODULES = [
    module.name
    for package in (gap_vla.phases, gap_vla.labelling)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]
WITHOUT = {"MotionError", "DeadBand", "METHODS", "LABELS_VERSION", "Annotation", "Annotator"}
"""An exception, a tuple, constants, and two classes that only `annotate` makes."""


def examples(name):
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder(recurse=True).find(module, name) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_give_what_they_say(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples(name):
        said: list[str] = []
        assert runner.run(test, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", sorted(set(gap_vla.phases.__all__) - WITHOUT))
def test_every_public_name_has_an_example(name):
    home = getattr(gap_vla.phases, name).__module__
    assert any(test.name.startswith(f"{home}.{name}") for test in examples(home)), f"{home}.{name} has no example"
    assert getattr(gap_vla.phases, name).__doc__
