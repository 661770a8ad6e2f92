"""What test_openvla_oft.py trains in the place of OpenVLA-OFT's `vla-scripts/finetune.py` at 213c5ff, whose names,
arguments and order of calls it has, with a model of a few weights.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import SGD as AdamW  # so that an update is a multiple of the gradient

CHUNK, ACTION_DIM = 2, 3
RHO = np.linspace(0, 1, 24, dtype=np.float32)
LOG: list[dict[str, Any]] = []
"""What `finetune` saw: of every micro-batch the weights before it, the batch, the loss, and the weights after it."""
SAVED: dict[str, Any] = {}


class ProprioProjector(nn.Module):
    def __init__(self, llm_dim, proprio_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(proprio_dim, llm_dim), nn.Linear(llm_dim, llm_dim)
        self.act_fn1 = nn.GELU()

    def forward(self, proprio=None):
        return self.fc2(self.act_fn1(self.fc1(proprio)))


class Vla(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision, self.head = nn.Linear(6, 8), nn.Linear(8, CHUNK * ACTION_DIM)

    def forward(self, pixel_values, proprio, proprio_projector):
        tokens = self.vision(pixel_values) + proprio_projector(proprio.reshape(len(pixel_values), -1))
        return self.head(tokens.tanh()).reshape(-1, CHUNK, ACTION_DIM)


class RLDSBatchTransform:
    def __init__(self, action_tokenizer, base_tokenizer, image_transform, prompt_builder_fn, use_proprio=False):
        self.use_proprio = use_proprio

    def __call__(self, rlds_batch):
        observation = rlds_batch["observation"]
        return {
            "pixel_values": torch.from_numpy(observation["image_primary"]),
            "actions": rlds_batch["action"],
            "proprio": observation["proprio"],
        }


class PaddedCollatorForActionPrediction:
    def __init__(self, model_max_length, pad_token_id, padding_side="right"):
        pass

    def __call__(self, instances):
        return {
            "pixel_values": torch.stack([instance["pixel_values"] for instance in instances]),
            "proprio": torch.Tensor(np.squeeze(np.stack([instance["proprio"] for instance in instances]))),
            "actions": torch.stack([torch.from_numpy(np.copy(instance["actions"])) for instance in instances]),
        }


def save_dataset_statistics(dataset_statistics, run_dir):
    SAVED[run_dir] = dataset_statistics


class DDP(nn.Module):
    """Only the name that it gives to what it wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *given, **named):
        return self.module(*given, **named)


def init_module(module_class, module_name, cfg, device_id, module_args, to_bf16=False, find_unused_params=False):
    torch.manual_seed(0)
    return DDP(module_class(**module_args))


def run_forward_pass(vla, proprio_projector, batch, use_proprio):
    loss = nn.L1Loss()(batch["actions"], vla(batch["pixel_values"], batch["proprio"], proprio_projector))
    return loss, {"loss_value": loss.item()}


def samples():
    """Of the RLDS pipeline, with ρ as a last dimension of the actions."""
    rng = np.random.default_rng(0)
    for rho in RHO:
        action = rng.normal(size=(CHUNK, ACTION_DIM + 1)).astype(np.float32)
        action[:, -1] = rho, 0.5
        observation = {"image_primary": rng.normal(size=6), "proprio": rng.normal(size=(1, 5))}
        yield {"observation": {k: v.astype(np.float32) for k, v in observation.items()}, "action": action}


def finetune(cfg: SimpleNamespace):
    torch.manual_seed(1)
    vla = DDP(Vla())
    proprio_projector = init_module(ProprioProjector, "proprio_projector", cfg, 0, {"llm_dim": 8, "proprio_dim": 5})
    optimizer = AdamW([*vla.parameters(), *proprio_projector.parameters()], lr=0.1)
    batch_transform = RLDSBatchTransform(None, None, image_transform=None, prompt_builder_fn=None, use_proprio=True)
    collator = PaddedCollatorForActionPrediction(2048, 0, padding_side="right")
    save_dataset_statistics({"threading": {"action": {"mean": np.zeros(ACTION_DIM + 1)}}}, "run")
    instances = [batch_transform(sample) for sample in samples()]
    vla.train()
    weights = {**dict(vla.named_parameters()), **dict(proprio_projector.named_parameters(prefix="proprio"))}
    for batch_idx in range(cfg.max_steps * cfg.grad_accumulation_steps):
        batch = collator(instances[3 * batch_idx : 3 * batch_idx + 3])
        before = {name: value.detach().clone() for name, value in weights.items()}
        loss, _ = run_forward_pass(
            vla=vla, proprio_projector=proprio_projector, batch=batch, use_proprio=cfg.use_proprio
        )
        (loss / cfg.grad_accumulation_steps).backward()
        if (batch_idx + 1) % cfg.grad_accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
        LOG.append({"batch": batch, "before": before, "loss": loss.item(), "models": (vla, proprio_projector)})
        LOG[-1]["after"] = {name: value.detach().clone() for name, value in weights.items()}
        with torch.no_grad():  # validation
            run_forward_pass(vla=vla, proprio_projector=proprio_projector, batch=batch, use_proprio=cfg.use_proprio)
