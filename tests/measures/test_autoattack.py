"""AutoAttack as a benchmark: a linear model whose optimum is known, lists, going on, processes."""

import collections
import functools
import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from advspur.benchmarks.matrix import _is_headline, find_data
from advspur.benchmarks.run import Model, misfit
from prepare_data import prepare_arrays

from advspur._checks import InputError
from advspur.attacks import AutoAttackResult, linear_oracle
from advspur.attacks import ensemble as members
from advspur.attacks.autoattack import AttackCost
from advspur.benchmarks import AUTOATTACK, autoattack, cifar10, evaluate_model, rival10
from advspur.data import open_dataset, spurious_shapes
from advspur.data.layouts import MissingData
from advspur.models import Classifier, resnet_small
from advspur.records import COMPLETE, read_records
from tests.benchmarks import layouts

ROOT = Path(__file__).resolve().parents[2]
STEPS, QUERIES = 12, 20
SHAPES = {"image_size": 8, "num_classes": 4, "correlation": 0.9, "spurious_scale": 0.3}
NUM = 20
# What is attacked, all through this file: few shapes of arrays are few compilations.
OPTIONS = {
    "batch_size": 8,
    "num_images": NUM,
    "l2_epsilons": (),
    "linf_epsilons": (6 / 255, 2 / 255),
    "shapes": SHAPES,
}
ON_SHAPES = AUTOATTACK["autoattack_spurious_shapes"]


@flax.struct.dataclass
class Linear:
    """logits = <weights, x>: a classifier whose strongest perturbation is known exactly."""

    weights: jax.Array  # [h, w, c, k]

    @property
    def num_classes(self):
        """Length of a row of logits."""
        return self.weights.shape[-1]

    def logits(self, images):
        """[n, k] float32."""
        return jnp.tensordot(images, self.weights, axes=3)


class Said(layouts.Passes):
    """A progress that keeps its lines, and stops the work at one that begins as `until`."""

    def __init__(self, until=None):
        self.lines, self.until = [], until

    def line(self, text):
        """Keep a line."""
        self.lines.append(text)
        if self.until is not None and text.startswith(self.until):
            raise KeyboardInterrupt


@functools.cache
def linear():
    """Least squares on other images than those that are attacked."""
    columns = spurious_shapes("train", num_examples=400, **SHAPES).columns
    pixels = (columns["image"] / 255).reshape(400, -1)
    targets = np.eye(SHAPES["num_classes"])[columns["label"]]
    weights = np.linalg.solve(pixels.T @ pixels + 0.3 * np.eye(192), pixels.T @ targets)
    return Linear(jnp.asarray(20 * weights.reshape(8, 8, 3, -1), jnp.float32))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short attacks; the same from the first test to the last, since they are compiled in."""
    monkeypatch.setattr(members, "NUM_STEPS", STEPS)
    monkeypatch.setattr(members, "NUM_QUERIES", QUERIES)


def measure(progress=None, cache_dir=None, **options):
    key = jax.random.key(3)
    given = OPTIONS | options
    return ON_SHAPES.evaluate(linear(), key=key, progress=progress, cache_dir=cache_dir, **given)


def numbers(records):
    """{(metric, options): what was measured}, without the time it took."""
    return {r.identity: r[1:5] for r in records}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(records, progress, folder of the attacks), measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "NUM_STEPS", STEPS)
        patch.setattr(members, "NUM_QUERIES", QUERIES)
        progress, folder = Said(), tmp_path_factory.mktemp("cache")
        return measure(progress, folder), progress, folder


def of(records, metric, **options):
    """The records of a metric whose options hold these."""
    return [r for r in records if r.metric == metric and options.items() <= r.options.items()]


def test_robust_accuracy_is_the_linear_optimum(first):
    """No attack can fool more images than the exact optimum; these fool as many."""
    records, _, _ = first
    columns = spurious_shapes("test", num_examples=NUM, **SHAPES).columns
    images, labels = np.float32(columns["image"]) / np.float32(255), columns["label"]
    weights = np.asarray(linear().weights, np.float64).reshape(192, -1)

    def accuracy(images):
        logits = np.asarray(images, np.float64).reshape(NUM, -1) @ weights
        return np.mean(np.argmax(logits, axis=1) == labels)

    (clean,) = of(records, "accuracy")
    assert clean.options == {"images": "test[:20]"}
    assert (clean.value, clean.num_examples) == (accuracy(images), NUM)
    found = []
    for epsilon in OPTIONS["linf_epsilons"]:
        worst = linear_oracle.worst_case(
            linear().weights, jnp.zeros(4), images, labels, p=math.inf, epsilon=epsilon
        )
        (robust,) = (
            r
            for r in of(records, "autoattack_accuracy", p="inf", epsilon=epsilon)
            if "after" not in r.options
        )
        assert robust.options["version"] == "standard" and robust.options["images"] == "test[:20]"
        assert robust.value == accuracy(worst)
        assert robust.low < robust.value < robust.high and robust.num_examples == NUM
        found.append(robust.value)
    assert 0 < found[0] < found[1] < clean.value


def test_costs_are_told_of_every_attack_and_add_up(first):
    records, progress, _ = first
    (clean,) = of(records, "accuracy")
    before, seen = clean.value * NUM, 0
    for epsilon in sorted(OPTIONS["linf_epsilons"]):
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
            if name == "apgd-ce":  # and on what it fooled at the smaller budget
                least = most = (before + seen) * each
                seen = before - after
            if name.endswith("-t"):
                least, most = (before + 2 * after) * each, 3 * before * each
            assert least <= gradients.value <= most
            assert gradients.low == gradients.value == gradients.high
            assert forwards.value >= before and robust.seconds == forwards.seconds > 0
            assert after <= before
            before = after
        (whole,) = (
            r
            for r in of(records, "autoattack_accuracy", epsilon=epsilon)
            if "after" not in r.options
        )
        assert whole.value * NUM == after
        assert len(of(records, "autoattack_warnings", epsilon=epsilon)) == 1
    tables = [i for i, line in enumerate(progress.lines) if "what each attack took" in line]
    assert len(tables) == 2
    table = [line.split() for line in progress.lines[tables[0] + 1 : tables[0] + 6]]
    assert table[0] == ["attack", "attacked", "fooled", "gradients", "forwards", "seconds"]
    assert [row[0] for row in table[1:]] == list(members.VERSIONS["standard"])
    assert table[1][1] == str(round(clean.value * NUM))
    (gradients,) = of(records, "autoattack_gradients", epsilon=2 / 255, after="apgd-t")
    assert table[2][3] == f"{gradients.value:,.0f}"


def test_the_passes_told_bound_the_passes_made(first):
    _, progress, _ = first
    most = ON_SHAPES.num_passes(**{k: v for k, v in OPTIONS.items() if k != "batch_size"})
    # Told for eight classes, made for four: seven targets instead of three.
    few = [members.most_passes("standard", None, p=math.inf, num_classes=k) for k in (4, 8)]
    assert most == 2 * NUM * few[1]
    assert 0 < progress.done < progress.done + progress.skipped == 2 * NUM * few[0]


def test_summaries_show_the_numbers_of_all_attacks_together(first):
    records, _, _ = first
    shown = [r.metric for r in records if _is_headline(r)]
    assert shown == ["accuracy", "autoattack_accuracy", "autoattack_accuracy"]


def test_a_killed_evaluation_goes_on_with_the_batch_it_was_in(first, tmp_path, monkeypatch):
    records, _, _ = first
    attacked = []

    def attack_rows(task, member, epsilon, rows):
        attacked.append((member.name, epsilon, *rows))
        return run(task, member, epsilon, rows)

    module = sys.modules["advspur.attacks.autoattack"]
    run = module.attack_rows
    monkeypatch.setattr(module, "attack_rows", attack_rows)
    with pytest.raises(KeyboardInterrupt):
        measure(Said(until="apgd-t - 1/"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and attacked[-1][0] == "apgd-t"
    before = len(attacked)
    again = measure(Said(), tmp_path)
    assert numbers(again) == numbers(records)
    assert len(set(attacked)) == len(attacked) > before  # nothing was attacked twice
    count = len(attacked)
    assert numbers(measure(Said(), tmp_path)) == numbers(records) and len(attacked) == count


@pytest.mark.parametrize("change", ("weights", "key", "batch_size", "shapes"))
def test_another_attack_has_another_folder(change, tmp_path):
    images, labels = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int32)
    asked = {"batch_size": 8, "p": 2.0, "epsilons": [0.5], "version": "standard"}
    call = [tmp_path, linear(), asked, jax.random.key(0), 0, images, labels]
    changed = list(call)
    if change == "weights":
        changed[1] = Linear(linear().weights.at[0, 0, 0, 0].add(1e-6))
    elif change == "key":
        changed[3] = jax.random.key(1)
    elif change == "batch_size":
        changed[2] = asked | {"batch_size": 4}
    else:
        changed[5] = images + np.uint8(1)
    assert autoattack._directory(*call) == autoattack._directory(*call)
    assert autoattack._directory(*call) != autoattack._directory(*changed)


def test_shares_of_a_long_list_add_up_and_two_processes_measure_as_one(tmp_path, monkeypatch):
    """Three shares, of 7, 7 and 6 images: the second process has one of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "scripts"))),
    }
    command = [sys.executable, __file__, f"localhost:{port}"]
    both = [
        subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    monkeypatch.setattr(autoattack, "SHARE", 8)
    monkeypatch.setitem(members.VERSIONS, "standard", ("apgd-ce", "square"))
    progress = Said()
    one = [[*key, *value] for key, value in numbers(measure(progress, tmp_path)).items()]
    assert len(list(tmp_path.iterdir())) == 3
    assert [line for line in progress.lines if line.startswith("share")] == [
        f"share {i} of 3: {n} images" for i, n in ((1, 7), (2, 7), (3, 6))
    ]
    said = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [json.loads(text.splitlines()[-1]) for text in said] == [one, one]
    assert {row[-1] for row in one} == {NUM} and len(one) == 1 + 2 * (2 + 2 * 3)


def own_model(**facts):
    known = {
        "model": "own", "arch": "resnet_small", "train_p": 2.0, "train_epsilon": 0.0, "seed": 0,
        "step": 7, "checksum": "abc", "shapes": SHAPES, "dataset": "spurious_shapes",
        "num_classes": 4,
    }  # fmt: skip
    return Model(known | facts, "raw", functools.cache(linear))


def test_what_is_recorded_is_not_measured_again(first, tmp_path):
    records, _, folder = first
    options = {k: v for k, v in OPTIONS.items() if k != "shapes"}
    path = tmp_path / "records.jsonl"
    call = {"path": path, "seed": 3, "cache_dir": folder}
    measured = evaluate_model(own_model(), "autoattack_spurious_shapes", options=options, **call)
    assert len(measured) == len(records) == 1 + 2 * (2 + 4 * 3)
    by_metric = collections.Counter(r.metric for r in read_records(path))
    assert by_metric[COMPLETE] == 1 and by_metric["autoattack_accuracy"] == 10
    assert (
        numbers(measured).keys()
        == numbers(
            r._replace(model="own", benchmark="autoattack_spurious_shapes") for r in records
        ).keys()
    )
    assert not evaluate_model(own_model(), "autoattack_spurious_shapes", options=options, **call)
    few = options | {"num_images": 8, "linf_epsilons": (2 / 255,)}
    again = evaluate_model(own_model(), "autoattack_spurious_shapes", options=few, **call)
    assert {r.options["images"] for r in again} == {"test[:8]"}
    assert len(read_records(path)) == len(again) + 1  # the others are superseded


def test_models_fit_the_data_they_were_trained_on():
    names = list(AUTOATTACK)
    data = ("imagenet", "cifar10", "cifar_color_shift", "rival10", "spurious_shapes")
    assert names == [f"autoattack_{d}" for d in data]
    of_cifar = {"shapes": {}, "dataset": "cifar10", "num_classes": 10}
    of_imagenet = {"shapes": {}, "dataset": "imagenet", "num_classes": 1000}
    shifted = {"color_shift": {"rho": 9.0, "shift": 16 / 255, "seed": 0}}
    for facts, fits in (
        ({}, [False, False, False, False, True]),
        (of_cifar, [False, True, False, True, False]),
        (of_cifar | shifted, [False, True, True, True, False]),
        (of_cifar | {"num_classes": 7}, [False, False, False, True, False]),
        (of_cifar | {"dataset": "unknown"}, [False, False, False, True, False]),
        (of_imagenet, [True, False, False, True, False]),
    ):
        assert [not misfit(own_model(**facts), name) for name in names] == fits
    plain = own_model(**of_cifar)
    reason = "it was trained on cifar10 without a colour shift"
    assert misfit(plain, "cifar_color_shift") == reason
    unknown = own_model(**of_cifar | {"dataset": "unknown"})
    assert misfit(unknown, "autoattack_cifar10") == "it was trained on unknown"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "rand"}, "version = 'rand' is not known; allowed: 'standard', 'plus'"),
        ({"linf_epsilons": ()}, "no budget is given"),
        ({"linf_epsilons": ("",)}, "linf_epsilons = ('',): give a list of numbers, or () for none"),
        ({"num_images": 0}, "num_images = 0|num_examples = 0"),
        ({"image_list": "x.txt"}, "have no file names"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    message = "|".join(map(re.escape, message.split("|")))
    with pytest.raises(InputError, match=message):
        measure(**options)
    given = {k: v for k, v in (OPTIONS | options).items() if k != "batch_size"}
    with pytest.raises(InputError, match=message):
        ON_SHAPES.num_passes(**given)


@pytest.fixture
def attacks_seen(monkeypatch):
    """The calls of `security_curve`, which attacks nothing here: every image counts as robust."""
    seen = []

    def security_curve(logits_fn, images, labels, key, *, p, epsilons, **options):
        seen.append({"logits_fn": logits_fn, "images": images, "labels": labels, "p": p})
        true, nobody = np.ones(len(labels), bool), np.full(len(labels), "")
        cost = AttackCost("square", 1.0, len(labels), 0, 10, 0.5)
        return [AutoAttackResult(None, true, true, nobody, (cost,), (), p, e) for e in epsilons]

    monkeypatch.setattr(autoattack, "security_curve", security_curve)
    return seen


def grey(num_classes):
    return layouts.coded({0: 0}, num_classes)


def test_imagenet_images_are_a_tenth_or_those_of_a_file(tmp_path, attacks_seen):
    root = layouts.write_imagenet(tmp_path / "imagenet")
    files = sorted((root / "val").glob("*/*.JPEG"))  # ten, two of each of five classes
    benchmark = AUTOATTACK["autoattack_imagenet"]
    call = {"batch_size": 4, "key": jax.random.key(0), "allow_partial": True}
    (clean, *_) = benchmark.evaluate(grey(1000), root, num_images=5, **call)
    assert clean.options == {"images": "val[::2]"} and clean.num_examples == 5
    assert attacks_seen[0]["images"].shape == (5, 224, 224, 3) and attacks_seen[0]["p"] == math.inf
    assert attacks_seen[0]["labels"].tolist() == [0, 1, 207, 404, 999]
    names = [f"{file.parent.name}/{file.name}" for file in (files[8], files[3])]
    listing = tmp_path / "two.txt"
    listing.write_text("\n".join(names))
    (clean, *_) = benchmark.evaluate(grey(1000), root, image_list=str(listing), **call)
    assert clean.options == {"images": "two.txt"} and clean.num_examples == 2
    assert attacks_seen[1]["labels"].tolist() == [999, 1]
    whole = benchmark.load(root, allow_partial=True)["val"]
    for attacked, row in zip(attacks_seen[1]["images"], (8, 3), strict=True):
        assert attacked.dtype == np.float32 and attacked.max() <= 1
        np.testing.assert_array_equal(attacked, np.float32(whole[row]["image"]) / np.float32(255))


def test_a_faulty_list_is_a_line_before_anything_is_measured(tmp_path):
    layouts.write_imagenet(tmp_path / "imagenet")
    listing = tmp_path / "list.txt"
    listing.write_text("n01440764/absent.JPEG\n")
    lines = []
    options = {"autoattack_imagenet": {"allow_partial": True, "image_list": str(listing)}}
    found = find_data(
        list(options), options, data_dir=tmp_path, directories={}, required=False,
        line=lines.append,
    )  # fmt: skip
    assert found == ({}, {}, True)
    (line,) = lines
    assert line.startswith(f"error: autoattack_imagenet: image_list = {listing}: 1 of 1 images are")
    assert "n01440764/absent.JPEG" in line and "\n" not in line


def test_a_list_that_changed_under_its_name_is_measured_anew(tmp_path, attacks_seen):
    root = layouts.write_imagenet(tmp_path / "imagenet")
    names = [f"{f.parent.name}/{f.name}" for f in sorted((root / "val").glob("*/*.JPEG"))]
    model = own_model(shapes={}, dataset="imagenet", num_classes=1000)
    model = model._replace(classifier=functools.cache(functools.partial(grey, 1000)))
    listing = tmp_path / "list.txt"
    counts = []
    for wanted in (names[:2], names[:2], names[1:3]):
        listing.write_text("\n".join(wanted))
        options = {"batch_size": 4, "allow_partial": True, "image_list": str(listing)}
        measured = evaluate_model(
            model, "autoattack_imagenet", path=tmp_path / "records.jsonl", data_dir=root,
            options=options,
        )  # fmt: skip
        counts.append(len(measured))
        assert all("image_list" not in r.options for r in measured)
    assert counts[0] == counts[2] > counts[1] == 0


def test_rival10_has_the_head_of_its_own_benchmark(tmp_path, attacks_seen, monkeypatch):
    root = layouts.write_rival10(tmp_path / "RIVAL10", per_class=1)
    network = resnet_small(12, width=2, stem="imagenet")
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    backbone = Classifier(variables, network, (0.5,) * 3, (0.25,) * 3)
    with_heads = []
    monkeypatch.setattr(rival10, "region_records", lambda c, *_, **__: with_heads.append(c) or [])
    call = {
        "batch_size": 4, "key": jax.random.key(5), "allow_partial": True, "num_epochs": 2,
        "cache_dir": tmp_path / "features", "learning_rate": 0.1,
    }  # fmt: skip
    rival10.evaluate(backbone, root, **call)
    progress, benchmark = Said(), AUTOATTACK["autoattack_rival10"]
    (clean, *_) = benchmark.evaluate(backbone, root, progress=progress, num_images=4, **call)
    assert clean.options == {"images": "test[::5]"} and clean.num_examples == 4
    attacked = attacks_seen[0]["logits_fn"].__self__
    assert attacked.num_classes == 10
    jax.tree.map(np.testing.assert_array_equal, attacked.variables, with_heads[0].variables)
    passes = benchmark.num_passes(root, allow_partial=True, num_images=4, num_epochs=2)
    assert progress.skipped == passes  # the features were kept, and nothing was attacked here
    name = "n01498041_none.JPEG"
    (tmp_path / "list.txt").write_text(name)
    with pytest.raises(InputError, match=f"first {name}"):
        benchmark.evaluate(backbone, root, image_list=str(tmp_path / "list.txt"), **call)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A folder with cifar10/3.0.2 as scripts/prepare_data.py writes it from arrays."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    arrays = {}
    for split, n in (("train", 10), ("test", 12)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % 10
    np.savez(folder / "cifar10.npz", **arrays)
    prepare_arrays(folder / "cifar10.npz", "cifar10", folder, version="3.0.2")
    return folder


def test_cifar10_arrays_are_read_in_order(cifar, attacks_seen):
    benchmark = AUTOATTACK["autoattack_cifar10"]
    call = {"batch_size": 4, "key": jax.random.key(0), "allow_partial": True}
    records = benchmark.evaluate(grey(10), cifar / "cifar10", num_images=7, **call)
    assert {r.options["images"] for r in records} == {"test[:7]"}
    budgets = {(r.options["p"], r.options["epsilon"]) for r in of(records, "autoattack_accuracy")}
    assert budgets == {("inf", 8 / 255), (2.0, 0.5), (1.0, 12.0)}
    test = open_dataset("cifar10", data_dir=cifar).validation
    assert attacks_seen[0]["labels"].tolist() == [test[i]["label"] for i in range(7)]
    table = benchmark.load(cifar / "cifar10", allow_partial=True)["test"]
    expected = np.stack([table[i]["image"] for i in range(7)])
    assert expected.shape == (7, 32, 32, 3) and expected.std() > 50
    for seen in attacks_seen:
        np.testing.assert_array_equal(np.rint(255 * seen["images"]), expected)


def test_cifar10_data_are_told_of_as_others(cifar, tmp_path):
    benchmark = AUTOATTACK["autoattack_cifar10"]
    with pytest.raises(MissingData, match="no CIFAR-10 in .*TFDS array_record.*docs/benchmarks.md"):
        benchmark.num_passes(tmp_path)
    with pytest.raises(InputError, match="12 images, 10,000 are published"):
        benchmark.num_passes(cifar / "cifar10")
    options = {"autoattack_cifar10": {"allow_partial": True, "num_images": 5}}
    for where in ({"data_dir": cifar}, {"directories": {"cifar10": cifar / "cifar10"}}):
        call = {"data_dir": "", "directories": {}, "required": True, "line": lambda text: None}
        directories, passes, _ = find_data(list(options), options, **call | where)
        assert directories == {"autoattack_cifar10": cifar / "cifar10"}
        assert passes["autoattack_cifar10"] == 5 * sum(
            members.most_passes("standard", None, p=p, num_classes=10) for p in (1, 2, math.inf)
        )
    assert cifar10.NUM_CLASSES == (10,)


def _as_one_of_two_processes(coordinator, process_id):
    jax.distributed.initialize(coordinator, 2, process_id, initialization_timeout=60)
    members.NUM_STEPS, members.NUM_QUERIES, autoattack.SHARE = STEPS, QUERIES, 8
    members.VERSIONS["standard"] = ("apgd-ce", "square")
    print(json.dumps([[*key, *value] for key, value in numbers(measure()).items()]))


if __name__ == "__main__":
    _as_one_of_two_processes(sys.argv[1], int(sys.argv[2]))
