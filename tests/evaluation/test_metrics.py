"""Every metric against an independent implementation, a closed form, and what its definition says."""

import numpy as np
import pytest
import scipy.linalg

from lanit.config import LanitError
from lanit.evaluation import density_coverage as dc
from lanit.evaluation.density_coverage import density_coverage
from lanit.evaluation.fid import Gaussian, fid, fid_score, fid_statistics
from lanit.evaluation.kid import kid, kid_score, kid_statistics


def draw(n, width, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) / width**0.5 + shift).astype("float32")


@pytest.mark.parametrize("n, width", [(400, 24), (3000, 64)])
def test_fid_agrees_with_clean_fid(n, width):
    from cleanfid.fid import frechet_distance

    real, fake = draw(n, width, 0), draw(n // 2, width, 1, shift=0.3)
    a, b = real.astype("float64"), fake.astype("float64")
    try:
        expected = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    except TypeError:  # clean-fid 0.1.35 gives sqrtm an argument that scipy 1.18 no longer takes
        root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert fid(real, fake) == pytest.approx(expected, abs=1e-4)


def test_fid_of_gaussians_with_known_covariances():
    def gaussian(mean, deviation):
        return Gaussian(np.asarray(mean, float), np.diag(np.square(deviation)))

    # Covariances that commute: the sum of (σ₁ - σ₂)² beside the squared distance of the means.
    score = fid_score(gaussian([0, 1, 2], [1, 2, 3]), gaussian([1, 1, 0], [2, 2, 0.5]))
    assert score == pytest.approx(5 + 1 + 0 + 6.25, abs=1e-12)


def test_fid_of_fewer_images_than_dimensions():
    real, fake = draw(20, 96, 0).astype("float64"), draw(30, 96, 1, shift=0.2).astype("float64")
    a, b = (real - real.mean(0)) / 19**0.5, (fake - fake.mean(0)) / 29**0.5
    # Tr (AᵀA BᵀB)^½ is the sum of the singular values of A Bᵀ, which no singular covariance enters.
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * nuclear
    assert fid(real, fake) == pytest.approx(expected, abs=1e-4)
    assert fid(real, real) == pytest.approx(0, abs=1e-4)


def test_fid_of_a_single_dimension():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(0, 1, (500, 1)), rng.normal(2, 3, (400, 1))
    expected = (real.mean() - fake.mean()) ** 2 + (real.std(ddof=1) - fake.std(ddof=1)) ** 2
    assert fid(real, fake) == pytest.approx(expected, abs=1e-9)


def test_kid_agrees_with_clean_fid_over_all_images():
    from cleanfid.fid import kernel_distance

    # With subsets as large as the sets, clean-fid's every subset is all images; it needs sets of one size.
    real, fake = draw(200, 32, 0).astype("float64"), draw(200, 32, 1, shift=0.2).astype("float64")
    a = (real @ real.T / 32 + 1) ** 3
    b = (fake @ fake.T / 32 + 1) ** 3
    assert kid_score(kid_statistics(real, fake, rows=64)) == pytest.approx(
        kernel_distance(fake, real, num_subsets=1, max_subset_size=200), abs=1e-9
    )
    # and, of different sizes, with a sum over pairs.
    off = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))  # noqa: E731
    between = ((real[:150] @ fake.T / 32 + 1) ** 3).mean()
    assert kid(real[:150], fake) == pytest.approx(off(a[:150, :150]) + off(b) - 2 * between, abs=1e-9)


def test_kid_tells_a_shift_from_the_same_distribution():
    real, same = draw(600, 16, 0)[:300], draw(600, 16, 0)[300:]
    assert abs(kid(real, same)) < 0.05 < kid(real, same + 0.5)


@pytest.mark.parametrize("n, m, width, shift", [(120, 80, 16, 0.0), (90, 200, 64, 0.3), (7, 10, 3, 0.0)])
def test_density_and_coverage_agree_with_prdc(n, m, width, shift):
    from prdc import compute_prdc

    real, fake = draw(n, width, 0), draw(m, width, 0, shift=shift)
    expected = compute_prdc(real.astype("float64"), fake.astype("float64"), nearest_k=5)
    density, coverage = density_coverage(real, fake, k=5)
    assert expected["coverage"] > 0
    assert density == pytest.approx(expected["density"], abs=1e-4)
    assert coverage == pytest.approx(expected["coverage"], abs=1e-4)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_density_and_coverage_agree_with_the_definition_where_images_are_copies(offset):
    real = draw(40, 8, 0) + np.float32(offset)
    real[7] = real[8]
    fake = np.concatenate([real[:25], real[3:4], draw(10, 8, 1) + np.float32(offset)])
    pairs, covered = 0, 0
    for i, centre in enumerate(real.astype("float64")):
        others = sorted(((centre - other) ** 2).sum() for j, other in enumerate(real.astype("float64")) if j != i)
        inside = [((centre - point) ** 2).sum() < others[2] for point in fake.astype("float64")]
        pairs, covered = pairs + sum(inside), covered + any(inside)
    assert density_coverage(real, fake, k=3) == pytest.approx((pairs / (3 * len(fake)), covered / len(real)), abs=1e-12)


def test_density_and_coverage_do_not_depend_on_the_chunks(monkeypatch):
    real, fake = draw(70, 8, 0), draw(50, 8, 0)
    whole = density_coverage(real, fake)
    monkeypatch.setattr(dc, "CHUNK", 170)
    assert density_coverage(real, fake) == whole


def test_too_few_real_images_are_an_error():
    with pytest.raises(LanitError, match="5 real images where the metric needs 6"):
        density_coverage(draw(5, 4, 0), draw(20, 4, 1), k=5)
    with pytest.raises(LanitError, match="1 generated images where the metric needs 2"):
        fid(draw(5, 4, 0), draw(1, 4, 1))


@pytest.mark.parametrize("metric", [fid, kid, density_coverage])
def test_features_that_are_not_finite_are_an_error(metric):
    fake = draw(20, 4, 1)
    fake[3, 2] = np.nan
    with pytest.raises(LanitError, match="1 generated images are NaN"):
        metric(draw(20, 4, 0), fake)


@pytest.mark.parametrize("metric", [fid, kid, density_coverage])
def test_features_of_two_extractors_are_an_error(metric):
    with pytest.raises(LanitError, match="same extractor"):
        metric(draw(20, 4, 0), draw(20, 5, 0))


def test_metrics_need_neither_torch_nor_scipy():
    import subprocess
    import sys

    code = (
        "import sys, lanit.evaluation.fid, lanit.evaluation.kid, lanit.evaluation.density_coverage;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'scipy', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_statistics_of_real_images_can_be_kept():
    real = fid_statistics(draw(50, 4, 0))
    assert fid_score(real, fid_statistics(draw(40, 4, 1))) == fid(draw(50, 4, 0), draw(40, 4, 1))
