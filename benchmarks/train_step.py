"""Seconds of one LANIT step, split by part, against the same step with nothing cached.

    python benchmarks/train_step.py demo                       # the demo's networks and CLIP, batch 8
    python benchmarks/train_step.py paper --batch 1 --steps 2  # 256², ViT-B/32, nine templates; a GPU wants --batch 8

Images, labels and CLIP's weights are random: times do not depend on them. A row's time is the mean over its steps,
which on the CPU are taken in turn with the other rows': a machine that is not quiet disturbs all alike. Not cached
means, as in the authors' code, real images encoded four times and all prompts once in each step. On a GPU there are
rows in bfloat16, too, and compiled.

    python benchmarks/train_step.py demo --method all          # every method of the catalogue, or one by its name

gives instead seconds and peak memory of a whole step of each method, in a process of its own: on a GPU what its tensors
took, on the CPU all that the process did, of which the imports alone are half a GiB. A method's settings are those of
the configuration, or its defaults, which are its paper's; weights of a perceptual distance are random, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import open_clip
import torch
import torchvision
import yaml
from safetensors.torch import save_file

from lanit import catalogue
from lanit.config import parse
from lanit.data.rng import BatchRng
from lanit.language.clip import ClipOptions, find_model
from lanit.language.clip_features import TextsOptions, embed_texts
from lanit.language.prompts import base_features, text_features
from lanit.methods import create_method
from lanit.methods.lanit import Lanit
from lanit.methods.protocol import Batch, LabelledMethod, Method, Update
from lanit.networks.perceptual import ALEXNET_WIDTHS
from lanit.settings.lanit import LanitOptions
from lanit.training.averaging import average
from lanit.training.step import take_step

ROOT = Path(__file__).parents[1]
PARTS = ("not cached", "translations", "discriminator", "latent-guided", "reference-guided", "averages")
UPDATES = ("discriminator", "discriminator", "latent-guided", "reference-guided")
# At which share of its budget a method's step is measured, where not all steps are alike.
PHASES = {
    "tunit": {"tunit, guiding network alone": 0.1, "tunit": 0.7},
    "lanit": {"lanit, phase 1": 0.1, "lanit, phase 2, prompts learn": 0.7},
}


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
    text = "seconds and peak memory of a step of this method, or of each, instead of the parts of LANIT's"
    parser.add_argument("--method", choices=[*catalogue.METHODS, "all"], help=text)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {arguments.threads} threads"
    if arguments.method is not None:
        return compare_methods(arguments, device, where)
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
        train, *given = prepare(arguments.size, Path(folder))
        bench = Bench(train["lanit"]["settings"], *given, arguments.batch, device)
        for group in groups:
            method = bench.make(Path(folder), compiled=group[0].compiled)
            for step in range(arguments.steps + 1):
                for case in group:
                    bench.take(case, method, times[case] if step else Times(), step)
    print(
        f"{arguments.size}: {bench.size} pixels, N = {len(bench.domains)}, "
        f"{len(bench.language['templates'])} templates, batch {arguments.batch}; {where}; "
        f"torch {torch.__version__}; mean of {arguments.steps} steps\n"
    )
    print(table(times, arguments.batch))


def compare_methods(arguments: argparse.Namespace, device: str, where: str) -> None:
    """Print a row for each method and phase."""
    names = list(catalogue.METHODS) if arguments.method == "all" else [arguments.method]
    given = (arguments.size, arguments.batch, arguments.steps, arguments.threads, device)
    cases = [(name, row, at, *given) for name in names for row, at in PHASES.get(name, {name: 0.7}).items()]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:  # each row's memory is its own
        rows = processes.starmap(measure, cases, chunksize=1)
    print(f"{arguments.size}: batch {arguments.batch}; {where}; torch {torch.__version__}; mean of", end=" ")
    print(f"{arguments.steps} steps\n\n| method | seconds | images/s | peak GiB |\n|---|---:|---:|---:|")
    for name, seconds, peak in rows:
        print(f"| {name} | {seconds:.4f} | {arguments.batch / seconds:.1f} | {peak:.2f} |")


def measure(
    name: str, row: str, progress: float, size: str, batch: int, steps: int, threads: int, device: str
) -> tuple[str, float, float]:
    """Return the row's name, the seconds of a step, and the GiB at its peak."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory() as folder:
        train, domains, pixels, language = prepare(size, Path(folder))
        settings = train.get(name, {}).get("settings", {})
        if hasattr(catalogue.read_settings(name, settings), "perceptual"):
            settings = settings | {"perceptual": perceptual(settings, language["clip"], Path(folder))}
        language = language if catalogue.find(name).supervision == "text" else None
        torch.manual_seed(0)
        method = create_method(name, settings, pixels, domains, language, Path(folder), device)
        part = batch_of(method, domains, pixels, batch, progress, device)
        for step in range(steps + 1):
            if step == 1:  # the first has warmed up
                clock = Clock(device)
            rng = BatchRng(0, step, 0, batch, batch, device)
            take_step(method, [dataclasses.replace(part, step=step, rng=rng)])
            average(method.averaged, method.networks, method.averaging(progress))
        seconds = clock.lap() / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row, seconds, torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak


def batch_of(method: Method, domains: list[str], size: int, count: int, progress: float, device: str) -> Batch:
    """Random images, with labels such as the method trains on: of one domain each, or of three in ten."""
    images, labels = draw(len(domains), size, count)
    given: dict[str, torch.Tensor | None] = dict.fromkeys(("source_labels", "reference_labels", "pairs"))
    if isinstance(method, LabelledMethod):
        if method.references == 2:
            labels = [torch.eye(len(domains))[of.argmax(1)] for of in labels]
            given["second_reference"] = images[0].flip(0).to(device)
        given |= {"source_labels": labels[0].to(device), "reference_labels": labels[1].to(device)}
        given["pairs"] = labels[1].sum().to(device)
    source, reference = (x.to(device) for x in images)
    rng = BatchRng(0, 0, 0, count, count, device)
    return Batch(source, reference, **given, share=1.0, rng=rng, step=0, progress=progress)


def draw(domains: int, size: int, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sources and references of noise (B, 3, H, W), and their labels (B, N), of which three in ten are active."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, count, 3, size, size, generator=generator) * 2 - 1
    labels = (torch.rand(2, count, domains, generator=generator) < 0.3).float()
    labels[..., 0] = torch.maximum(labels[..., 0], (labels.sum(-1) == 0).float())
    return [x.contiguous(memory_format=torch.channels_last) for x in images], list(labels)


def perceptual(settings: dict, clip: dict, folder: Path) -> dict:
    """Options of the perceptual distance that the settings name, LPIPS by default, with weights of chance."""
    options = settings.get("perceptual", {"kind": "lpips"})
    if options["kind"] == "clip":
        return options | {"clip": clip}
    alexnet, linear = folder / "alexnet.pth", folder / "linear.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), alexnet)
    widths = enumerate(ALEXNET_WIDTHS)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in widths}, linear)
    return options | {"weights": str(alexnet), "linear": str(linear)}


def prepare(name: str, folder: Path) -> tuple[dict, list[str], int, dict]:
    """What trainings are told, domains, size and language options; CLIP's random weights and texts in `folder`."""
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
    return config["train"], domains, dataset["size"], language


class Bench:
    """A batch that all steps see: random images, and labels of which three in ten are active."""

    def __init__(self, settings: dict, domains: list[str], size: int, language: dict, count: int, device: str):
        self.settings, self.domains, self.size, self.language = settings, domains, size, language
        self.count, self.device = count, device
        images, labels = draw(len(domains), size, count)
        self.images = [x.to(device) for x in images]
        self.labels = [of.to(device) for of in labels]

    def make(self, folder: Path, compiled: bool) -> Lanit:
        torch.manual_seed(0)
        method = Lanit(parse(LanitOptions, self.settings), self.size, self.domains, self.device, self.language, folder)
        if compiled:
            method.compile()
        return method

    def take(self, case: Case, method: Lanit, times: Times, step: int) -> None:
        """Take one step as a training does, with a clock about each part."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        rng = BatchRng(0, step, 0, self.count, self.count, self.device)
        part = Batch(*self.images, *self.labels, self.labels[1].sum(), 1.0, rng, step, case.progress)
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
