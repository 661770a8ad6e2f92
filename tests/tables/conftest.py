"""Pictures are drawn by the tests that ask for `drawn` alone."""

import pytest


@pytest.fixture
def drawn():
    """Charts are drawn."""


@pytest.fixture(autouse=True)
def charts(request):
    if "drawn" not in request.fixturenames:
        request.getfixturevalue("blank_charts")
