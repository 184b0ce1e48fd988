"""Group-robust heads against SciPy on objectives written out, and the papers' weights by hand."""

import jax
import numpy as np
import pytest
from scipy import optimize, special

from advspur.heads import (
    Examples,
    fit_heads,
    fit_logistic_regression,
    retrained,
    robust,
    selection,
    sparse,
)
from advspur.heads.retrained import fit_afr, fit_dfr
from advspur.heads.robust import fit_adversarial, fit_group_dro, fit_weighted
from tests.refusals import refused

N, D = 60, 4
COUNTS = {2: (30, 6, 4, 20), 3: (20, 6, 4, 14, 6, 10)}  # of groups 2 label + agrees


def draw(k=2, seed=0, counts=None):
    """Features of which the first goes with the label and the second, stronger, with a place."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(2 * k), counts or COUNTS[k])
    labels, places = groups // 2, (groups // 2 + groups % 2) % k
    features = rng.normal(size=(len(groups), D)) + 0.5
    features[:, 0] += labels
    features[:, 1] += 2 * places
    order = rng.permutation(len(groups))
    return Examples(features[order], labels[order], groups[order], (groups % 2 == 1)[order])


def cross_entropy(flat, features, labels, k):
    """[n] losses of a flat head [(d + 1) k]."""
    logits = np.c_[features, np.ones(len(features))] @ flat.reshape(-1, k)
    return -special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def flat(kernel, bias):
    return np.float64(np.vstack([kernel, bias])).ravel()


def least(objective, size):
    """The least value that SciPy finds from zero, by differences."""
    options = {"maxiter": 2000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9}
    return optimize.minimize(objective, np.zeros(size), method="L-BFGS-B", options=options).fun


@pytest.fixture(params=(2, 3))
def some(request, x64):
    """(number of classes, Examples)."""
    return request.param, draw(request.param)


def test_weighted_heads_reach_the_minimum_each_alone(some):
    k, (x, y, groups, _) = some
    weights = np.stack([np.full(N, 1 / N), robust.balanced_weights(groups)])
    decays = [0.01, 0.3]
    found = fit_weighted(x, y, weights, decays, num_classes=k)
    for kernel, bias, mu, decay in zip(found.kernel, found.bias, weights, decays, strict=True):

        def objective(w, mu=mu, decay=decay):
            return mu @ cross_entropy(w, x, y, k) + decay / 2 * w @ w

        value = objective(flat(kernel, bias))
        assert value == pytest.approx(least(objective, (D + 1) * k), abs=1e-6)
    assert np.all(found.gap <= 1e-6)
    regression = fit_logistic_regression(x, y, num_classes=k, weight_decay=0.01)
    np.testing.assert_allclose(found.kernel[0], regression.kernel, atol=2e-2)


def test_zeros_as_a_start_are_no_constant_of_the_program():
    """Folded into the first evaluation they gave NaN on CPU, for many features (jax 0.10)."""
    y, x = np.arange(4000) % 2, np.random.default_rng(0).normal(size=(4000, 512)).astype("f4")
    found = fit_weighted(x, y, np.full((4, 4000), 1 / 4000), [1e-1] * 4, num_classes=2)
    assert np.all(found.gap <= 1e-6)


def test_group_dro_reaches_the_minimum_with_constants_and_penalty(some):
    """SLSQP on min t + penalty over heads and t, with each group's loss below t."""
    k, (x, y, groups, _) = some
    decays, constants = [0.02, 0.02, 0.3], [0.0, 2.0, 1.0]
    found, q = fit_group_dro(x, y, groups, decays, constants, num_classes=k)
    assert np.all(found.gap <= 1e-6)
    np.testing.assert_allclose(q.sum(axis=1), 1)
    counts = np.bincount(groups)
    for i, (decay, constant) in enumerate(zip(decays, constants, strict=True)):

        def of_groups(w, constant=constant):
            losses = np.bincount(groups, cross_entropy(w, x, y, k)) / counts
            return losses + constant / np.sqrt(counts)

        def bound(wt, decay=decay):
            return wt[-1] + decay / 2 * wt[:-1] @ wt[:-1]

        slack = {"type": "ineq", "fun": lambda wt: wt[-1] - of_groups(wt[:-1])}
        start, options = np.zeros((D + 1) * k + 1), {"maxiter": 500, "ftol": 1e-12}
        start[-1] = of_groups(start[:-1]).max()
        expected = optimize.minimize(
            bound, start, method="SLSQP", constraints=slack, options=options
        )
        w = flat(found.kernel[i], found.bias[i])
        value = of_groups(w).max() + decay / 2 * w @ w
        assert expected.success and value == pytest.approx(expected.fun, abs=1e-6)


def test_groups_weights_are_multiplied_by_the_exponential_of_their_losses(x64):
    """One change of q by hand: q exp(eta F) normalised, with F of the head that comes with it."""
    x, y, groups, _ = draw()
    problem, onehot = robust.with_constant(x, y, 2)
    counts = np.bincount(groups)
    shares = np.eye(4)[groups] / counts
    q, eta, decay = np.array([[0.1, 0.2, 0.3, 0.4]]), 3.0, 0.1
    constants, start, gap = 1 / np.sqrt(counts)[None], np.zeros((1, D + 1)), np.array([np.inf])
    rate = np.array([eta, 1e-13])
    at, new, _ = robust._dro_round(
        problem, onehot, shares, constants, np.array([decay]), rate, start, q, gap
    )
    heads = robust._heads(at, 0 * decay, 2)
    losses = cross_entropy(flat(heads.kernel[0], heads.bias[0]), x, y, 2)
    powers = q[0] * np.exp(eta * (np.bincount(groups, losses) / counts + constants[0]))
    np.testing.assert_allclose(new[0], powers / powers.sum(), rtol=1e-6)
    weights = (new[0] / counts)[groups]
    best = fit_weighted(x, y, weights[None], [decay], num_classes=2)
    np.testing.assert_allclose(heads.kernel, best.kernel, atol=1e-2)


@pytest.mark.parametrize("budget", (0.0, 0.3, 50.0))
def test_the_adversarial_head_reaches_the_minimum_under_the_worst_shift(some, budget):
    """For two classes the worst shift is against the margin's gradient. A large budget gives w = 0,
    where SciPy has no gradient: the best bias is compared."""
    k, (x, y, *_) = some
    decay = 0.05
    found = fit_adversarial(x, y, [decay], [budget], num_classes=k)
    assert np.all(found.gap <= 1e-6)
    total, expected = 0.0, 0.0
    for c in range(k) if k > 2 else [1]:
        signs = 2.0 * (y == c) - 1
        kernel, bias = found.kernel[0], found.bias[0]
        w = kernel[:, c] - kernel[:, 0] if k == 2 else kernel[:, c]
        b = bias[c] - bias[0] if k == 2 else bias[c]

        def objective(wb, signs=signs):
            length = np.linalg.norm(wb[:-1])
            unit = wb[:-1] / (length or 1)
            shifted = x - budget * signs[:, None] * unit
            margins = signs * (shifted @ wb[:-1] + wb[-1])
            return np.mean(np.logaddexp(0, -margins)) + decay / 4 * wb @ wb

        total += objective(np.r_[w, b])
        if budget == 50:
            assert np.all(w == 0)
            expected += optimize.minimize_scalar(lambda b: objective(np.r_[np.zeros(D), b])).fun
        else:
            start = np.r_[w, b] + 0.1
            expected += optimize.minimize(objective, start, options={"gtol": 1e-8}).fun
    assert total == pytest.approx(expected, abs=1e-6)


def test_dfr_reaches_the_minimum_of_sparse_regression(some):
    """L-BFGS-B on w = w+ - w-, both >= 0; the intercept is penalised; each class, each draw."""
    k, (x, y, *_) = some
    scaler = retrained.Scaler.of(x)
    draws, Cs = np.stack([np.arange(N), np.random.default_rng(1).permutation(N)]), [1.0, 0.03]
    draws = draws[:, : N - 5]
    kernels, biases, gaps = fit_dfr(x, y, draws, Cs, scaler, num_classes=k)
    assert np.all(gaps <= 1e-6 * k)
    z = np.c_[(x - scaler.mean) / scaler.scale, np.ones(N)]
    for i, C in enumerate(Cs):
        for r, rows in enumerate(draws):
            for c in range(k) if k > 2 else [1]:
                signs = 2.0 * (y[rows] == c) - 1
                kernel, bias = kernels[i, r], biases[i, r]
                w = kernel[:, c] - kernel[:, 0] if k == 2 else kernel[:, c]
                b = bias[c] - bias[0] if k == 2 else bias[c]
                scaled = np.r_[w * scaler.scale, b + scaler.mean @ w]

                def objective(w, rows=rows, signs=signs, C=C):
                    return C * np.sum(np.logaddexp(0, -signs * (z[rows] @ w)))

                def split(wpm, objective=objective):
                    return objective(wpm[: D + 1] - wpm[D + 1 :]) + wpm.sum()

                bounds = [(0, None)] * (2 * D + 2)
                options = {"maxiter": 2000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9}
                expected = optimize.minimize(
                    split,
                    np.full(2 * D + 2, 0.1),
                    method="L-BFGS-B",
                    bounds=bounds,
                    options=options,
                ).fun
                value = objective(scaled) + abs(scaled).sum()
                assert value == pytest.approx(expected, abs=2e-6)


def test_more_features_than_rows_are_solved_as_well(x64):
    """The two forms of Newton's equations: of rows, and of features."""
    rng = np.random.default_rng(0)
    x, signs = rng.normal(size=(8, 20)), np.repeat([-1.0, 1.0], 4)
    fit = sparse.fit_sparse
    wide, long = fit(x, signs, 1.0), fit(np.r_[x, 0 * x, 0 * x], np.tile(signs, 3), 1.0)
    assert wide.gap <= 1e-6 and long.gap <= 1e-6
    zeros = 16 * np.log(2)  # of the rows of zeros
    assert float(wide.value + zeros) == pytest.approx(float(long.value), abs=2e-6)
    enough = 2 / np.max(abs(signs @ x))  # at a smaller C no feature is worth its penalty
    assert np.all(fit(x, signs, 0.99 * enough).weights == 0)
    assert 0 < np.sum(fit(x, signs, 1.1 * enough).weights != 0) < 5


@pytest.mark.parametrize("working", (4, 2))
def test_a_working_set_of_features_ends_at_the_minimum_over_all(x64, working):
    """Three features count: a working set of four is enough; two are not, and all are used."""
    rng = np.random.default_rng(3)
    x, signs = rng.normal(size=(60, 30)), np.repeat([-1.0, 1.0], 30)
    x[:, [3, 11, 20]] += np.float64([0.7, 0.8, 0.9]) * signs[:, None]
    C = 0.15
    whole = sparse.fit_sparse(x, signs, C)
    assert np.sum(whole.weights != 0) == 3
    found = sparse.fit_sparse(x, signs, C, working=working)
    assert found.gap <= 1e-6 and float(found.value) == pytest.approx(float(whole.value), abs=2e-6)
    np.testing.assert_allclose(found.weights, whole.weights, rtol=0, atol=1e-3)


def test_nearly_separable_rectified_features_are_solved_to_the_end(x64):
    """Few rows count at the minimum, and short steps must not leave mu behind the residual."""
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(300, 12))
    x = hidden @ rng.normal(size=(12, 40)) + 0.1 * rng.normal(size=(300, 40))
    x, signs = np.maximum(x, 0), np.where(hidden[:, 0] + 0.3 * hidden[:, 1] ** 2 > 0.1, 1.0, -1.0)
    x = np.c_[(x - x.mean(0)) / x.std(0), np.ones(300)]
    fit = sparse.fit_sparse(x, signs, 10.0)
    assert fit.gap <= 1e-6 and fit.steps < 50
    margins = signs * (x @ fit.weights)
    value = np.sum(abs(fit.weights)) + 10 * np.sum(np.log1p(np.exp(-margins)))
    assert float(fit.value) == pytest.approx(float(value))


def test_weights_and_draws_by_hand():
    codes = np.array([7, 7, 7, 2])
    np.testing.assert_allclose(robust.balanced_weights(codes), [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    drawn = robust.subsample_weights(codes, np.random.default_rng(0))
    assert sorted(drawn) == [0, 0, 0.5, 0.5] and drawn[3] == 0.5
    groups = np.repeat(np.arange(4), (9, 8, 3, 5))
    draws = robust.balanced_draws(groups, 5, np.random.default_rng(0))
    assert draws.shape == (5, 12) and len({tuple(sorted(rows)) for rows in draws}) > 1
    assert all(np.bincount(groups[rows]).tolist() == [3] * 4 for rows in draws)
    wrong = np.array([True, False, False, True])
    np.testing.assert_allclose(retrained.jtt_weights(wrong, 2.0), [3 / 8, 1 / 8, 1 / 8, 3 / 8])
    mu = retrained.afr_weights(np.array([0.5, 1.0, 0.5]), np.array([0, 1, 1]), [0.0, 2.0])
    np.testing.assert_allclose(mu[0], [1 / 2, 1 / 4, 1 / 4])
    by_hand = np.array([np.exp(-1), np.exp(-2) / 2, np.exp(-1) / 2])
    np.testing.assert_allclose(mu[1], by_hand / by_hand.sum())
    assert selection.worst_accuracy([1, 0, 1, 1], np.array([5, 5, 9, 9])) == 0.5


def test_error_sets_are_those_of_gradient_descent_written_out():
    x, y, *_ = draw(3)
    found = retrained.error_sets(x, y, (1, 5), num_classes=3)
    z = np.c_[(x - x.mean(0)) / x.std(0), np.ones(N)]
    head, rate = np.zeros((D + 1, 3)), 2 * N / np.linalg.norm(z, 2) ** 2
    for step in range(1, 6):
        head -= rate * z.T @ (special.softmax(z @ head, axis=1) - np.eye(3)[y]) / N
        if step in (1, 5):
            wrong = np.argmax(z @ head, axis=1) != y
            np.testing.assert_array_equal(found[(1, 5).index(step)], wrong)
    assert 0 < found[1].sum() < N


def test_afr_is_clipped_gradient_descent_from_its_base(some):
    k, (x, y, groups, _) = some
    rng, lam, gamma, rate = np.random.default_rng(0), 0.2, 6.0, 0.5
    base = rng.normal(size=(D, k)), rng.normal(size=k)
    call = {"gammas": (gamma,), "lambdas": (lam,), "learning_rate": rate, "num_epochs": 12}
    ((kernel, bias, chosen, score),) = fit_afr(base, (x, y), (x, y, groups), num_classes=k, **call)
    z, onehot = np.c_[x, np.ones(N)], np.eye(k)[y]
    start = np.vstack(base)
    p = special.softmax(z @ start, axis=1)[np.arange(N), y]
    mu = retrained.afr_weights(p, y, [gamma])[0]
    head, worst, heads = start, [], []
    for _ in range(12):
        errors = mu[:, None] * (special.softmax(z @ head, axis=1) - onehot)
        grad = z.T @ errors + 2 * lam * (head - start)
        head = head - rate * grad / max(1, np.linalg.norm(grad))
        heads.append(head)
        right = np.argmax(z @ head, axis=1) == y
        worst.append(selection.worst_accuracy(right, groups))
    best = int(np.argmax(worst))
    assert chosen == {"gamma": gamma, "lambda": lam, "epoch": best + 1}
    assert score == pytest.approx(worst[best])
    np.testing.assert_allclose(np.vstack([kernel, bias]), heads[best], atol=1e-4)


TRAIN, VAL = draw(counts=(120, 12, 8, 60)), draw(seed=1, counts=(30, 20, 20, 30))


@pytest.fixture(scope="module")
def fitted():
    return fit_heads(TRAIN, VAL, selection.HEADS, num_classes=2)


def test_every_head_says_what_was_chosen_and_its_score_is_that_of_val(fitted):
    assert list(fitted) == list(selection.HEADS)
    for name, head in fitted.items():
        right = np.argmax(VAL.features @ head.kernel + head.bias, axis=1) == VAL.labels
        if name != "dfr":  # whose score is of half of val
            assert head.score == pytest.approx(selection.worst_accuracy(right, VAL.groups))
        assert head.selected_by == "val worst group" and head.chosen
    assert not jax.config.read("jax_enable_x64")
    assert fitted["dfr"].chosen.keys() == {"C", "draws", "rows"}
    assert fitted["dfr"].chosen["rows"] == 4 * 20
    assert fitted["jtt"].chosen.keys() >= {"steps", "up", "weight_decay", "error_set_recall"}
    for name in ("group_balanced", "dfr", "group_dro"):
        assert fitted[name].score > fitted["erm"].score


def test_group_codes_and_the_order_of_rows_do_not_matter(fitted):
    other = Examples(*(column[np.random.default_rng(0).permutation(200)] for column in TRAIN))
    names = np.array([9, 2, 5, 0])
    other, val = (of._replace(groups=names[of.groups]) for of in (other, VAL))
    heads = ("group_balanced", "group_dro", "adversarial", "jtt")
    again = fit_heads(other, val, heads, num_classes=2)
    for name in heads:
        assert fitted[name].chosen == again[name].chosen
        np.testing.assert_allclose(fitted[name].kernel, again[name].kernel, atol=2e-2)


def test_rules_without_groups_and_subsampling():
    bare = [part._replace(groups=None, is_minority=None) for part in (TRAIN, VAL)]
    call = {"num_classes": 2}
    for rule, subset in (("worst_class", VAL.labels), ("mean", 0 * VAL.labels)):
        found = fit_heads(*bare, ("class_balanced",), selected_by=rule, **call)
        for head in found.values():
            right = np.argmax(VAL.features @ head.kernel + head.bias, axis=1) == VAL.labels
            assert head.score == pytest.approx(selection.worst_accuracy(right, subset))
            assert head.selected_by == f"val {rule.replace('_', ' ')}"
    drawn = fit_heads(TRAIN, VAL, ("group_balanced",), balancing="subsample", **call)
    assert drawn["group_balanced"].chosen["balancing"] == "subsample"


HOLE = TRAIN._replace(features=np.where(TRAIN.features > 3, np.nan, TRAIN.features))
FAR = TRAIN._replace(features=np.outer(2 * TRAIN.labels - 1, np.ones(D)))
THIN = VAL._replace(groups=np.where(np.arange(len(VAL.groups)) == 0, 7, VAL.groups))
ONE = VAL._replace(groups=0 * VAL.groups)


@pytest.mark.parametrize(
    "train, val, heads, message",
    [
        (TRAIN, VAL, ("svm",), "heads = 'svm' is not known"),
        (HOLE, VAL, ("erm",), "the features of train contain NaN"),
        (TRAIN, ONE, ("erm",), "erm needs several groups of val, which has 1: "),
        (TRAIN._replace(groups=None), VAL, ("group_dro",), "dro needs several groups of train"),
        (TRAIN, VAL._replace(groups=None), ("dfr",), "head dfr needs several groups of val"),
        (TRAIN, VAL._replace(features=VAL.features[:, 1:]), ("erm",), "have widths"),
        (FAR, VAL, ("jtt",), "jtt has no error set: after 10 steps"),
        (TRAIN, THIN, ("dfr",), "group 7 has no row in half of val"),
    ],
)
def test_bad_input_is_one_line(train, val, heads, message, monkeypatch):
    monkeypatch.setattr(retrained, "halves", _second_half_first(retrained.halves))
    refused(message, fit_heads, train, val, heads, num_classes=2)
    refused("each > 0", fit_heads, train, val, (), num_classes=2, weight_decays=(0.0,))


def _second_half_first(halves):
    """`halves` with shuffles that leave the first row in the half that is scored on."""

    class Reversed:
        permutation = staticmethod(lambda n: np.arange(n)[::-1])

    return lambda groups, rng: halves(groups, Reversed)
