"""What shows at once, lost files, links and wrong numbers of episodes, is refused before ρ is computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_demos import make_episode, write_robomimic

from gap_vla.core.episode import EpisodeError
from gap_vla.demos import open_source
from gap_vla.demos.source import Source
from gap_vla.rlds import build_dataset, convert

TINY = Path(__file__).parents[1] / "data" / "lerobot"


def lerobot(kind: str, spoil: Callable[[Path], None]) -> Callable[[Path], Source]:
    def made(folder: Path) -> Source:
        root = Path(shutil.copytree(TINY / kind, folder / kind))
        spoil(root)
        return open_source(root, "lerobot")

    return made


def _lost(root: Path) -> None:
    sorted(root.rglob("*.mp4"))[-1].unlink()


def _dangling(root: Path) -> None:
    (video := sorted(root.rglob("*.mp4"))[-1]).unlink()
    video.symlink_to("../blobs/gone")


def _renumbered(root: Path) -> None:
    table = sorted((root / "data").rglob("*.parquet"))[-1]
    cells = pq.ParquetFile(table).read().to_pydict()
    cells["episode_index"] = [0 if n == 0 else 7 for n in cells["episode_index"]]
    pq.write_table(pa.table(cells), table)


def robomimic(link: h5py.SoftLink | h5py.ExternalLink, place: str) -> Callable[[Path], Source]:
    def made(folder: Path) -> Source:
        file = write_robomimic(folder / "d.hdf5", [make_episode(i, annotated=False) for i in range(3)])
        with h5py.File(file, "a") as demos:
            if place in demos:
                del demos[place]
            demos[place] = link
        return open_source(file)

    return made


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lerobot("v21_video", _lost), r"episode_000001.mp4, episode 1: the video is missing; download it"),
        (lerobot("v21_video", _dangling), r"episode_000001.mp4, episode 1: the video is missing; download it"),
        (lerobot("v21_video", _renumbered), r"episode 1: 0 rows of this number, the index says 9"),
        (lerobot("v30_image", _renumbered), r"episode 1: 0 rows of this number, the index says 9"),
        (robomimic(h5py.ExternalLink("o.hdf5", "/x"), "data/demo_2/actions"), "demo_2: 'actions' is a link to another"),
        (robomimic(h5py.ExternalLink("o.hdf5", "/x"), "data/demo_2/obs/more"), "demo_2: 'more' is a link to another"),
        (robomimic(h5py.SoftLink("/nowhere"), "data/demo_2/obs/robot0_eef_pos"), "demo_2: no '/nowhere'"),
        (robomimic(h5py.SoftLink("/nowhere"), "data/demo_2/obs/agentview_image"), "demo_2: no '/nowhere'"),
    ],
)
@pytest.mark.parametrize("fit", [{}, {"fit_episodes": 1}, {"method": "none"}, "dry run"])
def test_what_shows_at_once_is_refused_before_any_work(
    source: Callable[[Path], Source], message: str, fit: dict | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EpisodeError, match=message):
        found = source(tmp_path)
        monkeypatch.setattr(type(found), "read", lambda *_, **__: pytest.fail("an episode was read"))
        if isinstance(fit, str):
            convert.dry_run(found, tmp_path / "picture.png")
        else:
            build_dataset(found, tmp_path / "out", "toy", **fit)
    assert not (tmp_path / "out").exists()
