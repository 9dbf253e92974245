"""Using a trained model: `lanit apply --run RUN --source IMAGE_OR_FOLDER --text "…" | --reference … --output PATH`.

For whoever has the folder of a run and pictures of their own, and nothing else of the sweep that made it.
"""

from __future__ import annotations

import argparse
import difflib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit import catalogue
from lanit.config import LanitError, parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lanit.language.clip import Clip
    from lanit.language.pseudo_labels import LabellerOptions, Texts

BATCH = 32  # sources a pass
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Target:
    """What sources are translated into: a style drawn for domains, or a reference's in these or in its own domains."""

    domains: list[int] | None  # of the run's N
    words: str | None  # their names
    reference: Path | None

    @property
    def file_name(self) -> str:
        parts = [self.reference.stem if self.reference else None, self.words]
        return re.sub(r"[^\w.+-]+", "_", "-".join(filter(None, parts))).strip("_")[:100]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", dest="run_folder", required=True, type=Path, help="folder of a finished training")
    text = "a JPEG, PNG or WebP file, or a folder whose files are all translated"
    parser.add_argument("--source", required=True, type=Path, metavar="IMAGE_OR_FOLDER", help=text)
    text = 'names of the run\'s domains, as in "blond hair, smiling": draw a style of them (again for several targets)'
    parser.add_argument("--text", action="append", metavar="DOMAINS", help=text)
    text = "take the style of this picture, in the domains that CLIP sees in it, or in exactly those of --text"
    parser.add_argument("--reference", action="extend", nargs="+", type=Path, metavar="IMAGE", help=text)
    text = "from 0, the source's own style, to 1, the target's (default)"
    parser.add_argument("--strength", type=float, help=text)
    parser.add_argument("--seed", type=int, help="of the styles drawn for --text (default 0)")
    text = "make one picture: targets in the first row, sources in the first column"
    parser.add_argument("--grid", action="store_true", help=text)
    text = "what to write: a picture, or a folder for several"
    parser.add_argument("--output", required=True, type=Path, help=text)
    text = "auto is a GPU where there is one"
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help=text)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Translate pictures of the user's own.

    Raises:
        LanitError: the arguments do not go together, or name what is not there.
    """
    strength = 1.0 if arguments.strength is None else arguments.strength
    seed = 0 if arguments.seed is None else arguments.seed
    texts, references = arguments.text or [], arguments.reference or []
    _check(texts, references, strength, arguments.seed)

    from lanit.evaluation.records import read_run

    record = read_run(arguments.run_folder)
    if texts and references and not catalogue.find(record["method"]).is_labelled:
        raise LanitError(f"{record['method']} takes a reference's style whatever its domains; leave out --text")
    targets = choose_targets(texts, references, record)
    sources = _list_sources(arguments.source)
    one = arguments.grid or (len(targets) == 1 and not arguments.source.is_dir())
    files = [[arguments.output]] if one else _name_files(arguments.output, sources, targets)
    _check_output(arguments.output, one, files, [*sources, *references])

    import torch

    from lanit.evaluation.features import choose_device
    from lanit.evaluation.pixels import translate_images
    from lanit.using.grid import draw_grid

    model = Model(arguments.run_folder, record, choose_device(arguments.device))
    shown = [None if target.reference is None else _read(target.reference, model.size) for target in targets]
    styles = [model.style(target, pixels, seed) for target, pixels in zip(targets, shown)]
    rows, made = [], 0
    for places, pixels in _read_batches(sources, model.size, arguments.source.is_dir()):
        images = model.load(pixels)
        own = model.styles(images) if strength < 1 else None
        columns = []
        for style in styles:
            style = style.expand(len(images), -1)
            style = style if own is None else torch.lerp(own, style, strength)
            columns.append(translate_images(model.method, images, style).permute(0, 2, 3, 1).numpy())
        for place, source, *translations in zip(places, pixels, *columns):
            made += len(translations)
            if arguments.grid:
                rows.append([source, *translations])
            else:
                for file, translation in zip(files[place], translations):
                    _write(file, translation)
    if arguments.grid:
        _write(arguments.output, draw_grid(list(zip(shown, (target.words for target in targets))), rows))
    by = f"by {record['method']} with {len(record['domains'])} domains"
    print(f"{made} translation{'s' if made > 1 else ''} {by}, in {arguments.output}")


def choose_targets(texts: Sequence[str], references: Sequence[Path], record: dict[str, Any]) -> list[Target]:
    """Every text, every reference, or every reference in the domains of every text.

    Raises:
        LanitError: a text names what is none of the run's domains, or a reference is not there.
    """
    from lanit.evaluation.records import domain_names

    for path in references:
        if not path.is_file():
            raise LanitError(f"no picture at {path}; give --reference the path of a JPEG, PNG or WebP file")
    names = domain_names(record)
    targets = []
    for text in texts or (None,):
        domains = None if text is None else find_domains(text, names)
        words = None if domains is None else ", ".join(names[domain] for domain in domains)
        targets += [Target(domains, words, reference) for reference in references or (None,)]
    return targets


def find_domains(text: str, names: Sequence[str]) -> list[int]:
    """Indices of the domains that a text names, separated by commas; case and spaces play no part.

    A name may hold commas itself: the longest name that matches is taken.

    Raises:
        LanitError: the text names nothing, or no domain.
    """
    words, spelt = _words(text), [", ".join(_words(name)) for name in names]
    # Names that differ in their case alone are reached by their exact spelling.
    known = {name.casefold(): i for i, name in enumerate(spelt)} | {name: i for i, name in enumerate(spelt)}
    found = []
    while words:
        for length in range(len(words), 0, -1):
            name = ", ".join(words[:length])
            index = known.get(name, known.get(name.casefold()))
            if index is not None:
                break
        else:
            close = difflib.get_close_matches(words[0].casefold(), list(known), n=1)
            hint = f"did you mean {names[known[close[0]]]!r}?" if close else f"there are {'; '.join(names)}"
            raise LanitError(f"the run has no domain {words[0]!r}; {hint}")
        found.append(index)
        words = words[length:]
    if not found:
        raise LanitError(f"--text names no domain; there are {'; '.join(names)}")
    return found


class Model:
    """A trained run: styles of images and of domains. CLIP is loaded when an image's own domains are asked for."""

    def __init__(self, folder: Path, record: dict[str, Any], device: str):
        from lanit.evaluation.records import domain_names
        from lanit.methods import load_method

        self.folder, self.name, self.options, self.device = folder, record["method"], record["options"], device
        self.domains = domain_names(record)
        self.size: int = self.options["size"]
        self.method = load_method(folder, device)

    def load(self, pixels: list[NDArray[np.uint8]]) -> Tensor:
        """Images (B, 3, H, W) float32 in [-1, 1] on the device, of B uint8 arrays (H, W, 3)."""
        import numpy as np
        import torch

        return torch.from_numpy(np.stack(pixels)).to(self.device).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1

    def style(self, target: Target, pixels: NDArray[np.uint8] | None, seed: int) -> Tensor:
        """The style (1, S) of a target: of its reference's pixels (H, W, 3), or drawn for its domains."""
        if pixels is not None:
            return self.styles(self.load([pixels]), target.domains)
        assert target.domains is not None, "a target has domains, a reference or both"
        return self.draw(target.domains, seed)

    def draw(self, domains: list[int], seed: int) -> Tensor:
        """One style (1, S) of domains, a function of them and the seed."""
        import torch

        return self.method.latent_style(self._in_domains(domains, 1), torch.Generator().manual_seed(seed))

    def styles(self, images: Tensor, domains: list[int] | None = None) -> Tensor:
        """Styles (B, S) of images, in the domains given or in those that CLIP sees in each."""
        from lanit.methods.protocol import LabelledMethod

        if not isinstance(self.method, LabelledMethod):
            return self.method.reference_style(images, None)
        labels = self._see(images) if domains is None else self._in_domains(domains, len(images))
        return self.method.reference_style(images, labels)

    def _in_domains(self, domains: list[int], count: int) -> Tensor:
        import numpy as np
        import torch

        from lanit.evaluation.pixels import method_labels

        labels = np.zeros((count, len(self.domains)), dtype=bool)
        labels[:, domains] = True
        return torch.from_numpy(method_labels(self.method, labels)).to(self.device).float()

    def _see(self, images: Tensor) -> Tensor:
        """The method's labels (B, N') of images, as the label stage makes them."""
        import torch

        from lanit.evaluation.pixels import at_least_one
        from lanit.language.pseudo_labels import label

        labeller, clip, texts = self._language
        embeddings = clip.encode_image(images).cpu().numpy()
        similarities = embeddings @ texts.domains.T
        labels = label(labeller, similarities, embeddings @ texts.base)
        return torch.from_numpy(at_least_one(self.method, labels, similarities)).to(self.device).float()

    @cached_property
    def _language(self) -> tuple[LabellerOptions, Clip, Texts]:
        texts = self.folder / "texts.safetensors"
        if catalogue.find(self.name).supervision == "truth":
            raise LanitError(
                f"{self.name} learned from labels, and sees in no picture which domains are its own: name those of a "
                "reference with --text, at the full --strength"
            )
        if not self.options.get("language") or not texts.is_file():
            raise LanitError(
                f"{self.folder} does not say how images are labelled (language in run.json, and texts.safetensors): "
                "train it anew, or name domains with --text, at the full --strength"
            )
        from lanit.language.clip import ClipOptions, load_clip
        from lanit.language.guide import LanguageOptions, find_clip
        from lanit.language.pseudo_labels import check_clip, choose, read_texts

        language = parse(LanguageOptions, self.options["language"], "the run's language")
        found = parse(ClipOptions, find_clip(self.folder, language.clip), "clip")
        clip, chosen = load_clip(found, self.device), choose(read_texts(texts), self.domains)
        check_clip(Path(found.pretrained or found.model), clip.digest, chosen, texts)
        return language.labeller, clip, chosen


def _check(texts: list[str], references: list[Path], strength: float, seed: int | None) -> None:
    if not texts and not references:
        raise LanitError("--source needs a target: give --text with names of domains, or --reference with a picture")
    if len(texts) > 1 and len(references) > 1:
        raise LanitError("several --text with several --reference are too many targets; give one of either")
    if not 0 <= strength <= 1:
        raise LanitError(f"--strength must be from 0 (the source's own style) to 1 (the target's), not {strength}")
    if seed is not None and (references or not texts):
        raise LanitError("--seed is of styles drawn for --text; the style of a --reference has nothing to draw")
    if seed is not None and not 0 <= seed < 2**63:
        raise LanitError(f"--seed must be a whole number from 0 to 2^63 - 1, not {seed}")


def _list_sources(path: Path) -> list[Path]:
    from lanit.data.images import is_image_name

    if path.is_file():
        return [path]
    if not path.is_dir():
        raise LanitError(f"no picture or folder at {path}; give --source a JPEG, PNG or WebP file or a folder of them")
    found = sorted(file for file in path.iterdir() if is_image_name(file.name) and file.is_file())
    if not found:
        raise LanitError(f"{path} holds no JPEG, PNG or WebP file (folders in it are not searched); put some there")
    return found


def _name_files(folder: Path, sources: list[Path], targets: list[Target]) -> list[list[Path]]:
    """The file of each source (row) in each target (column)."""
    endings = [f"-{target.file_name}" for target in targets] if len(targets) > 1 else [""]
    return [[folder / f"{source.stem}{ending}.png" for ending in endings] for source in sources]


def _check_output(output: Path, one: bool, files: list[list[Path]], inputs: list[Path]) -> None:
    is_picture = output.suffix.lower() in FORMATS
    if one and (not is_picture or output.is_dir()):
        raise LanitError(f"one picture is made, so --output must be a {', '.join(FORMATS)} file, not {output}")
    if not one and (output.is_file() or (is_picture and not output.is_dir())):
        raise LanitError(f"several pictures are made, so --output must be a folder, not {output}; --grid makes one")
    taken = {path.resolve() for path in inputs}
    for path in (path for row in files for path in row):
        if path.resolve() in taken:
            there = "is a picture that is read here" if path.exists() else "would be written twice"
            raise LanitError(f"{path} {there}; choose another --output or rename the picture, or leave one target out")
        taken.add(path.resolve())


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    from lanit.data.images import DamagedImage, read_image

    try:
        return read_image(path, size)
    except DamagedImage as error:
        raise LanitError(f"{path} cannot be used ({error}); give another picture") from None


def _read_batches(sources: list[Path], size: int, in_folder: bool) -> Iterator[tuple[list[int], list[NDArray]]]:
    """Places among the sources, and pixels; what is damaged in a folder is named and left out."""
    readable = False
    for start in range(0, len(sources), BATCH):
        places, pixels = [], []
        for place in range(start, min(start + BATCH, len(sources))):
            try:
                pixels.append(_read(sources[place], size))
                places.append(place)
            except LanitError as error:
                if not in_folder:
                    raise
                print(f"lanit apply: left out: {error}", file=sys.stderr)
        readable |= bool(places)
        if places:
            yield places, pixels
    if not readable:
        raise LanitError(f"none of the {len(sources)} pictures in {sources[0].parent} can be read; give others")


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a picture of (H, W, 3) as a whole, in the format of its suffix."""
    from PIL import Image

    from lanit.files import write_whole

    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, FORMATS[path.suffix.lower()], quality=95)
        write_whole(path, file.getvalue())
    except (OSError, ValueError) as error:  # WebP and JPEG end at 16 and 65 thousand pixels a side
        raise LanitError(f"{path} cannot be written ({error}); choose another --output (a .png if large)") from None


def _words(text: str) -> list[str]:
    """The parts between commas, with single spaces; empty ones are none."""
    return [word for part in text.split(",") if (word := " ".join(part.split()))]
