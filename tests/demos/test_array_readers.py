"""npz folders and pickles of arrays become Episodes; nothing in a pickle is ever run."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_demos import assert_equal, make_episode, write_robomimic

from gap_vla.core.episode import Episode, EpisodeError
from gap_vla.demos import layout, open_source
from gap_vla.demos.array_pickles import load_arrays
from gap_vla.demos.arrays import read_arrays
from gap_vla.demos.npz_folder import NpzFolder
from gap_vla.rlds.annotating.files import kind_of


def plain(index: int) -> Episode:
    return make_episode(index, annotated=False).replace(success=True)


def arrays(episode: Episode) -> dict[str, np.ndarray]:
    return {**episode.images, "proprio": episode.proprio, "action": episode.action, "phase": episode.phase}  # type: ignore[dict-item]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        text = plain(i).language_instruction
        np.savez(tmp_path / f"demo_{i}.npz", **arrays(plain(i)), language_instruction=text, extra=np.zeros(3))
    return tmp_path


def test_npz_files_come_back_equal(folder: Path) -> None:
    source = open_source(folder, "npz")
    for i, episode in enumerate(source):
        assert_equal(episode, plain(i))
    assert set(source.dropped()) == {"extra"} and "success" not in source.mapping()
    assert not source.read(0, images=False).images
    _replace(folder, success=np.array(False))
    said = "success (stated in 1 of 3, the others count as true)"
    assert open_source(folder, "npz").mapping()["success"] == said
    with np.load(folder / "demo_0.npz") as old:
        silent = {key: old[key] for key in old.files if key != "language_instruction"}
    np.savez(folder / "demo_0.npz", **silent)
    told = open_source(folder, "npz").mapping()["language_instruction"]
    assert told == "language_instruction (stated in 2 of 3, the others have none)"


@pytest.mark.parametrize("kind", ["npz", "pickle"])
def test_a_state_whose_columns_are_no_quaternion_is_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    with np.load(folder / "demo_1.npz") as old:
        arrays = {key: old[key] for key in old.files}
    arrays["proprio"][4, 3:7] *= 2  # as joints where a quaternion is expected
    if kind == "npz":
        np.savez(folder / "demo_1.npz", **arrays)
    else:
        (folder / "demo_1.pkl").write_bytes(pickle.dumps({**arrays, "state": arrays["proprio"]}))
    said = "quaternion, from column 3 of arm 0 on, has length 2 at step 4, not 1; repair or drop the episode"
    with pytest.raises(EpisodeError, match=f"demo_1.*: the state's {said}"):
        list(open_source(folder, kind))


def test_a_state_of_joints_is_taken_as_it_is_with_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joints = np.random.default_rng(0).normal(size=(20, 9)).astype(np.float32)
    _replace(folder, proprio=joints)
    layout._tell_joints.cache_clear()
    assert (open_source(folder, "npz")[1].proprio == joints).all()
    open_source(folder, "npz")[1]
    assert capsys.readouterr().out.count("from column 3 of arm 0 on, is none in most steps, so that no ρ") == 1


def _replace(folder: Path, **changes: np.ndarray) -> None:
    with np.load(folder / "demo_1.npz") as old:
        np.savez(folder / "demo_1.npz", **({k: old[k] for k in old.files} | changes))


def _marked(value: float) -> np.ndarray:
    """A state whose gripper was not measured at step 5."""
    state = np.tile([0.1, 0.2, 0.3, 1, 0, 0, 0, 0.04, -0.04], (20, 1))
    state[5, 7] = value
    return state


def _lost(value: float, *steps: int) -> np.ndarray:
    """A state whose height was not measured at some steps."""
    state = _marked(0.04)
    state[list(steps), 2] = value
    return state


OPEN_AND_CLOSED = np.where(np.arange(20) % 8 < 4, 85_000, 0)[:, None] * [0, 0, 0, 0, 0, 0, 0, 1, 0] + _marked(0.04)
"""A gripper whose opening is told in micrometres."""


@pytest.mark.parametrize(
    "state",
    [
        _marked(40),
        _marked(0.02) * [*[1e5] * 3, *[1] * 4, *[1e5] * 2],
        _marked(-9999)[5:],
        _marked(-9999)[:6],
        _lost(-9999, *range(20)),
        _lost(-9999, 0, 1, 18, 19),
        OPEN_AND_CLOSED,
    ],
)
def test_millimetres_bytes_and_the_ends_of_a_recording_are_accepted(folder: Path, state: np.ndarray) -> None:
    _replace(folder, **{key: value[: len(state)] for key, value in arrays(plain(1)).items()} | {"proprio": state})
    assert len(open_source(folder, "npz")[1]) == len(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": np.zeros((3, 7))}, "action has 3 steps"),
        ({"action": np.zeros(20)}, r"'action' is float64\[20\]"),
        ({"action": np.zeros((20, 0))}, r"'action' is float64\[20, 0\]"),
        ({"phase": np.array([b"\xff"] * 20)}, "'phase': 'utf-8' codec can't decode .*; store text of UTF-8"),
        (
            {"proprio": [[1.1e6, 0, 0, 1, 0, 0, 0, 0, 0]] * 20},
            "proprio is 1.1e.06 at step 0, column 0; no robot's unit is that small",
        ),
        ({"proprio": _marked(-9999)}, "proprio is -9999 at step 5, column 7, and within 0.04 at all others"),
        (
            {"proprio": _lost(-9999, 0, 8, 9, 14)},
            r"proprio is -9999 at step 8 \(and 3 more\), column 2, and within 0.3 ",
        ),
        ({"proprio": np.zeros((20, 8))}, r"state has shape \(20, 8\), the layout has 9 columns"),
        ({"image_wrist": np.zeros((20, 8, 8, 3))}, "image_wrist is float64.* not uint8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder: Path, changes: dict[str, np.ndarray], message: str) -> None:
    _replace(folder, **changes)
    with pytest.raises(EpisodeError, match=message) as error:
        list(open_source(folder, "npz"))
    assert "demo_1" in str(error.value)


@pytest.mark.parametrize(
    ("layout", "at", "value", "message"),
    [
        ("bridge", (5, 3), -9999, r"the state's euler_xyz, from column 3 on, is -9999 at step 5, column 0"),
        ("libero", (5, 5), -9999, r"the state's rotvec, from column 3 on, is -9999 at step 5, column 2, and within"),
        ("bridge", (0, 4), 5e8, r"the state's euler_xyz, .* is 5e\+08 at step 0, column 1; no robot's unit"),
    ],
)
def test_angles_that_no_robot_measures_are_refused(
    folder: Path, layout: str, at: tuple[int, int], value: float, message: str
) -> None:
    width = 7 if layout == "bridge" else 8
    states = np.random.default_rng(0).random((STEPS, width))
    _replace(folder, proprio=states)
    assert len(open_source(folder, "npz", layout=layout)[1]) == STEPS
    states[at] = value
    _replace(folder, proprio=states)
    with pytest.raises(EpisodeError, match=rf"demo_1\.npz: {message}"):
        open_source(folder, "npz", layout=layout)[1]


STEPS = len(plain(1))
TIMES = np.arange(STEPS, dtype=np.float32) / 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({name: np.zeros(5)}, f"'{name}' has 5 steps, the actions {STEPS}; cut them to the same steps or drop the")
          for name in ("is_first", "is_last", "done", "reward", "discount", "timestamp", "rho", "change_point")),
        ({"rho": np.zeros((STEPS + 1, 1))}, f"'rho' has {STEPS + 1} steps, the actions {STEPS}"),
        ({"timestamp": TIMES[::-1]}, "'timestamp' is .* at step 1, not after .*; write it with times that increase$"),
        ({"timestamp": 10**18 - np.arange(STEPS)}, f"'timestamp' is {10**18 - 1} at step 1, not after {10**18}; write"),
        ({"timestamp": np.append(TIMES[:-1], np.nan)}, f"'timestamp' is nan at step {STEPS - 1}, not after"),
        ({"timestamp": np.append(TIMES[:-1], TIMES[-2]).astype(np.uint8)}, "'timestamp' is 0 at step 1, not after 0"),
        ({"timestamp": np.append(TIMES[:-1], TIMES[-2])}, "'timestamp' is .* at step .*, not after"),
        ({"timestamp": (1790000000 + TIMES.astype(float)).astype(np.float32)}, None),  # without fractions there
        ({"timestamp": TIMES, "done": np.zeros(STEPS, bool)}, None),
        ({"timestamp": np.stack([TIMES, TIMES * 0], 1)}, None),
        ({"timestamp": np.arange(5).astype("datetime64[s]")}, None),  # no plain array
        ({"done": np.array(True), "reward": np.array([1.0])}, None),  # of the episode
        ({"success_rates": np.zeros(5)}, None),
        ({"obs/timestamp": TIMES[::-1]}, "'obs/timestamp' is .* at step 1, not after"),
        ({"time": np.stack([TIMES[::-1], TIMES], 1)}, None),
        ({"timestamp": np.stack([TIMES[::-1], TIMES], 1)}, "'timestamp' is .* at step 1, not after"),
        ({"num_steps": np.array(STEPS + 6)}, f"'num_steps' says {STEPS + 6} steps, there are {STEPS}; correct it"),
        ({"num_steps": np.array(STEPS), "length": np.array(0.3)}, None),  # of a rope
        ({"valid": np.arange(STEPS) < 5}, "'valid' is false at step 5; it was not measured there"),
        ({"mask": np.zeros((STEPS, 4, 4), bool), "grasp_valid": np.zeros(STEPS, bool)}, None),
        ({"frame_index": np.arange(STEPS) * 2 + 7}, None),
        ({"frame_index": 1_790_000_000_123_456_789 + np.arange(STEPS) * 50_000_001}, None),
        ({"timestamp": np.zeros((STEPS, 0))}, None),
        ({"action_mask": np.ones(7, bool), "time": np.array([0.0, 2.4])}, None),  # of columns, of the whole
        ({"time": np.arange(STEPS) // 10}, None),  # in whole seconds
        ({"valid": np.full(STEPS, np.nan)}, "'valid' is false at step 0"),
        ({"num_steps": np.array(99.0)}, "'num_steps' says 99 steps"),
    ],
)  # fmt: skip
def test_arrays_of_one_row_per_step_have_the_steps_of_the_actions(
    folder: Path, changes: dict[str, np.ndarray], message: str | None
) -> None:
    _replace(folder, **changes)
    if message is None:
        assert [len(episode) for episode in open_source(folder, "npz")][1] == STEPS
    else:
        with pytest.raises(EpisodeError, match=rf"demo_1\.npz: {message}"):
            list(open_source(folder, "npz"))


def test_a_conversion_that_was_killed_is_no_folder_of_recordings(folder: Path) -> None:
    (folder / "toy-train.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(EpisodeError, match=r"holds toy-train\.tfrecord-.*: it is an RLDS dataset that lacks"):
        open_source(folder, "npz")
    with pytest.raises(EpisodeError, match="an RLDS dataset that lacks features"):
        kind_of(folder)


@pytest.mark.parametrize(("behind", "refused"), [(b"PK\3\4 of another", True), (b"junk", True), (bytes(512), False)])
def test_what_lies_behind_the_end_of_an_npz_is_not_passed_over(folder: Path, behind: bytes, refused: bool) -> None:
    file = folder / "demo_2.npz"
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"by hand"
    assert open_source(folder, "npz").read(2)
    file.write_bytes(file.read_bytes() + behind)
    told = pytest.raises(EpisodeError, match=r"demo_2\.npz: \d+ bytes behind its end, as of files that were put togeth")
    with told if refused else contextlib.nullcontext():
        open_source(folder, "npz").read(2)


@pytest.mark.parametrize("kind", ["npz", "pickle"])
def test_what_nobody_reads_of_arrays_by_name_is_told(folder: Path, tmp_path: Path, kind: str) -> None:
    names = ("odd", "num_samples", "length", "image_primary_index", "is_success_of_others", "frame_index")
    one = {**arrays(plain(0)), **dict.fromkeys(names, np.array("?"))}
    np.savez(folder / "demo_0.npz", **one)
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"beside": 1, "a": one, "b": arrays(plain(1))}))
    source = open_source(*((folder,) if kind == "npz" else (tmp_path / "d.pkl",)), kind, state_key="proprio")
    assert {*source.dropped()} == {*names, "extra" if kind == "npz" else "beside"}
    assert all(name in source.account().partition("not taken: ")[2] for name in source.dropped())


def test_damaged_npz_and_empty_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    file = folder / "demo_2.npz"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(EpisodeError, match=r"demo_2.npz: not a readable .npz"):
        list(open_source(folder, "npz"))
    np.savez(folder / "demo_2.npz", action=np.array([{"a": 1}], object))
    with pytest.raises(EpisodeError, match=r"demo_2.npz: 'action': an array of object, not of plain numbers"):
        list(open_source(folder, "npz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EpisodeError, match=r"no .npz files"):
        open_source(tmp_path / "empty", "npz")
    with pytest.raises(EpisodeError, match=r"demo_1\.npz: a file; give the folder of the \.npz files"):
        open_source(folder / "demo_1.npz", "npz")


def test_a_demonstration_in_a_folder_of_its_own_is_not_left_out_in_silence(folder: Path) -> None:
    count = len(open_source(folder, "npz"))
    (folder / ".hidden").mkdir()
    (folder / "demo_2.npz").rename(folder / ".hidden" / "demo_2.npz")
    assert len(open_source(folder, "npz")) == count - 1
    (folder / "more").mkdir()
    (folder / ".hidden" / "demo_2.npz").rename(folder / "more" / "demo_2.npz")
    with pytest.raises(EpisodeError, match=r"more/demo_2\.npz lies in a folder of its own; put all"):
        open_source(folder, "npz")


def test_a_link_to_a_folder_of_demonstrations_is_not_left_out_in_silence(folder: Path, tmp_path_factory: Any) -> None:
    count, other = len(open_source(folder, "npz")), tmp_path_factory.mktemp("other")
    (folder / "back").symlink_to(folder)
    assert len(open_source(folder, "npz")) == count, "nothing but themselves lies behind a circle"
    (folder / "more").symlink_to(other)
    source = open_source(folder, "npz")
    before = source.identity()
    shutil.copy(folder / "demo_0.npz", other / "demo_3.npz.txt")
    assert source.identity() != before
    (other / "demo_3.npz.txt").rename(other / "demo_3.npz")
    with pytest.raises(EpisodeError, match=r"more/demo_3\.npz lies in a folder of its own; put all"):
        open_source(folder, "npz")


def test_a_reader_that_fails_at_an_index_does_not_end_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = open_source(folder, "npz"), NpzFolder.read
    monkeypatch.setattr(NpzFolder, "read", lambda self, index: [read(self, index)][index])
    with pytest.raises(IndexError):
        list(source)


def test_a_folder_that_may_not_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing, hidden, count = os.scandir, {".Trash-0", "lost+found"}, len(list(folder.glob("*.npz")))
    for name in (*hidden, "more"):
        (folder / name).mkdir()

    def refusing(place: Path) -> Any:
        if Path(place).name in hidden:
            raise PermissionError(13, "Permission denied", str(place))
        return listing(place)

    monkeypatch.setattr("os.scandir", refusing)
    assert len(open_source(folder, "npz")) == count  # nobody's demonstrations lie in those two
    for name in ("more", folder.name):
        hidden.add(name)
        with pytest.raises(EpisodeError, match=rf"{name} cannot be listed \(Permission denied\); get the right"):
            open_source(folder, "npz")


def test_an_array_that_is_stored_twice_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / "demo_1.npz", "a") as file:
        file.writestr("action", file.read("action.npy"))
    with pytest.raises(EpisodeError, match=r"demo_1.npz: 'action' is in it twice"):
        open_source(folder, "npz")


def test_names_and_instructions_that_are_no_text_are_refused(folder: Path) -> None:
    _replace(folder, language_instruction=np.bytes_(b"\xff\xfe"))
    with pytest.raises(EpisodeError, match=r"demo_1.npz: the instruction is b'\\xff\\xfe', not text"):
        list(open_source(folder, "npz"))
    (folder / "demo_2.npz").rename(folder / os.fsdecode(b"demo_\xff.npz"))
    for read in (lambda: open_source(folder, "npz"), lambda: read_arrays(folder / os.fsdecode(b"demo_\xff.npz"))):
        with pytest.raises(EpisodeError, match=r"demo_\\udcff.npz': its name is not UTF-8; rename it"):
            read()


@pytest.mark.parametrize(
    ("kind", "option", "value", "wanted"),
    [
        ("npz", "image_keys", {"image_primary": 5}, r"Mapping\[str, str\] \| null"),
        ("npz", "image_keys", {"image_primary": None}, "Mapping"),
        ("npz", "image_keys", 5, "Mapping"),
        ("npz", "layout", 5, "str | Mapping"),
        ("npz", "language_instruction", float("nan"), "str"),
        ("npz", "language_instruction", "\ud800", "str"),
        ("npz", "action_key", None, "str"),
        ("npz", "action_limit", True, r"float \| null"),
        ("lerobot", "image_size", float("nan"), "tuple"),
        ("lerobot", "image_size", [1.5, 2], "tuple"),
        ("lerobot", "state_key", ["a"], "str"),
        ("robomimic_hdf5", "image_keys", [1], "dict"),
        ("robomimic_hdf5", "language_instruction", {"a": 1}, "str"),
    ],
)
def test_options_of_another_type_are_refused_before_a_file_is_opened(
    tmp_path: Path, kind: str, option: str, value: object, wanted: str
) -> None:
    with pytest.raises(EpisodeError, match=f"{kind}: {option} is .*; give a value of the type {wanted}"):
        open_source(tmp_path / "nothing", kind, **{option: value})


@pytest.mark.parametrize("camera", ["", "proprio", "image_", "image_a/b", "image_a\n", "x/../y", "image_ü"])
def test_what_no_dataset_takes_for_a_camera_is_refused(folder: Path, camera: str) -> None:
    with pytest.raises(
        EpisodeError,
        match=r"npz: image_keys: camera .*; name an array of the source first, then its camera: image_ and letters",
    ):
        open_source(folder, "npz", image_keys={"image_primary": camera})


def test_pipes_are_refused_wherever_they_lie(folder: Path) -> None:
    (folder / "meta").mkdir()
    os.mkfifo(folder / "meta" / "episodes.jsonl")
    for kind in ("npz", "lerobot", "pickle"):
        with pytest.raises(EpisodeError, match=r"episodes.jsonl: neither a file nor a folder"):
            open_source(folder, kind)


def test_phases_in_bytes_of_utf_8_are_text(folder: Path) -> None:
    _replace(folder, phase=np.array(["früh".encode()] * 20))
    assert set(open_source(folder, "npz")[1].phase) == {"früh"}  # type: ignore[arg-type]


def test_two_pictures_of_one_camera_are_refused(folder: Path) -> None:
    with pytest.raises(EpisodeError, match=r"npz: image_keys: image_primary is there twice; say with image_keys which"):
        open_source(folder, "npz", image_keys={"image_primary": "image_primary", "image_wrist": "image_primary"})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays_are_read_as_list_or_files(tmp_path: Path, protocol: int) -> None:
    options = {"state_key": "proprio"}  # the cameras are told by their names, as those of npz
    listed = tmp_path / "all.pkl"
    listed.write_bytes(pickle.dumps([arrays(plain(i)) for i in range(3)], protocol))
    (tmp_path / "files").mkdir()
    for i in range(3):
        (tmp_path / "files" / f"{i}.pkl").write_bytes(pickle.dumps(arrays(plain(i)), protocol))
    for path in (listed, tmp_path / "files"):
        source = pickle.loads(pickle.dumps(open_source(path, "pickle", **options)))
        for i, episode in enumerate(source):
            assert_equal(episode, plain(i).replace(language_instruction=""))


def test_a_dataset_of_pickles_without_pictures_is_known_by_that(tmp_path: Path) -> None:
    """As datasets of them are that were written when pictures had to be named."""
    for name, left_out in (("all", ()), ("none", ("image_primary", "image_wrist"))):
        held = {key: value for key, value in arrays(plain(0)).items() if key not in left_out}
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(held))
        found = {key: key for key in ("image_primary", "image_wrist") if key in held}
        for given in (None, found):
            source = open_source(tmp_path / f"{name}.pkl", "pickle", state_key="proprio", image_keys=given)
            assert source.identity()["options"]["image_keys"] == found


def test_a_thread_that_opens_another_pickle_meanwhile_changes_nothing(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.pkl").write_bytes(pickle.dumps(arrays(plain(i))))
    source: Any = open_source(tmp_path, "pickle", state_key="proprio")

    class Compared:
        """The open file, after whose comparison another thread reads."""

        def __ne__(self, other: object) -> bool:
            source._opened = None
            source.read(1)
            return other != tmp_path / "0.pkl"

    source.read(0)
    source._opened = (Compared(), source._opened[1])
    assert_equal(source.read(0), plain(0).replace(language_instruction=""))


class _Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "bad.pkl", tmp_path / "ran"
    file.write_bytes(pickle.dumps({"action": _Harmful(mark)}))
    with pytest.raises(EpisodeError, match=r"bad.pkl: .*contains posix.system; only dictionaries of numpy arrays"):
        load_arrays(file)
    assert not mark.exists()


@pytest.mark.parametrize("content", [plain(0), {1, 2}, Path("x")])
def test_other_objects_are_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "bad.pkl"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(EpisodeError, match=r"bad.pkl"):
        open_source(file, "pickle")


def test_object_arrays_cannot_smuggle_code(tmp_path: Path) -> None:
    file, mark = tmp_path / "bad.pkl", tmp_path / "ran"
    file.write_bytes(pickle.dumps({"action": np.array([_Harmful(mark)], object)}))
    with pytest.raises(EpisodeError, match=r"type .O8., not plain numbers"):
        load_arrays(file)
    assert not mark.exists()


@pytest.mark.parametrize("text", ["close it", b"close it", np.array("close it"), np.array([b"close it"])])
def test_a_pickles_own_instruction_comes_before_the_option(tmp_path: Path, text: object) -> None:
    file = tmp_path / "one.pkl"
    both = [{**arrays(plain(0)), "language_instruction": text}, arrays(plain(1))]
    file.write_bytes(pickle.dumps(both))
    source = open_source(file, "pickle", state_key="proprio", language_instruction="open it")
    assert [episode.language_instruction for episode in source] == ["close it", "open it"]
    assert "language_instruction" not in source.dropped()
    file.write_bytes(pickle.dumps({**arrays(plain(0)), "language_instruction": np.array([b"close it"] * 20)}))
    with pytest.raises(EpisodeError, match=r"one\.pkl, episode one: the instruction is .*, not text; store text"):
        open_source(file, "pickle", state_key="proprio")[0]


@pytest.mark.parametrize("kind", ["npz", "pickle", "robomimic_hdf5"])
def test_an_instruction_that_no_episode_needs_is_refused(tmp_path: Path, kind: str) -> None:
    written = [{**arrays(plain(i)), "language_instruction": "close it"} for i in range(2)]
    for number, one in enumerate(written):
        np.savez(tmp_path / f"{number}.npz", **one)
    (tmp_path / "two.pkl").write_bytes(pickle.dumps(written))
    file = write_robomimic(tmp_path / "two.hdf5", [make_episode(0), make_episode(1)])
    path = {"npz": tmp_path, "pickle": tmp_path / "two.pkl", "robomimic_hdf5": file}[kind]
    with pytest.raises(EpisodeError, match=rf"{path}: no episode is without an instruction; leave language_instr"):
        open_source(path, kind, language_instruction="open it")


@pytest.mark.parametrize("kind", ["npz", "pickle", "robomimic_hdf5"])
def test_a_blank_instruction_is_none(tmp_path: Path, kind: str) -> None:
    written = [{**arrays(plain(i)), "language_instruction": np.array(text)} for i, text in enumerate(("", " "))]
    for number, one in enumerate(written):
        np.savez(tmp_path / f"{number}.npz", **one)
    (tmp_path / "two.pkl").write_bytes(pickle.dumps(written))
    file = write_robomimic(tmp_path / "two.hdf5", [make_episode(i).replace(language_instruction="") for i in range(2)])
    path = {"npz": tmp_path, "pickle": tmp_path / "two.pkl", "robomimic_hdf5": file}[kind]
    state = {"state_key": "proprio"} if kind == "pickle" else {}
    assert [e.language_instruction.strip() for e in open_source(path, kind, **state)] == ["", ""]
    source = open_source(path, kind, language_instruction="open it", **state)
    assert [episode.language_instruction for episode in source] == ["open it", "open it"]


def test_a_list_of_steps_is_no_list_of_demonstrations(tmp_path: Path) -> None:
    file, whole = tmp_path / "steps.pkl", arrays(plain(0))
    file.write_bytes(pickle.dumps([{key: value[i : i + 1] for key, value in whole.items()} for i in range(20)]))
    with pytest.raises(
        EpisodeError, match=r"steps\.pkl: each of its 20 entries is one step, its action \[1, 7\]: with a b"
    ):
        open_source(file, "pickle", state_key="proprio")


def test_what_stands_beside_the_demonstrations_of_a_pickle_is_of_all_of_them(tmp_path: Path) -> None:
    beside = {"language_instruction": "close it", "success": np.bool_(False), "made": "today"}
    demos = {"a": {**arrays(plain(0)), "language_instruction": " "}, "b": {**arrays(plain(1)), "success": True}}
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({**beside, **demos}))
    source = open_source(tmp_path / "d.pkl", "pickle", state_key="proprio")
    assert [(e.language_instruction, e.success) for e in source] == [("close it", False), ("close it", True)]
    assert "made" in source.dropped() and source.mapping()["phase"] == "phase"
    assert source.mapping()["success"] == "success"


@pytest.mark.parametrize(
    ("said", "success"), [(True, True), (np.array(False), False), (b"no", False), ("perhaps", None)]
)
def test_a_pickle_says_whether_it_succeeded(tmp_path: Path, said: object, success: bool | None) -> None:
    (tmp_path / "one.pkl").write_bytes(pickle.dumps({**arrays(plain(0)), "success": said}))
    source = open_source(tmp_path / "one.pkl", "pickle", state_key="proprio")
    assert "success" not in source.dropped()
    if success is None:
        with pytest.raises(EpisodeError, match="episode one: 'success' is 'perhaps', neither true nor false"):
            source[0]
    else:
        assert source[0].success is success


def test_a_step_without_a_phase_is_no_phase_called_nan(tmp_path: Path) -> None:
    demo = {**arrays(plain(0)), "phase": ["nan", *["reach"] * (len(plain(0)) - 2), float("nan")]}
    (tmp_path / "one.pkl").write_bytes(pickle.dumps(demo))
    with pytest.raises(EpisodeError, match=rf"'phase' is nan at step {len(plain(0)) - 1}; give each step a name"):
        open_source(tmp_path / "one.pkl", "pickle", state_key="proprio")[0]


@pytest.mark.parametrize("odd", [None, [1, 2], np.zeros((20, 7), np.float32)])
def test_what_lies_among_the_demonstrations_of_a_pickle_is_not_passed_over(tmp_path: Path, odd: object) -> None:
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"made": "today", "a": arrays(plain(0)), "b": odd}))
    with pytest.raises(EpisodeError, match=r"d\.pkl: 'b' is no demonstration as 'a' is; make a dictionary of each"):
        open_source(tmp_path / "d.pkl", "pickle", state_key="proprio")


def test_what_a_pickle_counts_of_all_its_demonstrations_is_of_none_of_them(tmp_path: Path) -> None:
    total = len(plain(0)) + len(plain(1))
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"num_steps": total, "a": arrays(plain(0)), "b": arrays(plain(1))}))
    assert len([*open_source(tmp_path / "d.pkl", "pickle", state_key="proprio")]) == 2


def test_a_pickle_that_counts_other_steps_of_all_its_demonstrations_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"num_steps": 100, "a": arrays(plain(0)), "b": arrays(plain(1))}))
    with pytest.raises(EpisodeError, match=r"episode d\[a\]: 'num_steps' says 100 steps, there are \d+; correct it"):
        open_source(tmp_path / "d.pkl", "pickle", state_key="proprio").read(0)


def test_a_pickle_that_says_it_holds_more_demonstrations_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"num_demos": 5, "a": arrays(plain(0)), "b": arrays(plain(1))}))
    with pytest.raises(EpisodeError, match=r"d\.pkl: 2 demonstrations, 'num_demos' says 5; get all of it"):
        open_source(tmp_path / "d.pkl", "pickle", state_key="proprio")


def test_a_pickle_that_gives_a_key_twice_is_refused(tmp_path: Path) -> None:
    twice = b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u."
    assert pickle.loads(twice) == {"a": 2}
    (tmp_path / "demo.pkl").write_bytes(twice)
    with pytest.raises(EpisodeError, match="it holds a dictionary with a key twice"):
        load_arrays(tmp_path / "demo.pkl")


def test_a_camera_that_no_npz_file_has_is_missed_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "demo.npz", proprio=np.zeros((3, 9)), action=np.zeros((3, 7)))
    with pytest.raises(EpisodeError, match="no array 'typo', which image_keys names; there are action, "):
        open_source(tmp_path, "npz", image_keys={"typo": "image_primary"})


def test_what_torch_saved_is_called_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "demo.pkl", "w") as archive:
        archive.writestr("demo/data.pkl", b"")
    with pytest.raises(EpisodeError, match=r"demo\.pkl: .* it is a zip, as torch\.save writes; save"):
        open_source(tmp_path, "pickle")


def test_truncated_pickles_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "cut.pkl"
    file.write_bytes(pickle.dumps(arrays(plain(0)))[:-2000])
    with pytest.raises(EpisodeError, match=r"cut.pkl: not read as a pickle of arrays"):
        open_source(file, "pickle")


def test_a_second_pickle_in_a_file_is_not_lost_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "two.pkl"
    file.write_bytes(pickle.dumps(arrays(plain(0))) + pickle.dumps(arrays(plain(1))))
    with pytest.raises(EpisodeError, match=r"two.pkl: .* something follows behind its end"):
        open_source(file, "pickle")


def test_endings_in_large_letters_count_and_hidden_companions_do_not(folder: Path) -> None:
    (folder / "demo_2.npz").rename(folder / "demo_2.NPZ")
    (folder / "._demo_0.npz").write_bytes(b"what macOS puts beside a file")
    assert_equal(list(open_source(folder, "npz"))[2], plain(2))


def test_pictures_without_rows_are_refused(folder: Path) -> None:
    _replace(folder, image_wrist=np.zeros((20, 0, 8, 3), np.uint8))
    with pytest.raises(EpisodeError, match=r"uint8\[20, 0, 8, 3\], not uint8"):
        open_source(folder, "npz").read(1)


def test_an_npz_needs_the_memory_of_the_copies_that_are_made(tmp_path, monkeypatch):
    from gap_vla.demos.arrays import read_arrays

    np.savez_compressed(tmp_path / "e.npz", proprio=np.zeros(100_000))
    monkeypatch.setattr("gap_vla.core.foreign.available_memory", lambda: 2_000_000)
    with pytest.raises(EpisodeError, match=r"e\.npz: 'proprio': needs 3,200,512 bytes of memory, 2,000,000 are free"):
        read_arrays(tmp_path / "e.npz")


def test_a_frame_of_a_pickle_that_reaches_beyond_its_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "frame.pkl"
    content = pickle.dumps(arrays(plain(0)), protocol=4)
    assert content[2] == 0x95, "FRAME, not after PROTO 4; its length is the eight bytes that follow"
    file.write_bytes(content[:3] + (2**40).to_bytes(8, "little") + content[11:])
    with pytest.raises(EpisodeError, match=r"frame.pkl: .*it ends early"):
        open_source(file, "pickle")


@pytest.mark.parametrize("header", [b"\x11\0{'descr': 1 or 2}", b"\x10\0{'descr': 1 or 2}", b"\x02\0{}", b"\x09\0{}"])
def test_a_header_of_numpys_that_is_none_is_refused_without_pythons_words(tmp_path: Path, header: bytes) -> None:
    from gap_vla.demos.arrays import read_arrays

    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive, archive.open("action.npy", "w") as stream:
        stream.write(b"\x93NUMPY\x01\x00" + header)
    said = rf"^{tmp_path}/e\.npz: 'action': its header describes no array; write it again$"
    with pytest.raises(EpisodeError, match=said):
        read_arrays(tmp_path / "e.npz")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_format_of_numpys_arrays_is_read(tmp_path: Path, version: tuple[int, int]) -> None:
    from gap_vla.demos.arrays import read_arrays

    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive, archive.open("action.npy", "w") as stream:
        np.lib.format.write_array(stream, plain(0).action, version=version)
    np.testing.assert_array_equal(read_arrays(tmp_path / "e.npz")["action"], plain(0).action)


def test_a_folder_of_pickles_is_opened_without_holding_all_of_their_arrays(tmp_path: Path) -> None:
    for number in range(8):
        state = np.tile(np.float32([0, 0, 0, 1, 0, 0, 0, 0, 0]), (20, 1))
        content = {"state": state, "action": np.zeros((20, 7)), "image": np.zeros((20, 256, 256, 3), np.uint8)}
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps(content))
    tracemalloc.start()
    open_source(tmp_path, "pickle")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * 20 * 256 * 256 * 3


def test_an_array_whose_checksum_is_another_is_to_be_copied_again(folder: Path) -> None:
    file = folder / "demo_1.npz"
    content = bytearray(file.read_bytes())
    content[content.index(b"proprio.npy") + 300] ^= 1
    file.write_bytes(content)
    with pytest.raises(EpisodeError, match=r"demo_1.npz: .*Bad CRC-32 .*; copy or write it again$"):
        open_source(folder, "npz")[1]
