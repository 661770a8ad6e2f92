"""ACT of lerobot-train on one of our tasks, plain and with GAP: recordings for LeRobot, and its policy behind a server.

    gap-vla collect-demos --task assembly --episodes 60 --action-noise 0.1 --image-size 32 --out assembly.hdf5
    python experiments/lerobot_act.py export assembly.hdf5 assembly_lerobot            # in LeRobot's environment
    gap-vla annotate assembly_lerobot
    lerobot-train --policy.type=gap_act --dataset.root=assembly_lerobot …              # docs/ANY_POLICY.md
    python experiments/lerobot_act.py serve outputs/…/pretrained_model &               # in LeRobot's environment
    gap-vla evaluate --policy ws://localhost:8000 --task assembly --keys keys.json --episodes 40

`keys.json` is `{"execute": 8, "image_size": 32}`. The extras `phases` and `serve` are needed beside LeRobot.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

CAMERA = "image_primary"


def export(recordings: Path, folder: Path) -> None:
    """Writes recordings of any format that is read into a LeRobot dataset, by LeRobot's own writer."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from gap_vla.demos.source import open_source

    source = open_source(recordings)
    first = source.read(0)
    size = first.images[CAMERA].shape[1:]
    features: dict[str, dict[str, Any]] = {
        "observation.state": {"dtype": "float32", "shape": first.proprio.shape[1:], "names": None},
        "observation.images.primary": {"dtype": "image", "shape": size, "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": first.action.shape[1:], "names": None},
    }
    if first.proprio.shape[1] == 9:
        features["observation.state"]["names"] = "x y z qw qx qy qz finger_left finger_right".split()
    dataset = LeRobotDataset.create(f"local/{folder.name}", 20, features, root=folder, use_videos=False)
    for number in range(len(source)):
        episode = source.read(number)
        for step in range(len(episode.action)):
            dataset.add_frame(
                {
                    "observation.state": episode.proprio[step],
                    "observation.images.primary": episode.images[CAMERA][step],
                    "action": episode.action[step],
                    "task": str(episode.language_instruction),
                }
            )
        dataset.save_episode()
    dataset.finalize()


class LeRobotPolicy:
    """A trained policy of LeRobot as our rollouts see one. It predicts chunks; the client executes them."""

    def __init__(self, checkpoint: Path):
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
        from lerobot.utils.import_utils import register_third_party_plugins

        register_third_party_plugins()
        config = PreTrainedConfig.from_pretrained(checkpoint)
        self.name, self.identity = config.type, {"checkpoint": str(checkpoint)}
        self._policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config)
        self._before, self._after = make_pre_post_processors(config, str(checkpoint))

    def reset(self, episode_ids: Sequence[int]) -> None:
        pass

    def act(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B A"]:
        return self.predict(observations, episode_ids)[:, 0]

    def predict(self, observations: dict[str, np.ndarray], episode_ids: Sequence[int]) -> Float[np.ndarray, "B H A"]:
        import torch

        batch = {
            "observation.state": torch.as_tensor(observations["proprio"]),
            "observation.images.primary": torch.as_tensor(observations[CAMERA]).permute(0, 3, 1, 2) / 255,
            "task": list(observations["language_instruction"]),
        }
        with torch.inference_mode():
            chunks = self._policy.predict_action_chunk(self._before(batch))
            return self._after(chunks).numpy()


def serve(checkpoint: Path, port: int) -> None:
    """Answers each observation with the policy's chunk, by openpi's protocol."""
    from gap_vla.serving.server import PolicyServer, serve_forever

    server = PolicyServer(LeRobotPolicy(checkpoint), whole_chunks=True)
    asyncio.run(serve_forever(server, "127.0.0.1", port, lambda port: print(f"serves on port {port}", flush=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export")
    exporting.add_argument("recordings", type=Path)
    exporting.add_argument("folder", type=Path)
    serving = commands.add_parser("serve")
    serving.add_argument("checkpoint", type=Path)
    serving.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if options.command == "export":
        export(options.recordings, options.folder)
    else:
        serve(options.checkpoint, options.port)


if __name__ == "__main__":
    main()
