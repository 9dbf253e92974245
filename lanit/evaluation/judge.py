"""The judge in the making: a small classifier that learns from truth on a split of its own, and plays Inception's part.

Its penultimate layer gives the features of FID, KID, density and coverage; its logits tell how often a translation
shows what it should. It learns from split `pretrain` alone, which no method trains on and no score is measured on.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lanit.config import LanitError
from lanit.evaluation.scores import decide
from lanit.files import write_tensors
from lanit.networks.judge import Judge, resize

if TYPE_CHECKING:
    from lanit.data.batches import ImageStore

SPLIT = "pretrain"


@dataclass(frozen=True)
class JudgeOptions:
    size: int = 32  # pixels of its input; other images are resized to it, with antialias
    width: int = 16  # channels of its first layer; its features are 8 times as many
    epochs: int = 6
    batch: int = 128
    learning_rate: float = 4e-3  # the peak of one cycle
    weight_decay: float = 0.02
    held_out: float = 0.1  # share of the split kept aside, to measure it on
    seed: int = 0


def read_small(store: ImageStore, size: int) -> Tensor:
    """Read all images of a store at the judge's size: uint8 (n, 3, size, size)."""
    rows = torch.arange(len(store)).split(256)
    return torch.cat([resize(store.read(chosen), size).round().clamp(0, 255).to(torch.uint8) for chosen in rows])


def train_judge(
    images: Tensor,
    truth: NDArray[np.bool_],
    classes: list[str],
    exclusive: bool,
    options: JudgeOptions,
    device: str = "cpu",
) -> tuple[Judge, dict[str, float]]:
    """Train a judge on images (n, 3, H, W) uint8 and their classes (n, K).

    Returns:
        The judge, and its accuracy per class on the share kept aside: of the images that have the class where classes
        are exclusive, else of the decisions yes or no.

    Raises:
        LanitError: an option is out of range, the share kept aside, or the rest, lacks a class, or training diverges.
    """
    if min(options.size, options.width, options.epochs, options.batch) < 1 or not 0 < options.held_out < 1:
        raise LanitError("judge.size, width, epochs and batch must be at least 1, and judge.held_out between 0 and 1")
    order = np.random.default_rng(options.seed).permutation(len(images))
    aside = round(options.held_out * len(images))
    held_out, rest = order[:aside], order[aside:]
    for rows, name in [(held_out, "share kept aside"), (rest, "rest")]:
        missing = [label for label, seen in zip(classes, truth[rows].any(axis=0)) if not seen]
        if missing:
            raise LanitError(
                f"the {name} of split {SPLIT!r} ({len(rows)} images) has no image of {', '.join(missing)}; "
                "give the split more images, or the judge another held_out"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        judge = Judge(classes, exclusive, options.size, options.width)
    judge.to(device).to(memory_format=torch.channels_last)
    _fit(judge, images, torch.tensor(truth), torch.from_numpy(rest), options, device)
    judge.eval()
    with torch.inference_mode():
        logits = torch.cat([judge(images[rows].to(device)).cpu() for rows in torch.from_numpy(held_out).split(512)])
    right = decide(logits.numpy(), exclusive) == truth[held_out]
    if exclusive:
        accuracy = [right[truth[held_out, k], k].mean() for k in range(len(classes))]
    else:
        accuracy = right.mean(axis=0)
    return judge, {label: round(float(value), 4) for label, value in zip(classes, accuracy)}


def _fit(judge: Judge, images: Tensor, truth: Tensor, rows: Tensor, options: JudgeOptions, device: str) -> None:
    generator = torch.Generator().manual_seed(options.seed)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    steps = options.epochs * math.ceil(len(rows) / options.batch)
    # Up to the peak over the first quarter, and down to nothing, in straight lines.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min(4 * (t + 1), 4 * (steps - t) / 3, steps) / steps
    )
    judge.train()
    for _ in range(options.epochs):
        for chosen in rows[torch.randperm(len(rows), generator=generator)].split(options.batch):
            logits = judge(augment(images[chosen], generator).to(device))
            target = truth[chosen].to(device)
            if judge.exclusive:
                loss = F.cross_entropy(logits, target.to(torch.uint8).argmax(dim=1))
            else:
                loss = F.binary_cross_entropy_with_logits(logits, target.to(torch.float32))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        if not torch.isfinite(loss):
            raise LanitError("training the judge diverged (its loss is not finite); give it a smaller learning_rate")


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 1/16, mirror every other and change the brightness by up to 20 %; images (B, 3, H, W) uint8."""
    count, _, height, width = images.shape
    reach_y, reach_x = height // 16, width // 16
    padded = F.pad(images.to(torch.float32), (reach_x, reach_x, reach_y, reach_y), mode="replicate")
    top = torch.randint(2 * reach_y + 1, (count, 1), generator=generator)
    left = torch.randint(2 * reach_x + 1, (count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(mirrored, columns.flip(1), columns) + left
    lines = torch.arange(height) + top
    moved = padded[torch.arange(count)[:, None, None], :, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    brightness = torch.empty(count, 1, 1, 1).uniform_(0.8, 1.2, generator=generator)
    return (moved * brightness).clamp_(0, 255).to(torch.uint8)


def save_judge(judge: Judge, path: Path, options: JudgeOptions, accuracy: dict[str, float]) -> None:
    """Write the judge as safetensors; its metadata say what it is and how good it is."""
    metadata = {
        "kind": "judge",
        "classes": judge.classes,
        "exclusive": judge.exclusive,
        "size": judge.size,
        "width": judge.width,
        "options": asdict(options),
        "accuracy": accuracy,
    }
    write_tensors(path, {name: value.cpu().numpy() for name, value in judge.state_dict().items()}, metadata)
