"""Inception's weights: one published file. It is TorchScript, whose code runs as it is loaded, so it is checked before.

Heusel et al. 2017 take the features of the TensorFlow network of 2015-12-05; clean-fid (Parmar et al. 2022) loads
NVIDIA's translation of it, `inception-2015-12-05.pt`.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import urllib.request
from pathlib import Path

import torch

from lanit.config import LanitError
from lanit.files import recognise_content, whole

FILE = "inception-2015-12-05.pt"
# As k-diffusion publishes it for clean-fid's URL, of 95,607,719 bytes.
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


def find_inception(weights: Path | None) -> Path:
    """Return the path of the weights: the file given, that in the folder given, or the user's cache's, fetched once.

    Raises:
        LanitError: there is no such file, or it cannot be fetched.
    """
    from cleanfid.downloads_helper import inception_url

    if weights is None:
        path = _cache() / FILE
        if not path.is_file():
            _download(inception_url, path)
        return path
    weights = weights.expanduser()
    path = weights / FILE if weights.is_dir() else weights
    if not path.is_file():
        raise LanitError(f"no Inception weights at {path}; put the file from {inception_url} there")
    return path


def load_inception(path: Path, device: str) -> torch.jit.ScriptModule:
    """Load the network, after its digest: `layers` takes images (B, 3, 299, 299) in [−1, 1] and gives (B, 2048).

    Raises:
        LanitError: the file is another than the published one; none of it has run.
    """
    data = path.read_bytes()  # what is checked is what is loaded, whatever happens to the file meanwhile
    _check(data, path)
    return torch.jit.load(io.BytesIO(data), map_location=device).eval()


def _check(data: bytes, path: Path) -> None:
    from cleanfid.downloads_helper import inception_url

    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        what = (
            recognise_content(data[:256]) or f"{len(data)} bytes of another file, or of one that is damaged or cut off"
        )
        raise LanitError(
            f"{path} is not the published Inception (its SHA-256 is {found[:16]}…, not {SHA256[:16]}…), and is not "
            f"loaded, for code in it would run; it is {what}: put the file from {inception_url} there instead"
        )


def _cache() -> Path:
    """The user's own folder: in one that others may write to, another's file could lie under this name."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "lanit"
    except RuntimeError:
        raise LanitError(
            f"this user has no home folder to keep Inception's weights in; give their path as features.weights ({FILE})"
        ) from None


def _download(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=60) as response, whole(path) as part:
            data = response.read()
            _check(data, path)
            part.write_bytes(data)
    except (OSError, http.client.HTTPException) as error:
        raise LanitError(
            f"cannot download Inception's weights ({error}); put {url} at {path}, or give its path as features.weights"
        ) from None
