"""Multi-hot pseudo labels from cached similarities: the paper's adaptive threshold and the two rules it beats.

f_n = cos(E_V(y), u_n) is the similarity of image y to domain n, f_p = cos(E_V(y), u_p) its similarity to the base
prompt.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lanit import catalogue
from lanit.config import LanitError
from lanit.files import read_tensors, whole, write_tensors
from lanit.language.prompts import base_prompt


@dataclass(frozen=True)
class LabellerOptions:
    """How similarities become labels."""

    kind: Literal["adaptive", "top_k", "fixed", "truth"] = "adaptive"
    k: int | None = None  # top_k: how many domains each image gets
    threshold: float | None = None  # fixed: the cosine above which a domain is on
    choose: Literal["random", "rarest"] | None = None  # truth: which of an image's domains is its one; null is random


@dataclass(frozen=True)
class Texts:
    """Features of prompts: `names` (N), `domains` (N, k) and `base` (k,), float32 and L2-normalised.

    `clip` is the digest of the CLIP that made them, None in files of earlier versions.
    """

    names: tuple[str, ...]
    domains: np.ndarray
    base: np.ndarray
    clip: str | None = None


@dataclass(frozen=True)
class Labels:
    """The pseudo labels of a split, in the manifest's order.

    Attributes:
        keys: of the M images.
        domains: the N candidates.
        similarities: f_n, float32 (M, N).
        base: f_p, float32 (M,).
        labels: d_n, bool (M, N).
        supervision: what they come of: `text`, or `truth`.
    """

    keys: tuple[str, ...]
    domains: tuple[str, ...]
    similarities: np.ndarray
    base: np.ndarray
    labels: np.ndarray
    supervision: str = "text"


def adaptive(similarities: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return d_n = 1 iff f_n > f_p, strictly: one threshold an image, shared by all its domains. Bool (M, N)."""
    return similarities > base[:, None]


def top_k(similarities: np.ndarray, k: int) -> np.ndarray:
    """Return the k most similar domains of every image, the earlier one first where two are equal. Bool (M, N)."""
    order = np.argsort(-similarities, axis=1, kind="stable")
    labels = np.zeros(similarities.shape, dtype=bool)
    np.put_along_axis(labels, order[:, :k], True, axis=1)
    return labels


def fixed(similarities: np.ndarray, threshold: float) -> np.ndarray:
    """Return d_n = 1 iff f_n > threshold, one number for all images. Bool (M, N)."""
    return similarities > np.float32(threshold)


def check_labeller(options: LabellerOptions, count: int) -> None:
    """Raise LanitError unless `options` is complete, says nothing that is not used, and suits `count` domains."""
    for key, kind in (("k", "top_k"), ("threshold", "fixed")):
        given = getattr(options, key) is not None
        if given != (options.kind == kind):
            verb = "takes no" if given else "needs"
            raise LanitError(f"the labeller {options.kind} {verb} {key}; it belongs to {kind}")
    if options.choose is not None and options.kind != "truth":
        raise LanitError(f"the labeller {options.kind} takes no choose; it belongs to truth")
    if options.k is not None and not 1 <= options.k <= count:
        raise LanitError(f"the labeller's k must be from 1 to the {count} domains, not {options.k}")


def check_domains(domains: Sequence[str]) -> None:
    """Raise LanitError unless there is a domain, and none comes twice."""
    for position, domain in enumerate(domains):
        if domain in domains[:position]:
            raise LanitError(f"the domain {domain!r} is given twice; list every domain once")
    if not domains:
        raise LanitError("no domain is given; list at least one under domains")


def label(options: LabellerOptions, similarities: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return the labels, bool (M, N), of similarities (M, N) and base similarities (M,), by the rule of `options`.

    The rule is no `truth`, which asks no similarity (`lanit.language.truth_labels`).
    """
    if options.kind == "adaptive":
        return adaptive(similarities, base)
    if options.kind == "top_k":
        assert options.k is not None, "or check_labeller had ended it"
        return top_k(similarities, options.k)
    assert options.threshold is not None, "or check_labeller had ended it"
    return fixed(similarities, options.threshold)


def with_slack(labels: np.ndarray) -> np.ndarray:
    """Add a last column that is on where no other is: bool (M, N) → (M, N + 1)."""
    return np.concatenate([labels, ~labels.any(axis=1, keepdims=True)], axis=1)


def advice(options: LabellerOptions, templates: Sequence[str], similarities: np.ndarray, base: np.ndarray) -> str:
    """Return the second half of a sentence that says that too few images have a label: why, and what to look at.

    Args:
        options: adaptive or fixed, since top_k gives every image a label.
        templates: what the base prompts come from.
        similarities: f_n (M, N), of M ≥ 1 images.
        base: f_p (M,).
    """
    best = similarities.max(axis=1)
    if options.kind == "fixed":
        return (
            f"the most similar domain reaches a cosine of {best.max():.3f} at the highest and {np.median(best):.3f} in "
            f"the median, and the labeller's threshold is {options.threshold:g}: lower it"
        )
    lacking = base >= best
    gap = np.median((base - best)[lacking]) if lacking.any() else 0.0
    prompts = list(dict.fromkeys(base_prompt(template) for template in templates))
    named = ", ".join(repr(prompt) for prompt in prompts[:3]) + (" and others" if len(prompts) > 3 else "")
    return (
        f"the base prompt ({named}) is nearer than any domain to {lacking.mean():.0%} of the images, there by {gap:.3f}"
        " in the median: look for domains that these images show, or templates that say less without one"
    )


def read_texts(path: Path) -> Texts:
    """Read the texts that `lanit embed texts` or `lanit label` wrote."""
    arrays, metadata = read_tensors(path, ("domains", "base", "names"), "lanit embed")
    return Texts(tuple(metadata["names"]), arrays["domains"], arrays["base"], metadata.get("clip"))


def write_texts(texts: Texts, path: Path) -> None:
    """Write texts in the form that `read_texts` reads."""
    made_by = {} if texts.clip is None else {"clip": texts.clip}
    write_tensors(path, {"domains": texts.domains, "base": texts.base}, {"names": list(texts.names)} | made_by)


def choose(texts: Texts, domains: Sequence[str]) -> Texts:
    """Return the rows of `domains`, in their order, or raise LanitError for one that has no text or comes twice."""
    check_domains(domains)
    for domain in domains:
        if domain not in texts.names:
            close = difflib.get_close_matches(domain, texts.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(texts.names)}"
            raise LanitError(f"the domain {domain!r} has no text features; {hint}")
    rows = [texts.names.index(domain) for domain in domains]
    return Texts(tuple(domains), texts.domains[rows], texts.base, texts.clip)


def check_clip(path: Path, clip: str | None, texts: Texts, where: Path | str) -> None:
    """Raise LanitError where what lies at `path` is of another CLIP than the texts at `where`.

    Args:
        clip: digest of the CLIP that made it; None, of files of earlier versions and of made-up ones, goes with all.
    """
    if clip is not None and texts.clip is not None and clip != texts.clip:
        raise LanitError(
            f"{path} is of another CLIP than the texts in {where} (its weights, how it sees images, or its activation "
            "differ); make both with the same, or train the run again"
        )


def read_labels(folder: Path | str, split: str) -> Labels:
    """Read the labels of a split from a folder that `lanit label` wrote.

    Raises:
        LanitError: there is no such file, or it holds no labels.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(folder) / f"{split}.parquet"
    if not path.is_file():
        raise LanitError(f"no labels at {path}; make them with `lanit label`")
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise LanitError(f"{path} is not a table of labels ({str(error).splitlines()[0]}); make it again") from None
    domains = tuple(name.removeprefix("f:") for name in table.column_names if name.startswith("f:"))
    if table.column_names != _columns(domains):
        raise LanitError(f"{path} is not a table of `lanit label`: it has the columns {', '.join(table.column_names)}")
    similarities = [table[f"f:{domain}"].to_numpy() for domain in domains]
    labels = [table[f"d:{domain}"].to_numpy() for domain in domains]
    return Labels(
        keys=tuple(table["key"].to_pylist()),
        domains=domains,
        similarities=np.stack(similarities, axis=1).astype(np.float32),
        base=table["base"].to_numpy().astype(np.float32),
        labels=np.stack(labels, axis=1).astype(bool),
        supervision=(table.schema.metadata or {}).get(b"supervision", b"text").decode(),
    )


def check_supervision(labels: Labels, folder: Path | str, method: str) -> None:
    """Raise LanitError where labels read from a folder come of what the catalogue says a method may not read."""
    wanted = catalogue.find(method).supervision
    if labels.supervision != wanted:
        raise LanitError(
            f"the labels in {folder} come of {labels.supervision}, and {method} may read labels of {wanted} alone; "
            "give it others"
        )


def write_labels(labels: Labels, folder: Path, split: str) -> None:
    """Write the labels of a split: key, base, then `f:{domain}` of all domains, then `d:{domain}` of all."""
    import pyarrow
    from pyarrow import parquet

    columns = [pyarrow.array(labels.keys, pyarrow.string()), labels.base.astype(np.float32)]
    columns += [labels.similarities[:, n].astype(np.float32) for n in range(len(labels.domains))]
    columns += [labels.labels[:, n].astype(bool) for n in range(len(labels.domains))]
    table = pyarrow.table(dict(zip(_columns(labels.domains), columns)))
    if labels.supervision != "text":
        table = table.replace_schema_metadata({"supervision": labels.supervision})
    with whole(folder / f"{split}.parquet") as part:
        parquet.write_table(table, part)


def _columns(domains: Sequence[str]) -> list[str]:
    return ["key", "base", *(f"f:{domain}" for domain in domains), *(f"d:{domain}" for domain in domains)]
