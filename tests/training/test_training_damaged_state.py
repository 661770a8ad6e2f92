"""A saved state of Octo that a disk damaged is named, with what to do; orbax has many ways to say so."""

import jax.numpy as jnp
import numpy as np
import pytest

from gap_vla.core.typed_config import ConfigError
from gap_vla.training.checkpoints import StateCheckpoints


class Template:
    """Stands for a train state: `StateCheckpoints` takes what is in it by name."""

    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.mark.parametrize(
    ("files", "damage"),
    [
        ("*/state/**/d/*", lambda content: content[: len(content) // 2]),
        ("*/state/**/_METADATA", lambda content: b"text"),
        ("*/loader/metadata", lambda content: b'{"a":' * 100_000),
    ],
)
def test_a_damaged_state_is_named_with_what_to_do(files, damage, tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", Template)
    saved = StateCheckpoints(tmp_path)
    template = Template(params={"kernel": jnp.arange(1000.0)}, step=jnp.zeros((), jnp.int32))
    saved.save(3, template, {"position": 7})
    saved.close()
    again = StateCheckpoints(tmp_path)
    state, position = again.restore(template)
    assert position == {"position": 7} and np.array_equal(state.params["kernel"], np.arange(1000.0))
    damaged = [path for path in tmp_path.glob(files) if path.is_file()]
    for path in damaged:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ConfigError, match=rf"{tmp_path}/3 cannot be read: .*; move it away: --resume goes on without it"
    ):
        StateCheckpoints(tmp_path).restore(template)
    again.close()


def test_a_state_of_a_run_with_other_settings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", Template)
    template = Template(step=jnp.zeros((), jnp.int32))
    for settings in ("seed 0", "seed 1"):
        states = StateCheckpoints(tmp_path, settings=settings)
        states.save(3, template, {})
        states.close()
    with pytest.raises(
        ConfigError, match=rf"{tmp_path}/3 is of a run with other settings, or of an earlier version; copy"
    ):
        StateCheckpoints(tmp_path, settings="seed 1").restore(template)
    StateCheckpoints(tmp_path, settings="seed 0").restore(template)


def test_a_mistake_of_ours_is_not_called_damage(tmp_path, monkeypatch):
    saved = StateCheckpoints(tmp_path)
    template = Template(step=jnp.zeros((), jnp.int32))
    saved.save(3, template, {})
    saved.close()
    with pytest.raises(TypeError, match="unexpected keyword"):
        monkeypatch.setattr("gap_vla.training.checkpoints.TrainState", lambda: None)
        StateCheckpoints(tmp_path).restore(template)


def test_a_file_where_states_go_is_refused_at_once(tmp_path):
    (tmp_path / "state").write_text("mine")
    with pytest.raises(FileExistsError, match="state"):
        StateCheckpoints(tmp_path / "state")
