"""Windows agree with upstream's transforms, are aligned with ρ, and the loader resumes exactly."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gap_vla.core.episode import Episode
from gap_vla.core.errors import ConfigError
from gap_vla.rlds.convert import write_rlds
from gap_vla.rlds.loader import WindowLoader, window_indices
from gap_vla.rlds.source import MISSING
from gap_vla.rlds.statistics import normalize, unnormalize
from gap_vla.rlds.store import EpisodeStore, write_store

GOLDEN = np.load(Path(__file__).parent / "rlds" / "octo_transforms.npz")


@pytest.mark.parametrize(("w", "h"), [(1, 1), (1, 4), (2, 4), (3, 2)])
def test_windows_are_upstreams(w: int, h: int) -> None:
    key = f"chunk_w{w}_h{h}_nogoal"
    steps = np.arange(6)
    found = window_indices(steps, np.full(6, 6), w, h, upstream_action_mask=True)
    np.testing.assert_array_equal(GOLDEN["in/proprio"][found.observation], GOLDEN[f"{key}/observation/proprio"])
    np.testing.assert_array_equal(found.observation, GOLDEN[f"{key}/observation/timestep"])
    np.testing.assert_array_equal(found.timestep_pad_mask, GOLDEN[f"{key}/observation/timestep_pad_mask"])
    np.testing.assert_array_equal(GOLDEN["in/action"][found.action], GOLDEN[f"{key}/action"])
    np.testing.assert_array_equal(found.action_pad_mask, GOLDEN[f"{key}/action_pad_mask"][..., 0])
    np.testing.assert_array_equal(~found.action_pad_mask, GOLDEN[f"{key}/observation/task_completed"])


@pytest.mark.parametrize("kind", ["normal", "bounds"])
@pytest.mark.parametrize("field", ["action", "proprio"])
def test_normalisation_is_upstreams(kind: str, field: str) -> None:
    prefix = f"normalize/stats/{field}/"
    statistics = {k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)}
    found = normalize(GOLDEN[f"in/{field}"], statistics, kind)
    np.testing.assert_allclose(found, GOLDEN[f"normalize/{kind}/{field}"], atol=1e-6)
    if kind == "normal":
        np.testing.assert_allclose(unnormalize(found, statistics, kind), GOLDEN[f"in/{field}"], atol=1e-6)


def loader(store, **changes):  # type: ignore[no-untyped-def]
    options = {"split": "train", "window_size": 2, "action_horizon": 3, "batch_size": 8, "seed": 0} | changes
    return WindowLoader(store, **options)


def test_every_field_belongs_to_its_step(store: EpisodeStore) -> None:
    data = store.split("train")
    batches = list(loader(store, train=False, normalization="none", image_keys=("image_primary", "image_wrist")))
    window = 0
    for batch in batches:
        for row in range(len(batch["action"])):
            number = int(np.searchsorted(data.offsets, window, side="right")) - 1
            episode, step = data.episode(number), window - int(data.offsets[number])
            for w, at in enumerate((max(step - 1, 0), step)):
                observation = {k: v[row, w] for k, v in batch["observation"].items() if k != "pad_mask_dict"}
                assert np.array_equal(observation["image_primary"], episode.images["image_primary"][at])
                assert np.array_equal(observation["image_wrist"], episode.images["image_wrist"][at])
                assert np.array_equal(observation["proprio"], episode.proprio[at])
                assert observation["timestep"] == at
                assert observation["timestep_pad_mask"] == (step - 1 + w >= 0)
                assert batch["rho"][row, w] == episode.rho[at]  # type: ignore[index]
                assert batch["change_point"][row, w] == episode.change_point[at]  # type: ignore[index]
                for h in range(3):
                    valid = at + h < len(episode)
                    assert (batch["action_pad_mask"][row, w, h] == valid).all()
                    assert np.array_equal(batch["action"][row, w, h], episode.action[min(at + h, len(episode) - 1)])
            language = batch["task"]["language_instruction"][row]
            assert language == episode.language_instruction.encode()
            assert batch["task"]["pad_mask_dict"]["language_instruction"][row] == bool(language)
            window += 1
    assert window == data.steps


def test_shapes_and_dtypes_are_octos(store: EpisodeStore) -> None:
    batch = next(loader(store))
    expected = {
        "image_primary": ("uint8", (8, 2, 16, 16, 3)),
        "proprio": ("float32", (8, 2, 9)),
        "timestep": ("int32", (8, 2)),
        "timestep_pad_mask": ("bool", (8, 2)),
    }
    for key, (dtype, shape) in expected.items():
        assert batch["observation"][key].dtype == dtype and batch["observation"][key].shape == shape, key
    assert batch["action"].dtype == "float32" and batch["action"].shape == (8, 2, 3, 7)
    assert batch["action_pad_mask"].dtype == "bool" and batch["action_pad_mask"].shape == (8, 2, 3, 7)
    assert batch["rho"].dtype == "float32" and batch["rho"].shape == batch["change_point"].shape == (8, 2)
    for key, value in batch["observation"]["pad_mask_dict"].items():
        assert value.dtype == "bool" and value.shape == (8, 2) and value.all(), key


def _identify(batch) -> list[bytes]:  # type: ignore[no-untyped-def]
    return [image.tobytes() for image in batch["observation"]["image_primary"][:, -1]]


def test_an_epoch_has_every_window_once_and_epochs_differ(store: EpisodeStore) -> None:
    batches = loader(store, batch_size=1)
    steps = store.split("train").steps
    epochs = [[_identify(next(batches))[0] for _ in range(steps)] for _ in range(2)]
    assert len(set(epochs[0])) == len(set(epochs[1])) == steps
    assert epochs[0] != epochs[1] and set(epochs[0]) == set(epochs[1])
    assert [_identify(b)[0] for b in itertools.islice(loader(store, batch_size=1, seed=1), steps)] != epochs[0]


@pytest.mark.parametrize("threads", [0, 1])
def test_resume_is_exact_and_the_state_is_json(store: EpisodeStore, threads: int) -> None:
    batches = loader(store, threads=threads)
    for _ in range(45):  # beyond the first epoch
        next(batches)
    state = json.loads(json.dumps(batches.state()))
    ahead = [_identify(next(batches)) for _ in range(5)]
    resumed = loader(store, threads=1 - threads)
    resumed.restore(state)
    assert [_identify(next(resumed)) for _ in range(5)] == ahead


def test_a_state_of_other_data_is_refused(store: EpisodeStore) -> None:
    with pytest.raises(ValueError, match="seed"):
        loader(store, seed=1).restore(loader(store, seed=0).state())


def test_evaluation_is_one_repeatable_ordered_pass(store: EpisodeStore) -> None:
    batches = loader(store, split="val", train=False)
    first, second = [_identify(b) for b in batches], [_identify(b) for b in batches]
    assert first == second and sum(map(len, first)) == store.split("val").steps


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_window_shows_a_state_of_another_episode(store: EpisodeStore, split: str) -> None:
    data, history = store.split(split), 4
    (batch,) = loader(
        store, split=split, train=False, batch_size=10_000, normalization="none", proprio_history=history, image_keys=()
    )
    shown = batch["observation"]["proprio"].reshape(data.steps, 2, history, -1)
    for window in range(data.steps):
        start = int(data.offsets[np.searchsorted(data.offsets, window, side="right") - 1])
        for w in range(2):
            last = max(window - 1 + w, start)
            steps = np.maximum(last + np.arange(1 - history, 1), start)
            np.testing.assert_array_equal(shown[window, w], data.fields["proprio"][steps])
    assert len(data) > 1  # or no other episode could be shown


def test_a_camera_that_an_episode_lacks_is_masked_in_its_windows(tmp_path: Path, episodes: list[Episode]) -> None:
    lacking = episodes[1].replace(metadata={**episodes[1].metadata, MISSING: ["image_wrist"]})
    write_store(tmp_path, {"train": [episodes[0], lacking]}, source="here", source_hash="0")
    (batch,) = loader(
        EpisodeStore.open(tmp_path), train=False, batch_size=10_000, image_keys=("image_primary", "image_wrist")
    )
    masks = batch["observation"]["pad_mask_dict"]
    there = np.arange(len(batch["rho"])) < len(episodes[0])
    np.testing.assert_array_equal(masks["image_wrist"], np.repeat(there[:, None], 2, axis=1))
    assert masks["image_primary"].all()


def test_a_column_that_rests_in_nearly_all_steps_is_stretched_to_no_bounds(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    action = np.repeat(episodes[0].action, 20, axis=0)
    action[:, 4] = np.arange(len(action)) == 9
    long = Episode({}, np.repeat(episodes[0].proprio, 20, axis=0), action)
    store = EpisodeStore.build(write_rlds([long], tmp_path, "long", val_fraction=0))
    with pytest.raises(ConfigError, match=r"action: dimension 4"):
        loader(store, image_keys=(), rho=False, normalization="bounds")
    next(loader(store, image_keys=(), rho=False, normalization="min_max"))


def test_importing_the_rooms_is_light_and_training_needs_no_tensorflow(store: EpisodeStore) -> None:
    code = (
        "import sys\n"
        "from gap_vla.rlds import EpisodeStore, WindowLoader\n"
        "assert not {'tensorflow', 'jax', 'torch', 'grain', 'h5py'} & set(sys.modules)\n"
        f"s = EpisodeStore.open({str(store.directory)!r})\n"
        "b = next(WindowLoader(s, split='train', window_size=2, action_horizon=2, batch_size=4, seed=0))\n"
        "assert b['rho'].shape == (4, 2)\n"
        "assert not {'tensorflow', 'torch', 'tensorflow_datasets'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
