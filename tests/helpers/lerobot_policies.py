"""LeRobot's real ACT, Diffusion and SmolVLA classes, tiny and untrained, without network: policy and batch by name."""

from pathlib import Path
from typing import Any

import torch


def features(state: int, action: int):
    from lerobot.configs.types import FeatureType, PolicyFeature

    inputs = {
        "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
        "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)),
    }
    return {"input_features": inputs, "output_features": {"action": PolicyFeature(FeatureType.ACTION, (action,))}}


def make_policy(kind: str, dataset: Any, **options: Any):
    """A policy as LeRobot's factory makes it; `dataset` is what it tells the policy of its training data."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    config = PreTrainedConfig.get_choice_class(kind)(**options)
    return get_policy_class(kind)(config, dataset_meta=dataset)


def make_act(folder: Path, kind: str = "act", dataset: Any = None, **options: Any):
    policy = make_policy(
        kind, dataset, **features(6, 4), **options,
        chunk_size=4, n_action_steps=4, dim_model=16, n_heads=2, dim_feedforward=16, latent_dim=4,
        n_encoder_layers=1, n_vae_encoder_layers=1, dropout=0.0, pretrained_backbone_weights=None, device="cpu",
    )  # fmt: skip
    batch = {
        "observation.state": torch.randn(4, 6),
        "observation.images.top": torch.rand(4, 3, 32, 32),
        "action": torch.randn(4, 4, 4),
        "action_is_pad": torch.zeros(4, 4, dtype=torch.bool),
    }
    return policy, batch


def make_diffusion(folder: Path, kind: str = "diffusion", dataset: Any = None, **options: Any):
    policy = make_policy(
        kind, dataset, **features(6, 4), **options,
        n_obs_steps=2, horizon=8, n_action_steps=4, down_dims=(16, 32), kernel_size=3, n_groups=4,
        diffusion_step_embed_dim=8, spatial_softmax_num_keypoints=4, use_group_norm=True,
        pretrained_backbone_weights=None, device="cpu",
    )  # fmt: skip
    batch = {
        "observation.state": torch.randn(4, 2, 6),
        "observation.images.top": torch.rand(4, 2, 3, 32, 32),
        "action": torch.randn(4, 8, 4),
        "action_is_pad": torch.zeros(4, 8, dtype=torch.bool),
    }
    return policy, batch


def make_smolvla(folder: Path, kind: str = "smolvla", dataset: Any = None, **options: Any):
    write_tiny_smolvlm(folder)
    policy = make_policy(
        kind, dataset, **features(6, 4), **options,
        chunk_size=4, n_action_steps=4, max_state_dim=8, max_action_dim=8, num_vlm_layers=2,
        resize_imgs_with_padding=(32, 32), vlm_model_name=str(folder), load_vlm_weights=False,
        expert_width_multiplier=0.5, tokenizer_max_length=4, device="cpu",
    )  # fmt: skip
    batch = {
        "observation.state": torch.randn(4, 6),
        "observation.images.top": torch.rand(4, 3, 32, 32),
        "action": torch.randn(4, 4, 4),
        "observation.language.tokens": torch.randint(6, 9, (4, 4)),
        "observation.language.attention_mask": torch.ones(4, 4, dtype=torch.bool),
    }
    return policy, batch


def write_tiny_smolvlm(folder: Path) -> None:
    """A vision-language model of SmolVLM's own classes with a few thousand weights, as `from_pretrained` reads it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    special = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = ["<pad>", "<unk>", *special.values(), "push", "the", "nut"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", extra_special_tokens=special
    )
    text = {
        "model_type": "llama", "vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "model_type": "smolvlm_vision", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, image_token_id=3).save_pretrained(folder)
    processor = SmolVLMProcessor(SmolVLMImageProcessor(), fast, SmolVLMVideoProcessor())
    processor.save_pretrained(folder)
