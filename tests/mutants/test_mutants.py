"""The wrong changes that tests must notice: they fit the code as it is, and (`make mutants`) none survives."""

import pytest
from changes import MUTANTS
from run import misfit, survivors


def test_every_change_fits_the_code_and_names_a_test():
    assert [reason for mutant in MUTANTS if (reason := misfit(mutant))] == []
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.slow
def test_no_change_survives():
    assert survivors() == []
