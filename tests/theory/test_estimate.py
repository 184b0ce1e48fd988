"""The estimated model: least squares by hand, errors, invariances, tests, intervals, coverage."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from advspur import theory
from advspur._checks import InputError
from advspur.theory import estimate_reliance, fit_gaussian_linear_model
from advspur.theory.estimate import estimate
from advspur.theory.reliance import corrected_estimate, maximum_estimate, nfs_estimate

C1 = math.sqrt(2 / math.pi)
SPURIOUS = np.array([False, False, True, True, True])
pytestmark = pytest.mark.usefixtures("x64")


def sample(n, seed=0, **facts):
    """(model, x, y) of the paper's model."""
    model = theory.gaussian_linear_model(0.5, **facts)
    x, y = theory.sample_data(model, jax.random.key(seed), n)
    return model, np.asarray(x), np.asarray(y)


def fit(x, y, *, core_only=False, is_spurious=SPURIOUS, **options):
    return fit_gaussian_linear_model(x, y, core_only=core_only, is_spurious=is_spurious, **options)


@pytest.mark.parametrize("core_only", (True, False))
def test_the_parameters_are_those_of_least_squares(core_only):
    """With an intercept, by numpy; noise with n - 1 - k degrees of freedom, k features used."""
    _, x, y = sample(60, noise_std=0.5)
    x, y = x + 3, y - 2
    found = fit(x, y, core_only=core_only)
    used = ~SPURIOUS if core_only else np.full(5, True)
    design = np.c_[x[:, used], np.ones(60)]
    theta, squares, *_ = np.linalg.lstsq(design, y)
    np.testing.assert_allclose(found.model.theta_opt[used], theta[:-1], rtol=1e-10)
    assert np.all(found.model.theta_opt[~used] == 0)
    noise = math.sqrt(squares[0] / (60 - 1 - used.sum()))
    assert found.model.noise_std == pytest.approx(noise, rel=1e-10)
    np.testing.assert_allclose(found.model.covariance, np.cov(x.T), rtol=1e-10)
    assert found.shrinkage == 0


def test_the_f_test_is_that_of_two_regressions():
    _, x, y = sample(60, noise_std=0.5)
    core, full = (np.c_[a, np.ones(60)] for a in (x[:, :2], x))
    of_core, of_full = (np.linalg.lstsq(design, y)[1][0] for design in (core, full))
    statistic = (of_core - of_full) / 3 / (of_full / 54)
    found = fit(x, y).core_test
    assert found.degrees == (3, 54) and found.statistic == pytest.approx(statistic, rel=1e-9)
    assert found.p_value == pytest.approx(stats.f.sf(statistic, 3, 54), rel=1e-9)
    assert fit(x, y + x[:, 3], core_only=True).core_test.p_value < 1e-6


def test_standard_errors_are_the_spread_over_data_sets():
    """Of 2,000 data sets: a standard deviation is known to 1.6%; errors of 20 are averaged."""
    model, x, y = sample(2000 * 60, noise_std=0.4)
    x, y = x.reshape(2000, 60, 5), y.reshape(2000, 60)

    def one(x, y):
        return estimate(x, y, SPURIOUS, core_only=False, shrinkage=0.0)[0]

    fits = [fit(*data) for data in zip(x[:20], y[:20], strict=True)]
    models = jax.jit(jax.vmap(one))(x, y)
    for name, error in (
        ("theta_opt", "theta_error"),
        ("covariance", "covariance_error"),
        ("noise_std", "noise_error"),
    ):
        values, truth = np.asarray(getattr(models, name)), np.asarray(getattr(model, name))
        spread = values.std(axis=0, ddof=1)
        errors = np.mean([getattr(f, error) for f in fits], axis=0)
        np.testing.assert_allclose(errors, spread, rtol=0.25)
        bias = 0.01 * truth if name == "noise_std" else 0  # its square has none
        assert np.all(np.abs(values.mean(axis=0) - truth) < 5 * spread / math.sqrt(2000) + bias)


def test_shrinkage_is_that_of_schaefer_and_strimmer():
    """Formula by loops; of units nothing depends on, and of few examples much is shrunk."""
    _, x, y = sample(60)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    pairs = [(j, k) for j in range(5) for k in range(5) if j != k]
    noise = sum(np.var(z[:, j] * z[:, k]) / 60 for j, k in pairs)
    size = sum(np.mean(z[:, j] * z[:, k]) ** 2 for j, k in pairs)
    found = fit(x, y, shrinkage=None)
    assert found.shrinkage == pytest.approx(noise / size, rel=1e-10)
    units = np.array([1, 10, 0.1, 5, 1000])
    other = fit(x * units, y, shrinkage=None)
    assert other.shrinkage == pytest.approx(float(found.shrinkage), rel=1e-10)
    np.testing.assert_allclose(other.model.theta_opt * units, found.model.theta_opt, rtol=1e-9)
    outer = units * units[:, None]
    np.testing.assert_allclose(other.model.covariance, found.model.covariance * outer, rtol=1e-9)
    wide = np.random.default_rng(0).normal(size=(8, 30))
    few = fit(wide, wide[:, 0], is_spurious=np.arange(30) > 3, shrinkage=None)
    assert few.shrinkage > 0.5 and np.isnan(few.core_test.p_value)
    assert np.all(np.isfinite(few.model.theta_opt)) and np.isnan(few.feature_normality.kurtosis)


def test_directions_are_a_rotation():
    """Any basis of the spurious subspace; p = 2 sees the same problem, theta is carried back."""
    _, x, y = sample(60)
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    directions = rng.normal(size=(3, 3)) @ rotation[:, 2:].T
    plain = fit(x, y, core_only=True)
    turned = fit_gaussian_linear_model(
        x @ rotation.T, y, spurious_directions=directions, core_only=True
    )
    assert turned.core_test.statistic == pytest.approx(plain.core_test.statistic, rel=1e-9)
    for quantity in (theory.collapse_radius, theory.limit_nfs):
        value, other = (float(quantity(f.model, p=2)) for f in (plain, turned))
        assert other == pytest.approx(value, rel=1e-9)
    back = turned.basis @ turned.model.theta_opt
    np.testing.assert_allclose(rotation.T @ back, plain.model.theta_opt, rtol=0, atol=1e-10)


def test_labels_of_two_classes_become_signs():
    _, x, _ = sample(60)
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    one, signs = fit(x, labels, target_class=1), np.where(labels == 1, 1, -1)
    np.testing.assert_allclose(one.labels, signs - signs.mean(), atol=1e-12)
    two = fit(x, (labels == 1).astype(int))
    np.testing.assert_array_equal(one.model.theta_opt, two.model.theta_opt)
    shuffled = rng.permutation(60)
    again = fit(x[shuffled], labels[shuffled], target_class=1)
    np.testing.assert_allclose(again.model.theta_opt, one.model.theta_opt, atol=1e-12)


def test_normality_is_measured():
    """Mardia's sums over pairs, by hand; uniform and skewed features are far from Gaussian."""
    _, x, y = sample(60)
    found = fit(x, y).feature_normality
    centred = x - x.mean(axis=0)
    products = centred @ np.linalg.inv(np.cov(x.T, bias=True)) @ centred.T
    b1, b2 = np.mean(products**3), np.mean(np.diag(products) ** 2)
    assert found.skewness == pytest.approx((b1 - 210 / 60) / 5, rel=1e-9)
    assert found.kurtosis == pytest.approx(b2 / 35 - 1, rel=1e-9)
    assert found.skewness_p == pytest.approx(stats.chi2.sf(60 * b1 / 6, 35), rel=1e-9)
    assert min(found.skewness_p, found.kurtosis_p) > 0.001
    rng = np.random.default_rng(0)
    uniform = rng.uniform(size=(3000, 5))
    flat = fit(uniform, uniform @ np.ones(5) + rng.exponential(size=3000))
    # Kurtosis of a uniform variable is 1.8: b2 = 5 (1.8 - 3) + 35. Of an exponential residual: 9.
    assert flat.feature_normality.kurtosis == pytest.approx(-6 / 35, abs=0.02)
    assert flat.feature_normality.kurtosis_p < 1e-9
    assert flat.residual_normality.skewness == pytest.approx(4, abs=1)
    # E |W| of a centred exponential is 2 / e.
    assert flat.residual_ratio == pytest.approx(2 / math.e / C1, abs=0.03)


@pytest.mark.parametrize(
    ("p", "scale", "epsilon", "nfs", "radius"),
    [(2, 1, 1.0, 0.083261, 2.0859), (math.inf, 3, 0.3, 4.55e-5, 2.1679)],
)
def test_predictions_are_those_of_the_model_with_intervals(p, scale, epsilon, nfs, radius):
    """Optimal; the truth, from another method, is within a width of each interval."""
    _, x, y = sample(4000, spurious_scale=float(scale))
    found = fit(x, y, core_only=p == math.inf)
    epsilons = np.array([epsilon, 2 * radius])
    got = estimate_reliance(found, epsilons, jax.random.key(1), p=p, num_resamples=200)
    theta = got.theta[0]
    h = np.asarray(found.model.covariance @ (found.model.theta_opt - theta))
    s = math.sqrt(h @ (found.model.theta_opt - theta) + found.model.noise_std**2)
    norm = np.linalg.norm(theta, 2 if p == 2 else 1)
    y = epsilon * norm / s  # h = K d|theta|, see docs/theory.md
    slope = theta / norm if p == 2 else np.sign(theta)
    multiplier = s * epsilon * (C1 + y) / (1 + C1 * y)
    np.testing.assert_allclose(h[theta != 0], multiplier * slope[theta != 0], rtol=1e-8)
    own = np.sum(theta[2:] ** 2) / np.sum(theta**2)
    first = [x[0] for x in got.nfs[:3]]
    assert first[0] == pytest.approx(own, rel=1e-9)
    truths = [(nfs, *first), (radius, *got.collapse_radius[:3])]
    weight = got.protective_weight
    if p == math.inf:
        assert got.first_reliance[:3] == (0, 0, 0)  # w* > 1 at every small epsilon
        assert weight.value[0] == pytest.approx(got.uniform_weight.value, rel=1e-9)
        truths += [(1.825742, *got.uniform_weight[:3]), (1.825742, *(x[0] for x in weight[:3]))]
    else:
        assert weight.value[0] == weight.low[0] == math.inf > weight.high[1]
        assert np.isnan(got.uniform_weight.value) and np.isnan(got.first_reliance.value)
    for truth, value, low, high in truths:
        assert low <= value <= high and low < high < 3 * value
        assert low - (high - low) < truth < high + (high - low)
    assert np.all(np.isnan([x[1] for x in got.nfs[:3]])) and got.nfs.num_examples == 4000
    assert np.all(got.theta[1] == 0)


def normal_draws(mean, error, seed, count=2000):
    """[1 + count, k]: an estimate of `mean`, and resamples about it."""
    rng = np.random.default_rng(seed)
    estimate = mean + error * rng.normal(size=len(mean))
    return np.vstack([estimate, estimate + error * rng.normal(size=(count, len(mean)))])


@pytest.mark.parametrize("means", ((1.0, 1.0, 1.0), (1.0, 0.5, 0.0), (0.0, 0.0, 0.0)))
def test_the_interval_of_a_maximum_covers(means):
    """Of 300 normal estimates at least 90% hold; 95% would by chance in less than 1 of 10,000."""
    draws = (normal_draws(np.array(means), 0.1, seed, 400) for seed in range(300))
    found = [maximum_estimate(np.abs(d).max(axis=1), d, 9) for d in draws]
    truth = max(means)
    assert np.mean([e.low <= truth <= e.high for e in found]) > 0.9
    assert all(e.low <= e.value <= e.high and e.num_examples == 9 for e in found)


@pytest.mark.parametrize("spurious_part", (0.0, 0.1, 0.5, 10.0))
def test_the_interval_of_nfs_covers(spurious_part):
    """Near 0, where it is biased up, as well: three spurious entries with errors of 0.1."""
    means = np.array([1.0, 0.0, spurious_part, 0.0, 0.0])
    truth = spurious_part**2 / (1 + spurious_part**2)
    found = []
    for seed in range(300):
        theta = normal_draws(means, 0.1, seed, 400)
        values = np.sum(theta[:, 2:] ** 2, axis=1) / np.sum(theta**2, axis=1)
        found.append(nfs_estimate(values, theta, SPURIOUS, 9))
    assert np.mean([e.low <= truth <= e.high for e in found]) > 0.9
    assert all(e.low <= e.value <= e.high for e in found)


def test_intervals_at_the_ends():
    """Values that never change, that are infinite, and that are not there."""
    same = corrected_estimate(np.zeros(201), 7)
    assert same == (0, 0, 0, 7)
    some = np.where(np.arange(201) < 150, math.inf, 1.0)
    assert corrected_estimate(some, 7) == (math.inf, 1.0, math.inf, 7)
    assert np.isnan(corrected_estimate(np.full(201, math.nan), 7).low)
    theta = np.tile([1.0, 1.0, 0, 0, 0], (201, 1))
    assert nfs_estimate(np.zeros(201), theta, SPURIOUS, 7) == (0, 0, 0, 7)
    skewed = np.concatenate([[1.5], np.random.default_rng(0).gamma(2, size=200)])
    share = np.mean(skewed[1:] < 1.5)
    ends = stats.norm.cdf(2 * stats.norm.ppf(share) + np.array([-1, 1]) * stats.norm.ppf(0.975))
    expected = np.quantile(skewed[1:], ends, method="inverted_cdf")
    np.testing.assert_allclose(corrected_estimate(skewed, 7)[1:3], expected, rtol=1e-12)


X = np.random.default_rng(0).normal(size=(20, 5))
Y = X[:, 0] + X[:, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": X[:2], "labels": Y[:2]}, r"features have shape \(2, 5\)"),
        ({"features": np.where(X > 2, np.nan, X)}, "features contains NaN"),
        ({"features": X * [1, 1, 0, 1, 1]}, r"features \[2\] are constant"),
        ({"labels": Y[1:]}, r"labels have shape \(19,\)"),
        ({"labels": Y * 0}, "labels are all 0"),
        ({"labels": np.arange(20) % 3}, "integers of 3 values: choose one"),
        ({"labels": np.arange(20) % 3, "target_class": 5}, "target_class = 5 is not a label"),
        ({"is_spurious": None}, "give either is_spurious or spurious_directions"),
        ({"is_spurious": np.full(5, True)}, "5 of 5 features are spurious"),
        ({"is_spurious": SPURIOUS[1:]}, r"is_spurious has shape \(4,\)"),
        ({"is_spurious": None, "spurious_directions": np.ones((2, 5))}, "2 vectors of rank 1"),
        ({"is_spurious": None, "spurious_directions": np.eye(5)}, r"expected \[k, 5\]"),
        ({"shrinkage": 1.5}, "shrinkage = 1.5"),
        ({"features": X[:6], "labels": Y[:6]}, "shrinkage = 0 needs n >= 7"),
    ],
)
def test_mistakes_are_named(change, message):
    call = {"features": X, "labels": Y, "is_spurious": SPURIOUS, "core_only": True} | change
    with pytest.raises(InputError, match=message):
        fit_gaussian_linear_model(**call)


def test_mistakes_in_predictions_are_named():
    found = fit(X[:10], Y[:10])
    for epsilons, call, message in (
        ([0.1], {"p": 0.5}, "p = 0.5"),
        ([0.0], {"p": 2}, "epsilons must be > 0"),
        (0.1, {"p": 2}, "epsilons: expected a list"),
        ([0.1], {"p": 2, "num_resamples": 10}, "num_resamples"),
        ([0.1], {"p": 2}, "cannot be resampled without shrinkage"),
    ):
        with pytest.raises(InputError, match=message):
            estimate_reliance(found, epsilons, jax.random.key(0), **call)
