"""Options of small trainings of each method, and what they are made of."""

from pathlib import Path

import torch
from safetensors.torch import load_file

TEMPLATES = ["a face with {}."]
DOMAINS = ["hat", "glasses", "beard"]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NETWORK = {"base": 4, "guiding_base": 4, "max_width": 8, "style": 6, "bottleneck": 4, "residual_blocks": 1, "hidden": 8}
OPTIONS = {
    "dataset": "faces", "method": "tunit", "domains": ["hat", "glasses"], "seed": 3,
    "size": 16, "images": 48, "batch": 8, "settings": {"network": NETWORK, "warmup": 0.3, "loss": {"queue": 16}},
    "log_every": 2, "samples": 2, "checkpoints": 6, "device": "cpu",
}  # fmt: skip


def learned(language: dict, **changes) -> dict:
    """Options of a LANIT whose prompts learn in the second half, fast enough to change labels."""
    network = {
        "base_channels": 4, "max_channels": 8, "style_size": 6, "latent_size": 5, "hidden_size": 8, "bottleneck": 4
    }  # fmt: skip
    settings = {
        "network": network, "learning_rate": 1e-3, "ema": 0.9,
        "loss": {"dl": 0.5, "similarity": "logit", "adversarial": "pair", "r1_every": 2},
        "prompts": {"start": 0.4, "learning_rate": 0.003, "relabel_every": 2},
    }  # fmt: skip
    options = OPTIONS | {"method": "lanit", "domains": DOMAINS, "settings": settings}
    return options | {"language": language["options"] | {"prompts": "learned"}} | changes


def model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
