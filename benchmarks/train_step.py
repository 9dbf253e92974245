"""Seconds of one LANIT step, split by part, against the same step with nothing cached.

    python benchmarks/train_step.py demo                       # the demo's networks and CLIP, batch 8
    python benchmarks/train_step.py paper --batch 1 --steps 2  # 256², ViT-B/32, nine templates; a GPU wants --batch 8

Images, labels and CLIP's weights are random: times do not depend on them. A row's time is the mean over its steps,
which on the CPU are taken in turn with the other rows': a machine that is not quiet disturbs all alike. Not cached
means, as in the authors' code, real images encoded four times and all prompts once in each step. On a GPU there are
rows in bfloat16, too, and compiled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import open_clip
import torch
import yaml
from safetensors.torch import save_file

from lanit.config import parse
from lanit.data.draws import Draws
from lanit.language.clip import ClipOptions, find_model
from lanit.language.embeddings import TextsOptions, embed_texts
from lanit.language.prompts import base_features, text_features
from lanit.methods.lanit import Lanit, LanitOptions
from lanit.methods.protocol import Batch, Update
from lanit.training.averaging import average
from lanit.training.step import take_step

ROOT = Path(__file__).parents[1]
PARTS = ("not cached", "translations", "discriminator", "latent-guided", "reference-guided", "averages")
UPDATES = ("discriminator", "discriminator", "latent-guided", "reference-guided")


@dataclass(frozen=True)
class Case:
    """One row: how the step is taken."""

    name: str
    progress: float = 0.1  # above the start of prompt learning in the second phase
    cached: bool = True
    precision: str = "fp32"
    compiled: bool = False


@dataclass
class Times:
    """Seconds of each part, a value a step."""

    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peak: float = 0.0  # GPU memory, GiB

    @property
    def total(self) -> float:
        return sum(statistics.fmean(values) for values in self.parts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["demo", "paper"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="steps a row, after one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    cases = [
        Case("phase 1"),
        Case("phase 2, prompts learn", progress=0.7),
        Case("phase 1, nothing cached", cached=False),
    ]
    groups = [cases]
    if device == "cuda":  # one after the other, so that each row's memory is its own
        cases += [Case(f"{case.name}, bf16", case.progress, precision="bf16") for case in cases[:2]]
        cases.append(Case("phase 1, bf16, compiled", precision="bf16", compiled=True))
        groups = [[case] for case in cases]

    times = {case: Times() for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(*prepare(arguments.size, Path(folder)), arguments.batch, device)
        for group in groups:
            method = bench.make(Path(folder), compiled=group[0].compiled)
            for step in range(arguments.steps + 1):
                for case in group:
                    bench.take(case, method, times[case] if step else Times(), step)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {arguments.threads} threads"
    print(
        f"{arguments.size}: {bench.size} pixels, N = {len(bench.domains)}, "
        f"{len(bench.language['templates'])} templates, batch {arguments.batch}; {where}; "
        f"torch {torch.__version__}; mean of {arguments.steps} steps\n"
    )
    print(table(times, arguments.batch))


def prepare(name: str, folder: Path) -> tuple[dict, list[str], int, dict]:
    """Settings, domains, image size and language options; CLIP's random weights and its texts in `folder`."""
    file = "config.yaml" if name == "demo" else "workflow/configs/paper.yaml"
    config = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    dataset = config["dataset"]["faces" if name == "demo" else "celeba_hq"]
    domains = dataset["domains"][:10] if name == "demo" else dataset["domains"][10]
    model = ROOT / "workflow" / "configs" / "clip-faces.json"
    if name == "paper":
        model = folder / "vit-b-32.json"
        model.write_text(json.dumps(open_clip.get_model_config("ViT-B-32-quickgelu")), encoding="utf-8")
    weights = folder / "clip.safetensors"
    save_file(open_clip.create_model(find_model(str(model))).state_dict(), weights)
    clip = {"model": str(model), "pretrained": str(weights)}
    embed_texts(TextsOptions(ClipOptions(**clip), domains, dataset["templates"]), folder / "texts.safetensors")
    language = {"clip": clip, "templates": dataset["templates"], "prompts": "learned"}
    return config["train"]["lanit"]["settings"], domains, dataset["size"], language


class Bench:
    """A batch that all steps see: random images, and labels of which three in ten are active."""

    def __init__(self, settings: dict, domains: list[str], size: int, language: dict, count: int, device: str):
        self.settings, self.domains, self.size, self.language = settings, domains, size, language
        self.count, self.device = count, device
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, count, 3, size, size, generator=generator) * 2 - 1
        labels = (torch.rand(2, count, len(domains), generator=generator) < 0.3).float()
        labels[..., 0] = torch.maximum(labels[..., 0], (labels.sum(-1) == 0).float())
        self.images = [x.to(device).contiguous(memory_format=torch.channels_last) for x in images]
        self.labels = list(labels.to(device))

    def make(self, folder: Path, compiled: bool) -> Lanit:
        torch.manual_seed(0)
        method = Lanit(parse(LanitOptions, self.settings), self.size, self.domains, self.language, folder, self.device)
        if compiled:
            method.compile()
        return method

    def take(self, case: Case, method: Lanit, times: Times, step: int) -> None:
        """Take one step as a training does, with a clock about each part."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        draws = Draws(0, step, 0, self.count, self.count, self.device)
        part = Batch(*self.images, *self.labels, self.labels[1].sum(), 1.0, draws, step, case.progress)
        clock = Clock(self.device)
        if not case.cached:
            self.recompute(method)
            times.parts["not cached"].append(clock.lap())
        seconds: dict[str, float] = defaultdict(float)
        take_step(Timed(method, clock, seconds), [part], case.precision)
        average(method.averaged, method.networks, method.averaging(case.progress))
        seconds["averages"] = clock.lap()
        for name, value in seconds.items():
            times.parts[name].append(value)
        if self.device == "cuda":
            times.peak = max(times.peak, torch.cuda.max_memory_allocated() / 2**30)

    @torch.no_grad()
    def recompute(self, method: Lanit) -> None:
        """What the caches save."""
        clip = method.guide.clip
        for images in (*self.images, *self.images):
            clip.encode_image(images)
        text_features(clip, self.domains, self.language["templates"])
        base_features(clip, self.language["templates"])


class Timed:
    """A method that notes when its updates are asked for: an update's time is its loss, gradients and descent."""

    def __init__(self, method: Lanit, clock: Clock, seconds: dict[str, float]):
        self.method, self.clock, self.seconds = method, clock, seconds
        self.networks, self.optimisers = method.networks, method.optimisers

    def updates(self, parts: Sequence[Batch]) -> Iterator[Update]:
        for number, update in enumerate(self.method.updates(parts)):
            self.seconds["translations"] += self.clock.lap()  # before the first update; nothing between the others
            yield update
            self.seconds[UPDATES[number]] += self.clock.lap()


class Clock:
    """Laps, each after the device has done its work."""

    def __init__(self, device: str) -> None:
        self.device, self.last = device, 0.0
        self.lap()

    def lap(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        before, self.last = self.last, time.perf_counter()
        return self.last - before


def table(times: dict[Case, Times], batch: int) -> str:
    """Markdown: a row a case, seconds a step, in all and by part."""
    names = [name for name in PARTS if any(name in measured.parts for measured in times.values())]
    first = next(iter(times.values())).total
    heads = ["step", "seconds", "ratio", "images/s", *names, "peak GiB"]
    rows = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for case, measured in times.items():
        parts = [f"{statistics.fmean(measured.parts[n]):.4f}" if n in measured.parts else "–" for n in names]
        peak = f"{measured.peak:.1f}" if measured.peak else "–"
        whole = [f"{measured.total:.4f}", f"{measured.total / first:.2f}", f"{batch / measured.total:.1f}"]
        rows.append(f"| {case.name} | {' | '.join([*whole, *parts, peak])} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
