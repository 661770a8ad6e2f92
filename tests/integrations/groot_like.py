"""What test_groot.py trains in the place of `gr00t.experiment.experiment` at 55879c2: names, arguments and shapes of
the trainer, of the data (247d603) and of GR00T N1.7's model (8cb8bd7), with a few weights.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

LOG: list[dict[str, Any]] = []
"""Of every step the weights before it, the inputs, the loss, and the weights after it."""


class CategorySpecificMLP(nn.Module):
    def __init__(self, num_categories, input_dim, hidden_dim, output_dim):
        super().__init__()
        self.layer1 = nn.Parameter(torch.randn(num_categories, input_dim, hidden_dim))
        self.layer2 = nn.Parameter(torch.randn(num_categories, hidden_dim, output_dim))

    def forward(self, x, cat_ids):
        return torch.bmm(torch.bmm(x, self.layer1[cat_ids]).relu(), self.layer2[cat_ids])


class ActionHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.state_encoder = CategorySpecificMLP(3, 4, 8, 8)
        self.action_decoder, self.mask_token = nn.Linear(8, 2), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, backbone_output, action_input):
        state = action_input["state"].view(len(backbone_output), 1, -1)
        state_features = self.state_encoder(state, action_input["embodiment_id"])
        dropped = torch.tensor([0.0, 1.0, 0.0])[:, None, None]  # N1.7 draws who loses its state
        state_features = state_features * (1 - dropped) + self.mask_token * dropped
        pred = self.action_decoder((backbone_output[:, None] + state_features).tanh())
        return {"loss": (pred - action_input["action"]).square().mean()}


class Gr00t(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.action_head = nn.Linear(6, 8), ActionHead()

    def forward(self, inputs):
        return self.action_head(self.backbone(inputs["pixels"]), inputs)


class ShardedSingleStepDataset:
    def __init__(self, dataset_path, lengths):
        self.dataset_path, self.embodiment_tag = dataset_path, "new_embodiment"
        self.episode_loader = SimpleNamespace(episodes_metadata=[{"episode_index": i} for i in range(len(lengths))])
        steps = [np.arange(length)[::-1] for length in lengths]
        self.sharded_episodes = [[(1, steps[1]), (0, steps[0][:2])], [(0, steps[0][2:])]]

    def __len__(self):
        return len(self.sharded_episodes)

    def get_shard(self, idx):
        points = [(episode, step) for episode, steps in self.sharded_episodes[idx] for step in steps]
        return [self.get_datapoint(np.random.default_rng(100 * episode + step)) for episode, step in points]

    def get_datapoint(self, rng):
        drawn = {"state": (1, 4), "action": (1, 2), "pixels": (6,)}
        return {
            **{name: rng.normal(size=shape).astype(np.float32) for name, shape in drawn.items()},
            "embodiment_id": int(rng.integers(3)),
        }


def collate(features):
    keys = set().union(*(element.keys() for element in features))
    return {"inputs": {key: torch.from_numpy(np.stack([element[key] for element in features])) for key in keys}}


class Gr00tTrainer:
    """The calls of transformers' `Trainer`, in its order."""

    def __init__(self, *, model, args, train_dataset, data_collator):
        self.model, self.args, self.train_dataset, self.data_collator = model, args, train_dataset, data_collator
        self.state = SimpleNamespace(global_step=0)

    def create_optimizer(self):
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def train(self):
        self.create_optimizer()
        samples = [
            sample
            for dataset in self.train_dataset.datasets
            for i in range(len(dataset))
            for sample in dataset.get_shard(i)
        ]
        for first in range(0, 3 * self.args.max_steps, 3):
            self.model.train()
            inputs = self.data_collator(samples[first : first + 3])
            rho, before = inputs["inputs"].get("rho"), {n: p.detach().clone() for n, p in self.model.named_parameters()}
            loss = self.compute_loss(self.model, inputs, num_items_in_batch=None)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.state.global_step += 1
            after = {n: p.detach().clone() for n, p in self.model.named_parameters()}
            LOG.append({"before": before, "inputs": inputs["inputs"], "rho": rho, "loss": loss.item(), "after": after})
            self.model.eval()
            with torch.no_grad():
                self.compute_loss(self.model, self.data_collator(samples[:3]), return_outputs=True)


def run(config):
    dataset = ShardedSingleStepDataset(config.dataset_path, config.lengths)
    torch.manual_seed(0)
    trainer = Gr00tTrainer(
        model=Gr00t(),
        args=SimpleNamespace(max_steps=config.max_steps),
        train_dataset=SimpleNamespace(datasets=[dataset]),
        data_collator=collate,
    )
    trainer.train()
