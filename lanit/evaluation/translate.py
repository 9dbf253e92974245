"""Stage `translate`: `lanit translate --run RUN --manifest … [--labels DIR] --options … --output … --pictures …`.

The command's second form, with `--source`, is carried out by `lanit.using.apply`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit import catalogue
from lanit.config import LanitError, parse, read_options
from lanit.data.names import nfc
from lanit.evaluation.pixels import at_least_one, method_labels, translate_images
from lanit.evaluation.protocols import Pairs, Protocol, class_columns, draw_pairs, draw_picture_rows
from lanit.evaluation.records import domain_names, read_run, read_split_truth
from lanit.files import whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lanit.data.batches import ImageStore
    from lanit.evaluation.features import Extractor
    from lanit.methods.protocol import ClusteringMethod, LabelledMethod, Method


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
    parser.add_argument("--manifest", required=True, type=Path, help="manifest.parquet of the dataset")
    parser.add_argument("--labels", type=Path, help="folder of labels, for a method that trains on them")
    parser.add_argument("--options", required=True, help="JSON, or the path of a JSON or YAML file")
    parser.add_argument("--output", required=True, type=Path, help="translations.safetensors to write")
    parser.add_argument("--pictures", required=True, type=Path, help="pictures.npz to write")
    text = "auto is a GPU where there is one"
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help=text)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Translate the protocol's pairs, of its split, and write features and pictures for the scores."""
    options = parse(TranslateOptions, read_options(arguments.options), "translate")
    if options.batch < 1 or options.picture_sources < 1:
        raise LanitError("translate.batch and translate.picture_sources must be at least 1")

    from lanit.data.batches import ImageStore
    from lanit.evaluation.features import FeatureOptions, choose_device, load_extractor
    from lanit.files import write_tensors
    from lanit.methods import load_method
    from lanit.methods.protocol import ClusteringMethod, LabelledMethod

    record = read_run(arguments.run_folder)
    split = options.protocol.split
    known, truth, keys = read_split_truth(arguments.manifest, split)
    classes = [known[column] for column in class_columns(known, options.classes)]
    device = choose_device(arguments.device)
    extractor = load_extractor(parse(FeatureOptions, options.features, "translate.features"), device)
    method = load_method(arguments.run_folder, device)
    labels, unlabelled = None, None
    of_target = None
    if isinstance(method, LabelledMethod):
        if arguments.labels is None:
            raise LanitError(f"{record['method']} takes styles by labels; give their folder with --labels")
        labels, unlabelled = style_labels(method, arguments.labels, split, keys, record["domains"], record["method"])
        if catalogue.find(record["method"]).supervision == "truth":
            of_target = target_labels(method, classes, record["domains"])
    pairs = draw_pairs(truth, known, classes, options.protocol)
    store = ImageStore(arguments.manifest, split)
    translator = Translator(method, store, labels, options.batch, device, of_target)
    files = None if options.save_images is None else name_files(options.save_images, pairs, classes, keys)
    arrays = translate_pairs(translator, pairs, extractor, files)
    if unlabelled is not None:
        arrays["unlabelled"] = unlabelled[pairs.reference]
    if isinstance(method, ClusteringMethod):
        arrays["clusters"] = find_clusters(method, translator)
    metadata = {
        "protocol": asdict(options.protocol),
        "classes": classes,
        "features": extractor.name,
        "judged": extractor.classes,
        "config": record["config"],
    }
    if isinstance(method, ClusteringMethod):
        metadata["clusters"] = method.clusters
    rows = draw_picture_rows(truth, known, classes, options.picture_sources, options.protocol.seed)
    names = domain_names(record)
    write_pictures(arguments.pictures, translator, *rows, classes, names, options.protocol.seed)
    write_tensors(arguments.output, arrays, metadata)
    made = f"{len(pairs.source)} translations by {record['method']} with {len(record['domains'])} domains"
    print(f"{made}, {extractor.name} features")


def style_labels(
    method: Method, folder: Path, split: str, keys: list[str], domains: list[str], name: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Read the labels of a split that references get their style by, for the method of this name.

    An image above the threshold in no domain gets a style all the same (see `at_least_one`), so that every method is
    scored on the same pairs; scores.json says for how many.

    Returns:
        the method's labels (n, N'), each row with at least one domain, and which rows (n,) were in none of the N.

    Raises:
        LanitError: the labels are of other images, other domains or not of the method's supervision.
    """
    import numpy as np

    from lanit.language.pseudo_labels import check_supervision, read_labels

    labels = read_labels(folder, split)
    if list(labels.keys) != keys:
        raise LanitError(f"the labels in {folder} are not of the images in this manifest; run the label stage again")
    if list(labels.domains) != list(domains):
        raise LanitError(
            f"the labels in {folder} are of the domains {', '.join(labels.domains)}, "
            f"the run's are {', '.join(domains)}; give the labels that it was trained with"
        )
    check_supervision(labels, folder, name)
    return at_least_one(method, labels.labels, labels.similarities), ~np.any(labels.labels, axis=1)


def target_labels(method: LabelledMethod, classes: list[str], domains: list[str]) -> NDArray[np.bool_]:
    """The labels (C, N') by which a method that learns from truth takes the style of a reference of each class.

    It was told which domain is which class, so the style is of that class alone; a class that is no candidate has no
    label here, and its references have their own.
    """
    import numpy as np

    return method.extend_labels(np.array([[name == nfc(domain) for domain in domains] for name in classes]))


class Translator:
    """A method with the images that it translates: rows of a split in, pixels out."""

    def __init__(
        self,
        method: Method,
        store: ImageStore,
        labels: NDArray[np.bool_] | None,
        batch: int = 32,
        device: str = "cpu",
        of_target: NDArray[np.bool_] | None = None,
    ):
        """`labels` (n, N') are the method's own of all rows; `of_target` (C, N') come before them (`target_labels`)."""
        self.method, self.store, self.labels, self.batch, self.device = method, store, labels, batch, device
        self.of_target = of_target

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Images (B, 3, H, W) float32 in [-1, 1] on the device."""
        return self.store.read(rows).to(self.device).float() / 127.5 - 1

    def reference_styles(self, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> Tensor:
        """Styles (R, S) of references, each by its own labels, or by its target's where the method knows that."""
        import numpy as np
        import torch

        styles = []
        with torch.no_grad():
            for chosen, wanted in zip(_batches(rows, self.batch), _batches(targets, self.batch)):
                labels = None
                if self.labels is not None:
                    own = self.labels[chosen]
                    if self.of_target is not None:
                        given = self.of_target[wanted]
                        own = np.where(given.any(axis=1, keepdims=True), given, own)
                    labels = torch.from_numpy(own).to(self.device).float()
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
    translator: Translator, pairs: Pairs, extractor: Extractor, files: list[Path] | None = None
) -> dict[str, NDArray]:
    """Translate each source with its reference's style, and extract features; styles are computed once a reference.

    Args:
        translator: of one run.
        pairs: what to translate.
        extractor: of the features.
        files: where to save each translation as PNG as well.

    Returns:
        `features` (M, D) and, from a judge, `logits` (M, K) float32; `source`, `reference`, `target` int64 (M,).
    """
    import numpy as np
    import torch

    targets = pairs.target if translator.of_target is not None else np.zeros_like(pairs.target)
    distinct, place = np.unique(np.stack([pairs.reference, targets]), axis=1, return_inverse=True)
    styles = translator.reference_styles(*distinct)
    features, logits = [], []
    for chosen in _batches(np.arange(len(pairs.source)), translator.batch):
        images = translator.translate(pairs.source[chosen], styles[torch.from_numpy(place[chosen])])
        features.append(extractor.features(images))
        if (judged := extractor.logits(features[-1])) is not None:
            logits.append(judged)
        if files is not None:
            for i, image in zip(chosen, images):
                _save(image, files[i])
    arrays = {"features": torch.cat(features).numpy()}
    if logits:
        arrays["logits"] = torch.cat(logits).numpy()
    return arrays | {"source": pairs.source, "reference": pairs.reference, "target": pairs.target}


def name_files(folder: Path, pairs: Pairs, classes: list[str], keys: list[str]) -> list[Path]:
    """The file of each translation: in a folder for its class, named by its place and the two images' keys."""
    each = enumerate(zip(pairs.source, pairs.reference, pairs.target))
    return [
        folder / classes[target].replace("/", "_") / f"{i:06d}-{keys[source]}-{keys[reference]}.png"
        for i, (source, reference, target) in each
    ]


def find_clusters(method: ClusteringMethod, translator: Translator) -> NDArray[np.int64]:
    """The cluster (n,) that the averaged networks put each image of the split into."""
    import numpy as np
    import torch

    found = []
    with torch.no_grad():
        for rows in _batches(np.arange(len(translator.store)), translator.batch):
            found.append(method.cluster_logits(translator.read(rows)).argmax(1).cpu())
    return torch.cat(found).numpy()


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
        reference_grid=translator.grid(sources, translator.reference_styles(references, np.arange(len(references)))),
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
