"""The published sizes have upstream's configs and parameter trees."""

from __future__ import annotations

import json

import pytest

from gap_vla.octo import presets
from tests.helpers import octo_golden as golden
from tests.helpers import octo_published as published


@pytest.mark.parametrize("name", published.FILES)
def test_the_parameter_tree_is_upstreams(name: str) -> None:
    found = golden.flat_shapes(published.pretrained(name))
    expected = {leaf["name"]: (tuple(leaf["shape"]), leaf["dtype"]) for leaf in published.tree(name)["params"]}
    assert found == expected


@pytest.mark.parametrize("name", published.FILES)
def test_the_config_is_upstreams(name: str) -> None:
    found = json.loads(json.dumps(presets.published_config(name)))
    expected = published.config(name)
    assert found == {key: expected[key] for key in found}
    assert list(found["model"]["observation_tokenizers"]) == list(expected["model"]["observation_tokenizers"])
