"""Stage `translate`: `lanit translate --run RUN --manifest … [--labels DIR] --options … --output … --pictures …`.

The command's second form, with `--source`, is carried out by `lanit.evaluation.apply`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.config import LanitError, parse, read_options
from lanit.evaluation.pixels import at_least_one, domain_names, method_labels, translate_images
from lanit.evaluation.protocols import Pairs, Protocol, class_columns, draw_pairs, draw_picture_rows
from lanit.files import whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lanit.data.batches import ImageStore
    from lanit.evaluation.features import Extractor
    from lanit.methods.protocol import Method

SPLIT = "test"
# Which arguments belong to the stage, and which to the use of a trained model.
STAGE = ("manifest", "labels", "options", "pictures")
USE = ("source", "text", "reference", "strength", "seed", "grid")


@dataclass(frozen=True)
class TranslateOptions:
    classes: list[str]  # the evaluation classes
    features: dict[str, Any]  # a FeatureOptions
    protocol: Protocol = field(default_factory=Protocol)
    batch: int = 32  # images a pass
    picture_sources: int = 6  # rows of the picture grids
    save_images: Path | None = None  # folder for every translation as a PNG; null writes none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", dest="run_folder", required=True, type=Path, help="folder of a finished training")
    text = "what to write: a picture, or a folder for several; of test images, translations.safetensors"
    parser.add_argument("--output", required=True, type=Path, help=text)
    text = "auto is a GPU where there is one"
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help=text)

    use = parser.add_argument_group("pictures of your own")
    text = "a JPEG, PNG or WebP file, or a folder whose files are all translated"
    use.add_argument("--source", type=Path, metavar="IMAGE_OR_FOLDER", help=text)
    text = 'names of the run\'s domains, as in "blond hair, smiling": draw a style of them (again for several targets)'
    use.add_argument("--text", action="append", metavar="DOMAINS", help=text)
    text = "take the style of this picture, in the domains that CLIP sees in it, or in exactly those of --text"
    use.add_argument("--reference", action="extend", nargs="+", type=Path, metavar="IMAGE", help=text)
    text = "from 0, the source's own style, to 1, the target's (default)"
    use.add_argument("--strength", type=float, help=text)
    use.add_argument("--seed", type=int, help="of the styles drawn for --text (default 0)")
    text = "make one picture: targets in the first row, sources in the first column"
    use.add_argument("--grid", action="store_true", default=None, help=text)

    stage = parser.add_argument_group("test images, for the scores")
    stage.add_argument("--manifest", type=Path, help="manifest.parquet of the dataset")
    stage.add_argument("--labels", type=Path, help="folder of pseudo labels, for a method that needs them")
    stage.add_argument("--options", help="JSON, or the path of a JSON or YAML file")
    stage.add_argument("--pictures", type=Path, help="pictures.npz to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Translate test images, or with `--source` pictures of the user's own."""
    stage, use = ([f"--{name}" for name in names if getattr(arguments, name) is not None] for names in (STAGE, USE))
    if stage and use:
        raise LanitError(f"{stage[0]} is for test images and {use[0]} for pictures of your own; leave one of them out")
    if use:
        if arguments.source is None:
            raise LanitError(f"{use[0]} needs --source: the picture, or the folder of pictures, to translate")
        from lanit.evaluation.apply import apply

        return apply(arguments)
    lacking = [f"--{name}" for name in ("manifest", "options", "pictures") if getattr(arguments, name) is None]
    if lacking:
        raise LanitError(f"give --source to translate pictures of your own; test images need {', '.join(lacking)}")
    translate_test_images(arguments)


def translate_test_images(arguments: argparse.Namespace) -> None:
    """Translate the protocol's pairs of the test split, and write features and pictures for the scores."""
    options = parse(TranslateOptions, read_options(arguments.options), "translate")
    if options.batch < 1 or options.picture_sources < 1:
        raise LanitError("translate.batch and translate.picture_sources must be at least 1")

    from lanit.data.batches import ImageStore
    from lanit.evaluation.evaluate import read_run, read_test_truth
    from lanit.evaluation.features import FeatureOptions, choose_device, load_extractor
    from lanit.files import write_tensors
    from lanit.methods import load_method

    record = read_run(arguments.run_folder)
    known, truth, keys = read_test_truth(arguments.manifest)
    class_columns(known, options.classes)
    device = choose_device(arguments.device)
    extractor = load_extractor(parse(FeatureOptions, options.features, "translate.features"), device)
    method = load_method(arguments.run_folder, device)
    labels, unlabelled = None, None
    if method.needs_labels:
        if arguments.labels is None:
            raise LanitError(f"{record['method']} takes styles by pseudo labels; give their folder with --labels")
        labels, unlabelled = style_labels(method, arguments.labels, keys, record["domains"])

    pairs = draw_pairs(truth, known, options.classes, options.protocol)
    translator = Translator(method, ImageStore(arguments.manifest, SPLIT), labels, options.batch, device)
    arrays = translate_pairs(translator, pairs, extractor, options.save_images, options.classes, keys)
    if unlabelled is not None:
        arrays["unlabelled"] = unlabelled[pairs.reference]
    metadata = {
        "protocol": asdict(options.protocol),
        "classes": options.classes,
        "features": extractor.name,
        "judged": extractor.classes,
        "config": record["config"],
    }
    rows = draw_picture_rows(truth, known, options.classes, options.picture_sources, options.protocol.seed)
    names = domain_names(record["domains"], method.needs_labels)
    write_pictures(arguments.pictures, translator, *rows, options.classes, names, options.protocol.seed)
    write_tensors(arguments.output, arrays, metadata)
    made = f"{len(pairs.source)} translations by {record['method']} with {len(record['domains'])} domains"
    print(f"{made}, {extractor.name} features")


def style_labels(
    method: Method, folder: Path, keys: list[str], domains: list[str]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Read the pseudo labels that references get their style by.

    An image above the threshold in no domain gets a style all the same (see `at_least_one`), so that every method is
    scored on the same pairs; scores.json says for how many.

    Returns:
        the method's labels (n, N'), each row with at least one domain, and which rows (n,) were in none of the N.

    Raises:
        LanitError: the labels are of other images or other domains.
    """
    from lanit.language.labels import read_labels

    labels = read_labels(folder, SPLIT)
    if list(labels.keys) != keys:
        raise LanitError(f"the labels in {folder} are not of the images in this manifest; run the label stage again")
    if list(labels.domains) != list(domains):
        raise LanitError(
            f"the labels in {folder} are of the domains {', '.join(labels.domains)}, "
            f"the run's are {', '.join(domains)}; give the labels that it was trained with"
        )
    return at_least_one(method, labels.labels, labels.similarities), ~labels.labels.any(axis=1)


class Translator:
    """A method with the images that it translates: rows of the test split in, pixels out."""

    def __init__(
        self, method: Method, store: ImageStore, labels: NDArray[np.bool_] | None, batch: int = 32, device: str = "cpu"
    ):
        self.method, self.store, self.labels, self.batch, self.device = method, store, labels, batch, device

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Images (B, 3, H, W) float32 in [-1, 1] on the device."""
        return self.store.read(rows).to(self.device).float() / 127.5 - 1

    def reference_styles(self, rows: NDArray[np.int64]) -> Tensor:
        """Styles (R, S) of references, each by its own labels."""
        import torch

        styles = []
        with torch.no_grad():
            for chosen in _batches(rows, self.batch):
                labels = None if self.labels is None else torch.from_numpy(self.labels[chosen]).to(self.device).float()
                styles.append(self.method.reference_style(self.read(chosen), labels))
        return torch.cat(styles)

    def latent_styles(self, domains: int, seed: int) -> Tensor:
        """One style (N, S) drawn for each of the N named domains."""
        import numpy as np
        import torch

        each = torch.from_numpy(method_labels(self.method, np.eye(domains, dtype=bool))).to(self.device).float()
        with torch.no_grad():
            return self.method.latent_style(each, torch.Generator().manual_seed(seed))

    def translate(self, rows: NDArray[np.int64], styles: Tensor) -> Tensor:
        """Translations of a batch, uint8 (B, 3, H, W) on the CPU."""
        return translate_images(self.method, self.read(rows), styles)

    def grid(self, rows: NDArray[np.int64], styles: Tensor) -> NDArray[np.uint8]:
        """Every source with every style: uint8 (S, R, H, W, 3)."""
        return _pixels([self.translate(row.repeat(len(styles)), styles) for row in rows])


def translate_pairs(
    translator: Translator,
    pairs: Pairs,
    extractor: Extractor,
    folder: Path | None = None,
    classes: list[str] | None = None,
    keys: list[str] | None = None,
) -> dict[str, NDArray]:
    """Translate each source with its reference's style, and extract features; styles are computed once a reference.

    Args:
        translator: of one run.
        pairs: what to translate.
        extractor: of the features.
        folder: where to save each translation as PNG as well, named by `classes` and the images' `keys`.

    Returns:
        `features` (M, D) and, from a judge, `logits` (M, K) float32; `source`, `reference`, `target` int64 (M,).
    """
    import numpy as np
    import torch

    distinct, place = np.unique(pairs.reference, return_inverse=True)
    styles = translator.reference_styles(distinct)
    features, logits = [], []
    for chosen in _batches(np.arange(len(pairs.source)), translator.batch):
        images = translator.translate(pairs.source[chosen], styles[torch.from_numpy(place[chosen])])
        features.append(extractor.features(images))
        logits.append(extractor.logits(features[-1]))
        if folder is not None:
            for i, image in zip(chosen, images):
                name = f"{i:06d}-{keys[pairs.source[i]]}-{keys[pairs.reference[i]]}.png"
                _save(image, folder / classes[pairs.target[i]].replace("/", "_") / name)
    arrays = {"features": torch.cat(features).numpy()}
    if logits[0] is not None:
        arrays["logits"] = torch.cat(logits).numpy()
    return arrays | {"source": pairs.source, "reference": pairs.reference, "target": pairs.target}


def write_pictures(
    path: Path,
    translator: Translator,
    sources: NDArray[np.int64],
    references: NDArray[np.int64],
    classes: list[str],
    domains: list[str],
    seed: int,
) -> None:
    """Write pictures.npz: sources × one reference a class, and sources × domains by one latent code each."""
    import io

    import numpy as np

    from lanit.files import write_whole

    file = io.BytesIO()
    np.savez(
        file,
        sources=_pixels([translator.store.read(sources)])[0],
        references=_pixels([translator.store.read(references)])[0],
        reference_grid=translator.grid(sources, translator.reference_styles(references)),
        latent_grid=translator.grid(sources, translator.latent_styles(len(domains), seed)),
        reference_classes=np.array(classes),
        domains=np.array(domains),
    )
    write_whole(path, file.getvalue())


def _batches(rows: NDArray, size: int) -> list[NDArray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _pixels(images: list[Tensor]) -> NDArray[np.uint8]:
    """(S, B, H, W, 3) of S tensors (B, 3, H, W)."""
    import torch

    return torch.stack(images).permute(0, 1, 3, 4, 2).numpy()


def _save(image: Tensor, path: Path) -> None:
    from PIL import Image

    with whole(path) as part:
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(part, "PNG")
