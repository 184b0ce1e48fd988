"""AutoAttack as a measure: a linear model with known optimum, costs, lists, resumption."""

import functools
import math
import re
import sys

import jax
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.attacks import AutoAttackResult, linear_oracle
from advspur.attacks import ensemble as members
from advspur.attacks.autoattack import AttackCost
from advspur.benchmarks import BENCHMARKS, evaluate_model
from advspur.benchmarks.runner import OpenModel
from advspur.data import spurious_shapes
from advspur.measures import MEASURES, autoattack, autoattack_records
from advspur.measures.autoattack import plan_autoattack
from tests.data import fake_layouts
from tests.data.fake_layouts import Passes, coded, read
from tests.measures.linear import linear

STEPS, QUERIES, NUM = 12, 20, 20
SHAPES = {"image_size": 8, "num_classes": 4, "correlation": 0.9, "spurious_scale": 0.3}
EPSILONS = (6 / 255, 2 / 255)
# The same images in the whole file: few shapes of arrays are few compilations.
OPTIONS = {"batch_size": 8, "images": "first", "num_images": NUM, "linf_epsilons": EPSILONS}
DEFAULTS = MEASURES["autoattack"].options


@functools.cache
def model():
    """Least squares on other images than those attacked."""
    columns = spurious_shapes("train", num_examples=400, **SHAPES).columns
    pixels = (columns["image"] / 255).reshape(400, -1)
    targets = np.eye(SHAPES["num_classes"])[columns["label"]]
    weights = np.linalg.solve(pixels.T @ pixels + 0.3 * np.eye(192), pixels.T @ targets)
    return linear(20 * weights.reshape(8, 8, 3, -1), np.zeros(4))


def parts(number=2 * NUM):
    return {"test": spurious_shapes("test", num_examples=number, **SHAPES)}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short attacks, the same for all tests, since their lengths are compiled in."""
    monkeypatch.setattr(members, "NUM_STEPS", STEPS)
    monkeypatch.setattr(members, "NUM_QUERIES", QUERIES)


def measure(progress=None, cache_dir=None, **options):
    running = {"key": jax.random.key(3), "progress": progress, "cache_dir": cache_dir}
    return autoattack_records(model(), parts(), **running, **OPTIONS | options)


def numbers(records):
    """{(metric, options): estimate}, without the time."""
    return {r.identity: r[1:5] for r in records}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(records, progress, folder of the attacks), measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "NUM_STEPS", STEPS)
        patch.setattr(members, "NUM_QUERIES", QUERIES)
        progress, folder = Passes(), tmp_path_factory.mktemp("cache")
        return measure(progress, folder), progress, folder


def of(records, metric, **options):
    """The records of a metric with these options."""
    return [r for r in records if r.metric == metric and options.items() <= r.options.items()]


def robust_of(records, **about):
    (found,) = (r for r in of(records, "autoattack_accuracy", **about) if "after" not in r.options)
    return found


def test_robust_accuracy_is_the_linear_optimum(first):
    """No attack can fool more images than the exact optimum; these fool as many."""
    records, _, _ = first
    columns = parts(NUM)["test"].columns
    images, labels = np.float32(columns["image"]) / np.float32(255), columns["label"]
    weights = np.asarray(model().params[0], np.float64).reshape(192, -1)

    def accuracy(images):
        logits = np.asarray(images, np.float64).reshape(NUM, -1) @ weights
        return np.mean(np.argmax(logits, axis=1) == labels)

    (clean,) = of(records, "autoattack_clean_accuracy")
    assert clean.options == {"part": "test", "images": "test[:20]"}
    assert (clean.value, clean.num_examples) == (accuracy(images), NUM)
    found = []
    for epsilon in EPSILONS:
        ball = {"p": math.inf, "epsilon": epsilon}
        worst = linear_oracle.worst_case(*model().params, images, labels, **ball)
        robust = robust_of(records, p="inf", epsilon=epsilon)
        assert robust.options["version"] == "standard" and robust.options["images"] == "test[:20]"
        assert robust.value == accuracy(worst)
        assert robust.low < robust.value < robust.high and robust.num_examples == NUM
        found.append(robust.value)
    assert 0 < found[0] < found[1] < clean.value
    assert len(records) == 1 + 2 * (2 + 4 * 3)


def test_costs_of_every_attack_add_up(first):
    records, progress, _ = first
    (clean,) = of(records, "autoattack_clean_accuracy")
    before, seen = clean.value * NUM, 0
    for epsilon in sorted(EPSILONS):
        about = {"epsilon": epsilon, "p": "inf"}
        for name in members.VERSIONS["standard"]:
            about["after"] = name
            (robust,) = of(records, "autoattack_accuracy", **about)
            (gradients,) = of(records, "autoattack_gradients", **about)
            (forwards,) = of(records, "autoattack_forwards", **about)
            after = round(robust.value * NUM)
            # One run of APGD-CE on each, then up to three targets on each that is still robust.
            each = {"apgd-ce": STEPS + 1, "apgd-t": STEPS + 1, "fab-t": STEPS, "square": 0}[name]
            least, most = (count * each for count in (before, before))
            if name == "apgd-ce":  # also on what it fooled at the smaller budget
                least = most = (before + seen) * each
                seen = before - after
            if name.endswith("-t"):
                least, most = (before + 2 * after) * each, 3 * before * each
            assert least <= gradients.value <= most
            assert gradients.low == gradients.value == gradients.high
            assert forwards.value >= before and robust.seconds == forwards.seconds > 0
            assert after <= before
            before = after
        assert robust_of(records, epsilon=epsilon).value * NUM == after
        assert len(of(records, "autoattack_warnings", epsilon=epsilon)) == 1
    tables = [i for i, line in enumerate(progress.lines) if "cost of each attack" in line]
    assert len(tables) == 2
    table = [line.split() for line in progress.lines[tables[0] + 1 : tables[0] + 6]]
    assert table[0] == ["attack", "attacked", "fooled", "gradients", "forwards", "seconds"]
    assert [row[0] for row in table[1:]] == list(members.VERSIONS["standard"])
    assert table[1][1] == str(round(clean.value * NUM))
    (gradients,) = of(records, "autoattack_gradients", epsilon=2 / 255, after="apgd-t")
    assert table[2][3] == f"{gradients.value:,.0f}"


def test_planned_passes_bound_those_made(first):
    _, progress, _ = first
    told = plan_autoattack(parts(), **DEFAULTS | OPTIONS)
    each = members.most_passes("standard", p=math.inf, num_classes=4)
    assert told == 2 * NUM * each == progress.done + progress.skipped
    assert 0 < progress.done < told


def test_a_killed_evaluation_resumes_with_the_batch_in_progress(first, tmp_path, monkeypatch):
    records, _, _ = first
    attacked = []

    def attack_rows(task, member, epsilon, rows):
        attacked.append((member.name, epsilon, *rows))
        return run(task, member, epsilon, rows)

    module = sys.modules["advspur.attacks.autoattack"]
    run = module.attack_rows
    monkeypatch.setattr(module, "attack_rows", attack_rows)
    with pytest.raises(KeyboardInterrupt):
        measure(Passes(until="apgd-t - 1/"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and attacked[-1][0] == "apgd-t"
    before = len(attacked)
    again = measure(Passes(), tmp_path)
    assert numbers(again) == numbers(records)
    assert len(set(attacked)) == len(attacked) > before  # nothing was attacked twice
    count = len(attacked)
    assert numbers(measure(Passes(), tmp_path)) == numbers(records) and len(attacked) == count


def test_shares_of_a_long_list_add_up(first, tmp_path, monkeypatch):
    """Shares of 7, 7 and 6 images have a file each; a model has a folder."""
    monkeypatch.setattr(autoattack, "SHARE", 8)
    monkeypatch.setitem(members.VERSIONS, "standard", ("apgd-ce", "square"))
    progress = Passes()
    records = measure(progress, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and len(list(tmp_path.glob("*/*"))) == 3
    assert [line for line in progress.lines if line.startswith("share")] == [
        f"share {i} of 3: {n} images" for i, n in ((1, 7), (2, 7), (3, 6))
    ]
    assert {r.num_examples for r in records} == {NUM} and len(records) == 1 + 2 * (2 + 2 * 3)
    (clean,) = of(records, "autoattack_clean_accuracy")
    assert clean[1:5] == of(first[0], "autoattack_clean_accuracy")[0][1:5]
    for epsilon in EPSILONS:
        found, whole = (robust_of(r, epsilon=epsilon) for r in (records, first[0]))
        assert whole.value <= found.value <= clean.value  # two of four attacks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "rand"}, "version = 'rand' is not known; allowed: 'standard', 'plus'"),
        ({"num_images": 0}, "num_images = 0"),
        ({"images": "x.txt"}, "images = x.txt cannot be read"),
    ],
)
def test_bad_options_are_refused(options, message):
    call = DEFAULTS | OPTIONS | options
    for function in (lambda: measure(**options), lambda: plan_autoattack(parts(), **call)):
        with pytest.raises(InputError, match=re.escape(message)):
            function()


@pytest.fixture
def attacks_seen(monkeypatch):
    """The calls of a `security_curve` that attacks nothing: every image is robust."""
    seen = []

    def security_curve(logits_fn, images, labels, key, *, p, epsilons, **options):
        seen.append({"logits_fn": logits_fn, "images": images, "labels": labels, "p": p} | options)
        nobody = np.full(len(labels), "")
        cost = AttackCost("square", 1.0, len(labels), 0, 10, 0.5)
        return [AutoAttackResult(None, nobody, (cost,), (), p, e) for e in epsilons]

    monkeypatch.setattr(autoattack, "security_curve", security_curve)
    return seen


def evaluate(name, classifier, root, key=0, **options):
    """The records of a row with AutoAttack as the only measure."""
    read(name, root)  # it clears the reader's cache
    call = {"batch_size": 4, "key": jax.random.key(key), "measures": ("autoattack",)}
    call["data"] = {"allow_partial": True}
    return BENCHMARKS[name].evaluate(classifier, root, **call, **options)


def test_a_changed_list_is_measured_again(tmp_path, attacks_seen):
    root = fake_layouts.write_imagenet(tmp_path / "imagenet")
    names = [f"{f.parent.name}/{f.name}" for f in sorted((root / "val").glob("*/*.JPEG"))]
    facts = {"model": "own", "arch": "x", "train_p": None, "train_epsilon": None, "seed": 0}
    facts |= {"num_classes": 1000, "checksum": "abc"}
    opened = OpenModel(facts, functools.partial(coded, {}, 1000))
    listing, counts = tmp_path / "list.txt", []
    options = {"data": {"allow_partial": True}, "autoattack": {"images": str(listing)}}
    call = {"measures": ("autoattack",), "batch_size": 4, "options": options, "directory": root}
    for wanted in (names[:2], names[:2], names[1:3]):
        listing.write_text("\n".join(wanted))
        path = tmp_path / "records.jsonl"
        measured = evaluate_model(opened, BENCHMARKS["imagenet"], path=path, **call)
        counts.append(len(measured))
        assert {r.options["images"] for r in measured} <= {"list.txt"}
    assert counts[0] == counts[2] > counts[1] == 0


def test_rival10_has_the_head_of_its_own_row(tmp_path, attacks_seen):
    root = fake_layouts.write_rival10(tmp_path / "RIVAL10", per_class=1)
    head = {"num_epochs": 2, "learning_rate": 0.1}
    options = {"autoattack": {"num_images": 4}, "head": head, "cache_dir": tmp_path / "kept"}
    progress = Passes()
    (clean, *_) = evaluate("rival10", coded({}, 7), root, 5, progress=progress, **options)
    named = {"head": "adam", "part": "test", "images": "test[::5]"}
    assert clean.options == named | head and clean.num_examples == 4
    attacked, row = attacks_seen[0]["logits_fn"].__self__, BENCHMARKS["rival10"]
    call = row.complete({"head": head})["head"] | {"running": {"batch_size": 4}}
    parts, key = read("rival10", root), jax.random.key(5)
    ((_, headed), *_), _ = row.head(coded({}, 7), parts, key=key, **call)
    jax.tree.map(np.testing.assert_array_equal, attacked.params, headed.params)
    assert attacked.num_classes == 10
    given = {"data": {"allow_partial": True}, "autoattack": {"num_images": 4}, "head": head}
    planned = row.plan(root, ("autoattack",), given).passes
    assert planned["head"] == 20 and progress.done + progress.skipped == sum(planned.values())
    (tmp_path / "list.txt").write_text("n01498041_none.JPEG")
    options["autoattack"] = {"images": str(tmp_path / "list.txt")}
    with pytest.raises(InputError, match="first n01498041_none.JPEG"):
        evaluate("rival10", coded({}, 7), root, **options)


def test_cifar10_attacks_the_first_images_in_three_norms(tmp_path, attacks_seen):
    root = fake_layouts.write_cifar10(tmp_path / "cifar10")
    records = evaluate("cifar10", coded({}, 10), root, autoattack={"num_images": 7})
    assert {r.options["images"] for r in records} == {"test[:7]"}
    budgets = {(r.options["p"], r.options["epsilon"]) for r in of(records, "autoattack_accuracy")}
    assert budgets == {("inf", 8 / 255), (2.0, 0.5), (1.0, 12.0)}
    table = read("cifar10", root)["test"]
    assert attacks_seen[0]["labels"].tolist() == [table[i]["label"] for i in range(7)]
    expected = np.stack([table[i]["image"] for i in range(7)])
    assert expected.shape == (7, 32, 32, 3) and expected.std() > 50
    for seen in attacks_seen:
        np.testing.assert_array_equal(np.rint(255 * seen["images"]), expected)
        assert seen["batch_size"] == 250
