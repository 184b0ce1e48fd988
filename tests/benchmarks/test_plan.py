"""All models on all benchmarks, from one folder of data to one file of records."""

import collections
import io
import math

import jax
import numpy as np
import pytest
from advspur.benchmarks.matrix import evaluate_matrix, find_data

from advspur._checks import InputError
from advspur._progress import Progress
from advspur.benchmarks import (
    AUTOATTACK,
    BENCHMARKS,
    open_model,
    predict,
    regions,
    rival10,
    salient_imagenet,
)
from advspur.models import Classifier, classifier, resnet_small, store
from advspur.models.convert import Conversion
from advspur.records import COMPLETE, read_records
from advspur.training import probe
from tests.benchmarks import layouts

OTHERS = (*AUTOATTACK, "cifar_color_shift")  # of models trained on other data
NAMES = tuple(n for n, module in BENCHMARKS.items() if module.DIRECTORIES and n not in OTHERS)
READING = {"batch_size": 8, "allow_partial": True, "skip_unreadable": False}
REGIONS = {
    "linf_noise_levels": (0.2,),
    "l2_noise_levels": (),
    "trials": 1,
    "l2_epsilons": (),
    "linf_epsilons": (1 / 255,),
    "attack_steps": 2,
    "num_attacked": 4,
}
OPTIONS = {name: dict(READING) for name in NAMES}
NO_ATTACKS = REGIONS | {"linf_epsilons": ()}  # one network to compile them for is enough
OPTIONS["rival10"] |= {"regions": NO_ATTACKS, "num_epochs": 2}
OPTIONS["salient_imagenet"] |= {"regions": REGIONS, "dilation_rounds": 1}
OPTIONS["imagenet9"] |= {"regions": NO_ATTACKS, "challenge_backgrounds": 2}
OPTIONS["waterbirds"] |= {"num_epochs": 2}


class Recorder(Progress):
    """A progress whose parts remember by their title what they were advanced by."""

    def __init__(self, total):
        self.text = io.StringIO()
        super().__init__(total, "evaluate", stream=self.text)
        self.of_parts = collections.Counter()

    def part(self, title, weight):
        part, advance, skip = super().part(title, weight), Progress.advance, Progress.skip

        def count(method):
            def counted(amount=1, note=""):
                self.of_parts[title] += amount
                method(self, amount * weight)

            return counted

        part.advance, part.skip = count(advance), count(skip)
        return part


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return layouts.write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Two converted models of 1000 classes, as Models."""
    root = tmp_path_factory.mktemp("models")
    network = resnet_small(1000, stem="imagenet")
    init = jax.jit(network.init)
    models = []
    for seed, name in enumerate(("one", "other")):
        variables = init(jax.random.key(seed), np.zeros((1, 32, 32, 3), np.float32))
        made = Classifier(variables, network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        (root / f"{name}.ckpt").write_text(name)
        conversion = Conversion(made, "resnet_small", (), (), (), "in the file", "none", ())
        store.save_converted(
            conversion, root / f"{name}.ckpt", root / name, train_p=2.0, train_epsilon=seed
        )
        models.append(open_model(root / name))
    return models


def find(names, root, *, required=False):
    lines = []
    found = find_data(
        names, OPTIONS, data_dir=root, directories={}, required=required, line=lines.append
    )
    return *found, lines


def evaluate(models, root, workdir, names=NAMES):
    """(whether all could be measured, the progress, its lines)."""
    directories, passes, _, _ = find(names, root)
    made = []

    def progress_of(total):
        made.append(Recorder(total))
        return made[0]

    complete = evaluate_matrix(
        models,
        directories,
        passes,
        OPTIONS,
        path=workdir / "records.jsonl",
        seed=0,
        cache_dir=workdir / "features",
        progress_of=progress_of,
        line=lambda text: made.append(text),
    )
    (progress,) = made
    return complete, progress, progress.text.getvalue().splitlines()


@pytest.fixture(scope="module")
def first(data, converted, tmp_path_factory):
    """(folder, progress, lines) of the first model on all seven."""
    workdir = tmp_path_factory.mktemp("run")
    complete, progress, lines = evaluate(converted[:1], data, workdir)
    assert complete
    return workdir, progress, lines


def test_all_seven_are_measured_and_their_records_are_whole(first):
    workdir, _, lines = first
    records = read_records(workdir / "records.jsonl")
    by_benchmark = collections.defaultdict(list)
    for entry in records:
        by_benchmark[entry.benchmark].append(entry)
        assert (entry.model, entry.arch, entry.train_p) == ("one", "resnet_small", 2.0)
    assert tuple(by_benchmark) == NAMES
    for name, of_benchmark in by_benchmark.items():
        *numbers, end = of_benchmark
        assert end.metric == COMPLETE and end.value == len(numbers)
        assert len({r.identity for r in numbers}) == len(numbers)
        assert all(
            r.low <= r.value <= r.high and r.num_examples > 0
            for r in numbers
            if not math.isnan(r.value)
        )
        assert any("accuracy" in r.metric and not math.isnan(r.value) for r in numbers), name
    assert not any(line.startswith("error") for line in lines)
    assert sum("new numbers in" in line for line in lines) == 7


def test_the_passes_told_are_the_passes_made(first, data):
    """Of each benchmark; ImageNet-9's challenge is told at its most and made in full too."""
    _, passes, _, _ = find(NAMES, data)
    _, progress, _ = first
    assert {t.removeprefix("one on "): n for t, n in progress.of_parts.items()} == passes
    assert progress.done == pytest.approx(progress.total)


def test_every_image_is_in_the_numbers(first):
    """ObjectNet without air_freshener, two images of 20 wnids, five of six with a core mask."""
    workdir, _, _ = first
    most = collections.Counter()
    for entry in read_records(workdir / "records.jsonl"):
        if entry.metric == "accuracy":
            most[entry.benchmark] = max(most[entry.benchmark], entry.num_examples)
    expected = {
        "imagenet": 10, "imagenet_c": 4, "objectnet": 8, "rival10": 40,
        "salient_imagenet": 5, "imagenet9": 9, "waterbirds": 8,
    }  # fmt: skip
    assert most == expected


def test_a_second_call_measures_nothing(first, converted, data):
    workdir, _, _ = first
    before = (workdir / "records.jsonl").read_bytes()
    complete, progress, lines = evaluate(converted[:1], data, workdir)
    assert complete and (workdir / "records.jsonl").read_bytes() == before
    assert len(lines) == 7 and all("no new numbers" in line for line in lines)
    assert not progress.of_parts and progress.done == pytest.approx(progress.total)


JITTED = (
    predict.correct_clean,
    predict.features,
    predict._attack,
    predict.gradient_share,
    predict.gaussian_noise,
    predict.region_noise,
    predict.correct_under_noise,
    regions.mask_regions,
    rival10._regions,
    salient_imagenet._regions,
    probe._fit,
    classifier._forward,
    BENCHMARKS["imagenet9"]._correct_pasted,
)


def test_a_second_model_compiles_nothing_anew(first, converted, data):
    workdir, _, _ = first
    before = [function._cache_size() for function in JITTED]
    assert min(before[:7]) >= 1
    complete, progress, lines = evaluate(converted, data, workdir)
    assert complete
    assert [function._cache_size() for function in JITTED] == before
    assert sum("one on" in line and "no new numbers" in line for line in lines) == 7
    models = {r.model for r in read_records(workdir / "records.jsonl")}
    assert models == {"one", "other"}
    assert progress.done == pytest.approx(progress.total)


def test_the_feature_folder_serves_a_second_evaluation(first, converted, data, tmp_path):
    """Other records, the same features: nothing of Waterbirds is decoded or computed again."""
    workdir, _, _ = first
    (tmp_path / "features").symlink_to(workdir / "features")
    kept = sorted((workdir / "features").iterdir())
    complete, progress, _ = evaluate(converted[:1], data, tmp_path, ["waterbirds"])
    assert complete and sorted((workdir / "features").iterdir()) == kept
    assert progress._skipped == pytest.approx(progress.total)
    again, before = (
        {
            (r.metric, str(r.options)): r[1:5]
            for r in read_records(folder / "records.jsonl")
            if (r.model, r.benchmark) == ("one", "waterbirds")
        }
        for folder in (tmp_path, workdir)
    )
    assert again and again == before


@pytest.fixture
def small(tmp_path):
    """A folder with ImageNet and Waterbirds alone."""
    layouts.write_imagenet(tmp_path / "data" / "imagenet")
    layouts.write_waterbirds(tmp_path / "data" / "waterbirds")
    return tmp_path / "data"


def test_a_missing_data_set_is_one_line_or_an_error(small):
    directories, passes, damaged, lines = find(NAMES, small)
    assert set(directories) == set(passes) == {"imagenet", "waterbirds"} and not damaged
    assert directories["waterbirds"] == small / "waterbirds"
    there = [f"{name}: {passes[name]} forward passes a model" for name in directories]
    assert [line.split(" over ")[0] for line in lines if "passed over" not in line] == there
    missing = [line for line in lines if "passed over" in line]
    assert [line.split()[0] for line in missing] == [n for n in NAMES if n not in directories]
    assert all("is passed over: no" in line and "\n" not in line for line in missing)
    with pytest.raises(InputError, match="imagenet_c: no ImageNet-C in") as error:
        find(NAMES, small, required=True)
    assert "\n" not in str(error.value)


def test_without_a_folder_all_are_missing():
    directories, _, damaged, lines = find(NAMES, "")
    assert not directories and not damaged and len(lines) == 7
    assert all("$ADVSPUR_DATA" in line for line in lines)


def test_a_damaged_list_of_images_is_one_line_and_the_others_go_on(small, converted, tmp_path):
    table = small / "waterbirds" / "metadata.csv"
    table.write_text(table.read_text().replace(",0,0,", ",7,0,", 1))
    directories, _, damaged, lines = find(NAMES, small)
    assert set(directories) == {"imagenet"} and damaged
    (line,) = (line for line in lines if line.startswith("error: waterbirds"))
    assert "metadata.csv line" in line and "\n" not in line
    complete, _, _ = evaluate(converted[:1], small, tmp_path)
    assert complete
    assert {r.benchmark for r in read_records(tmp_path / "records.jsonl")} == {"imagenet"}


def test_a_damaged_image_fails_its_benchmark_and_the_others_go_on(small, converted, tmp_path):
    image = sorted((small / "imagenet" / "val").glob("*/*.JPEG"))[6]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    complete, progress, lines = evaluate(converted[:1], small, tmp_path)
    assert not complete
    (line,) = (line for line in lines if line.startswith("error:"))
    assert line.startswith("error: one on imagenet: ") and image.name in line
    assert {r.benchmark for r in read_records(tmp_path / "records.jsonl")} == {"waterbirds"}
    assert progress.done == pytest.approx(progress.total)
    # Mended, what failed is measured, and only that.
    image.write_bytes(whole)
    complete, _, lines = evaluate(converted[:1], small, tmp_path)
    assert complete
    assert any("waterbirds: no new numbers" in line for line in lines)
    found = {r.benchmark for r in read_records(tmp_path / "records.jsonl")}
    assert found == {"imagenet", "waterbirds"}


def test_an_image_that_vanished_fails_its_benchmark_and_the_others_go_on(
    small, converted, tmp_path
):
    """After the data were listed: one line, as for a damaged one, wherever it is noticed."""
    directories, passes, _, _ = find(("waterbirds", "imagenet"), small)
    next((small / "waterbirds").glob("*/*.jpg")).unlink()
    lines = []
    complete = evaluate_matrix(
        converted[:1], directories, passes, OPTIONS, path=tmp_path / "records.jsonl", seed=0,
        cache_dir=tmp_path / "features", progress_of=Recorder, line=lines.append,
    )  # fmt: skip
    assert not complete
    found = {r.benchmark for r in read_records(tmp_path / "records.jsonl")}
    assert found == {"imagenet"}


def test_what_was_killed_before_its_end_mark_is_measured_again(small, converted, tmp_path):
    evaluate(converted[:1], small, tmp_path)
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if f'"metric": "{COMPLETE}"' in line]
    assert len(ends) == 2 and ends[1] == len(lines) - 1  # of ImageNet, then of Waterbirds
    path.write_text("".join(lines[:-1])[:-40])
    expected = {(r.metric, str(r.options)): r[1:5] for r in read_records(path)}
    complete, _, told = evaluate(converted[:1], small, tmp_path)
    assert complete
    assert [("no new numbers" in line) for line in told if line.startswith("one on imagenet")] == [
        True
    ]
    records = read_records(path)
    assert len(records) == len(lines)
    found = {(r.metric, str(r.options)): r[1:5] for r in records}
    assert expected.items() <= found.items()


def test_other_options_and_another_seed_are_measured_anew(small, converted, tmp_path):
    evaluate(converted[:1], small, tmp_path, ["imagenet"])
    directories, passes, _, _ = find(["imagenet"], small)
    for change in ({"seed": 1}, {"options": {"imagenet": READING | {"batch_size": 4}}}):
        call = {"seed": 0, "options": OPTIONS} | change
        made = []
        complete = evaluate_matrix(
            converted[:1], directories, passes, call["options"], seed=call["seed"],
            path=tmp_path / "records.jsonl", cache_dir=None,
            progress_of=lambda total, made=made: made.append(Recorder(total)) or made[0],
            line=print,
        )  # fmt: skip
        assert complete and made[0].of_parts["one on imagenet"] == 10


def test_a_model_that_fits_nothing_is_told_of(small, converted, tmp_path):
    shapes = converted[0]._replace(
        facts=converted[0].facts
        | {"model": "own", "shapes": {"num_classes": 8}, "dataset": "spurious_shapes"}
    )
    directories, passes, _, _ = find(["imagenet"], small)
    lines, call = [], {"path": tmp_path / "records.jsonl", "seed": 0, "cache_dir": None}
    with pytest.raises(InputError, match="no model fits"):
        evaluate_matrix(
            [shapes], directories, passes, OPTIONS, progress_of=Recorder, line=lines.append, **call
        )
    assert lines == ["own is not measured on imagenet: it was trained on spurious_shapes"]
    assert not (tmp_path / "records.jsonl").exists()
    few = converted[0]._replace(facts=converted[0].facts | {"num_classes": 12, "model": "few"})
    with pytest.raises(InputError, match="no model fits"):
        evaluate_matrix(
            [few], directories, passes, OPTIONS, progress_of=Recorder, line=lines.append, **call
        )
    assert "it has 12 classes, not 1000" in lines[-1]
