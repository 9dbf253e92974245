"""Each method of the catalogue as small as it can be, for images of 16 pixels."""

import pytest

NETWORK = {"base_channels": 4, "max_channels": 8, "style_size": 6, "latent_size": 5, "hidden_size": 8, "bottleneck": 4}
SETTINGS = {
    "stargan2": {"network": NETWORK, "learning_rate": 1e-3, "ema": 0.9, "loss": {"ds_decay": 0.8, "r1_every": 2}},
    # Without the term that needs weights.
    "smoothing": {"network": NETWORK, "learning_rate": 1e-3, "ema": 0.9, "loss": {"content": 0.0, "kl_start": 0.3}},
    "tunit": {
        "network": {
            "base": 4, "guiding_base": 4, "max_width": 8, "style": 6, "bottleneck": 4, "residual_blocks": 1, "hidden": 8
        },
        "warmup": 0.3, "loss": {"queue": 16},
    },
    "style_aware": {
        "network": {"base_channels": 4, "max_channels": 16, "style_size": 8, "hidden_size": 8, "bottleneck": 8},
        "loss": {"distance": "l1", "r1_every": 2, "content_every": 2},
    },
    "lanit": {
        "network": NETWORK, "learning_rate": 1e-3, "ema": 0.9,
        "loss": {"dl": 0.5, "similarity": "logit", "adversarial": "pair", "r1_every": 2},
        "prompts": {"start": 0.4, "learning_rate": 0.003, "relabel_every": 2},
    },
}  # fmt: skip


def settings_of(method: str) -> dict:
    """Small settings of a method; one that has none here is in no test that goes over the catalogue."""
    if method not in SETTINGS:
        pytest.fail(f"give {method} small settings in tests/small.py: tests go over all methods of the catalogue")
    return SETTINGS[method]
