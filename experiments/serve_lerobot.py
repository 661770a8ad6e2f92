"""A policy of LeRobot behind a server of openpi's protocol, so that `gap-vla evaluate` rolls it out in our tasks.

    python experiments/serve_lerobot.py outputs/gap/checkpoints/last/pretrained_model      # in LeRobot's environment

docs/ANY_POLICY.md has the commands from demonstrations to rollouts. The extras `phases` and `serve` are needed beside
LeRobot.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float


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
            "observation.images.primary": torch.as_tensor(observations["image_primary"]).permute(0, 3, 1, 2) / 255,
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
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    serve(options.checkpoint, options.port)


if __name__ == "__main__":
    main()
