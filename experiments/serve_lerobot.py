"""A policy of LeRobot behind a server of openpi's protocol, so that `gap-vla evaluate` rolls it out in our tasks.

    gap-vla collect-demos --task assembly --episodes 60 --action-noise 0.1 --image-size 32 --out assembly.hdf5
    gap-vla convert assembly.hdf5 --out assembly_lerobot --tables      # in LeRobot's environment
    gap-vla annotate assembly_lerobot
    lerobot-train --policy.type=gap_act --dataset.repo_id=local/assembly --dataset.root=assembly_lerobot --seed=1 \\
      --steps=2000 --batch_size=16 --policy.chunk_size=8 --policy.n_action_steps=8 --policy.dim_model=128 \\
      --policy.n_heads=4 --policy.dim_feedforward=512 --policy.n_encoder_layers=2 --policy.n_vae_encoder_layers=1 \\
      --policy.latent_dim=8 --policy.pretrained_backbone_weights=null --policy.optimizer_lr=3e-4 \\
      --policy.optimizer_lr_backbone=3e-4 --save_freq=1000 --policy.push_to_hub=false --output_dir=outputs/gap
    python experiments/serve_lerobot.py outputs/gap/checkpoints/002000/pretrained_model &   # in LeRobot's environment
    gap-vla evaluate --policy ws://localhost:8000 --task assembly --keys keys.json --episodes 40 --seed 500 \\
      --image-size 32 --cameras primary

`keys.json` is `{"execute": 8, "image_size": 32}`. The extras `phases` and `serve` are needed beside LeRobot.
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
