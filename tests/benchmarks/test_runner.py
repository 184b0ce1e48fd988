"""All models on all benchmarks, from one folder of data to one file of records."""

import collections
import io
import itertools
import math

import jax
import numpy as np
import pytest

from advspur import predict
from advspur._progress import Progress
from advspur.benchmarks import BENCHMARKS, evaluate_model, open_model
from advspur.benchmarks.runner import _headlines, plan_jobs, run_jobs
from advspur.data import masks
from advspur.heads import linear
from advspur.measures import regions, robust
from advspur.measures.challenge import _correct_pasted
from advspur.models import classifier, from_resnet, resnet_small, store
from advspur.models.convert import Conversion
from advspur.records import COMPLETE, Record, read_records
from tests.data import fake_layouts
from tests.refusals import refused

OTHERS = ("cifar10", "cifar_color_shift")  # of models trained on other data
NAMES = tuple(n for n, row in BENCHMARKS.items() if row.reader.directories and n not in OTHERS)
REGIONS = {
    "linf_noise_levels": (0.2,),
    "l2_noise_levels": (),
    "trials": 1,
    "l2_epsilons": (),
    "linf_epsilons": (1 / 255,),
    "attack_steps": 2,
    "num_attacked": 4,
}
NO_ATTACKS = REGIONS | {"linf_epsilons": ()}  # one network to compile them for is enough
OPTIONS = {name: {"data": {"allow_partial": True}} for name in NAMES}
OPTIONS["rival10"] |= {"regions": NO_ATTACKS, "head": {"num_epochs": 2}}
OPTIONS["salient_imagenet"] |= {"regions": REGIONS | {"dilation_rounds": 1}}
OPTIONS["imagenet9"] |= {"regions": NO_ATTACKS, "challenge": {"num_backgrounds": 2}}
OPTIONS["waterbirds"] |= {"head": {"num_epochs": 2}}
CALL = {"measures": (), "seed": 0, "batch_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return fake_layouts.write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Two converted models of 1000 classes, as OpenModels."""
    root = tmp_path_factory.mktemp("models")
    network = resnet_small(1000, stem="imagenet")
    init = jax.jit(network.init)
    models = []
    for seed, name in enumerate(("one", "other")):
        variables = init(jax.random.key(seed), np.zeros((1, 32, 32, 3), np.float32))
        made = from_resnet(
            network, variables, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
        (root / f"{name}.ckpt").write_text(name)
        conversion = Conversion(made, "resnet_small", (), (), (), "in the file", "none", ())
        store.save_converted(
            conversion, root / f"{name}.ckpt", root / name, train_p=2.0, train_epsilon=seed
        )
        models.append(open_model(root / name))
    return models


def plan(models, names, root, *, options=OPTIONS, measures=(), required=False):
    """(jobs, whether one is damaged, lines)."""
    lines = []
    jobs, damaged = plan_jobs(
        models,
        [BENCHMARKS[name] for name in names],
        options,
        measures=measures,
        data_dir=root,
        directories={},
        required=required,
        line=lines.append,
    )
    return jobs, damaged, lines


def evaluate(models, root, workdir, names=NAMES, *, options=OPTIONS, **change):
    """(whether all could be measured, the progress, its lines)."""
    call = CALL | {"cache_dir": workdir / "outcomes", "path": workdir / "records.jsonl"} | change
    jobs, _, _ = plan(models, names, root, options=options, measures=call["measures"])
    text, made = io.StringIO(), []

    def progress_of(total):
        made.append(Progress(total, "evaluate", stream=text))
        return made[0]

    complete = run_jobs(jobs, progress_of=progress_of, **call)
    return complete, made[0], text.getvalue().splitlines()


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
        numbers = [r for r in of_benchmark if r.metric != COMPLETE]
        ends = [r for r in of_benchmark if r.metric == COMPLETE]
        assert tuple(end.measure for end in ends) == BENCHMARKS[name].measures
        for end in ends:
            assert end.value == sum(r.measure == end.measure for r in numbers)
        assert len({r.identity for r in numbers}) == len(numbers)
        assert all(
            r.low <= r.value <= r.high and r.num_examples > 0
            for r in numbers
            if not math.isnan(r.value)
        )
        assert any("accuracy" in r.metric and not math.isnan(r.value) for r in numbers), name
    assert not any(line.startswith("error") for line in lines)
    assert sum("new numbers in" in line for line in lines) == 7


def test_the_planned_passes_are_the_passes_made(first):
    """Passes that heads of one network share are counted once for each measure."""
    _, progress, _ = first
    assert progress.done == progress.total


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
    assert len(lines) == 7 and all("already measured" in line for line in lines)
    assert progress.done == progress._skipped == progress.total


JITTED = (
    predict.correct_clean,
    predict.features,
    predict.logits,
    robust._attack,
    regions.gradient_share,
    regions.gaussian_noise,
    regions.region_noise,
    regions.correct_under_noise,
    masks.mask_regions,
    linear._fit,
    classifier._forward,
    _correct_pasted,
)


def test_a_second_model_compiles_nothing(first, converted, data):
    workdir, _, _ = first
    before = [function._cache_size() for function in JITTED]
    assert min(before[:9]) >= 1
    complete, progress, lines = evaluate(converted, data, workdir)
    assert complete
    assert [function._cache_size() for function in JITTED] == before
    assert sum("one on" in line and "already measured" in line for line in lines) == 7
    models = {r.model for r in read_records(workdir / "records.jsonl")}
    assert models == {"one", "other"}
    examples = {(path.parent.name, path.stem) for path in workdir.glob("examples/*/*.npz")}
    shown = ("rival10", "salient_imagenet", "imagenet9")
    assert examples == set(itertools.product(shown, models))
    assert progress.done == progress.total


def test_kept_outcomes_serve_a_second_evaluation(first, converted, data, tmp_path):
    """New records from the same outcomes: no image of Waterbirds is decoded or passed again."""
    workdir, _, _ = first
    (tmp_path / "outcomes").symlink_to(workdir / "outcomes")
    kept = sorted((workdir / "outcomes").iterdir())
    complete, progress, _ = evaluate(converted[:1], data, tmp_path, ["waterbirds"])
    assert complete and sorted((workdir / "outcomes").iterdir()) == kept
    assert progress._skipped == progress.total
    again, before = (
        {
            (r.metric, str(r.options)): r[1:5]
            for r in read_records(folder / "records.jsonl")
            if (r.model, r.benchmark) == ("one", "waterbirds") and r.metric != COMPLETE
        }
        for folder in (tmp_path, workdir)
    )
    assert again and again == before


@pytest.fixture
def small(tmp_path):
    """A folder with ImageNet and Waterbirds alone."""
    fake_layouts.write_imagenet(tmp_path / "data" / "imagenet")
    fake_layouts.write_waterbirds(tmp_path / "data" / "waterbirds")
    return tmp_path / "data"


def test_a_missing_data_set_is_one_line_or_an_error(small, converted):
    jobs, damaged, lines = plan(converted[:1], NAMES, small)
    found = {job.row.name: job for job in jobs}
    assert set(found) == {"imagenet", "waterbirds"} and not damaged
    assert found["waterbirds"].directory == small / "waterbirds"
    there = [f"{name}: {job.passes} forward passes per model" for name, job in found.items()]
    assert [line.split(" in ")[0] for line in lines if "skipped" not in line] == there
    missing = [line for line in lines if "skipped" in line]
    assert [line.split()[0] for line in missing] == [n for n in NAMES if n not in found]
    assert all("is skipped: no" in line and "\n" not in line for line in missing)
    message = "imagenet_c: no ImageNet-C in"
    refused(message, plan, converted[:1], NAMES, small, required=True)


def test_without_a_folder_all_are_missing(converted):
    jobs, damaged, lines = plan(converted[:1], NAMES, "")
    assert not jobs and not damaged and len(lines) == 7
    assert all("$ADVSPUR_DATA" in line for line in lines)


def test_a_damaged_list_of_images_is_one_line_and_the_others_are_measured(
    small, converted, tmp_path
):
    table = small / "waterbirds" / "metadata.csv"
    table.write_text(table.read_text().replace(",0,0,", ",7,0,", 1))
    jobs, damaged, lines = plan(converted[:1], NAMES, small)
    assert [job.row.name for job in jobs] == ["imagenet"] and damaged
    (line,) = (line for line in lines if line.startswith("error: waterbirds"))
    assert "metadata.csv line" in line and "\n" not in line
    complete, _, _ = evaluate(converted[:1], small, tmp_path)
    assert complete
    assert {r.benchmark for r in read_records(tmp_path / "records.jsonl")} == {"imagenet"}


def test_a_damaged_image_fails_its_benchmark_only(small, converted, tmp_path):
    image = sorted((small / "imagenet" / "val").glob("*/*.JPEG"))[6]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    complete, progress, lines = evaluate(converted[:1], small, tmp_path)
    assert not complete
    (line,) = (line for line in lines if line.startswith("error:"))
    assert line.startswith("error: one on imagenet: ") and image.name in line
    assert {r.benchmark for r in read_records(tmp_path / "records.jsonl")} == {"waterbirds"}
    assert progress.done == pytest.approx(progress.total)
    # Once it is repaired, only what failed is measured.
    image.write_bytes(whole)
    complete, _, lines = evaluate(converted[:1], small, tmp_path)
    assert complete
    assert any("waterbirds: already measured" in line for line in lines)
    recorded = {r.benchmark for r in read_records(tmp_path / "records.jsonl")}
    assert recorded == {"imagenet", "waterbirds"}


def test_an_image_deleted_after_listing_fails_its_benchmark_only(small, converted, tmp_path):
    plan(converted[:1], ("waterbirds", "imagenet"), small)  # lists the files
    next((small / "waterbirds").glob("*/*.jpg")).unlink()
    complete, _, _ = evaluate(converted[:1], small, tmp_path, ("waterbirds", "imagenet"))
    assert not complete
    assert {r.benchmark for r in read_records(tmp_path / "records.jsonl")} == {"imagenet"}


def numbers(path):
    return {(r.benchmark, r.metric, str(r.options)): r[1:5] for r in read_records(path)}


def test_a_measure_without_its_end_mark_is_measured_again(small, converted, tmp_path):
    """Only that measure: each measure of a benchmark has an end mark."""
    evaluate(converted[:1], small, tmp_path)
    path = tmp_path / "records.jsonl"
    written, expected = path.read_text().splitlines(keepends=True), numbers(path)
    ends = [i for i, line in enumerate(written) if f'"metric": "{COMPLETE}"' in line]
    assert len(ends) == 3 and ends[2] == len(written) - 1  # ImageNet; accuracy, groups: Waterbirds
    path.write_text("".join(written[:-1])[:-40])
    complete, _, lines = evaluate(converted[:1], small, tmp_path)
    assert complete
    assert ["already measured" in line for line in lines if line.startswith("one on")] == [1, 0]
    assert f"one on waterbirds: {ends[2] - ends[1] - 1} new numbers" in "".join(lines)
    assert numbers(path) == expected


def test_a_different_input_is_measured_again(small, converted, tmp_path):
    """The seed, an option, the weights, the bytes of an image; but not the batch size."""
    evaluate(converted[:1], small, tmp_path, ["imagenet"])

    def is_new(model=converted[0], **change):
        _, _, lines = evaluate([model], small, tmp_path, ["imagenet"], **change)
        return "new numbers" in lines[-1]

    assert not is_new() and not is_new(batch_size=4)
    assert is_new(seed=1) and is_new(seed=0)
    options = {"imagenet": {"data": {"allow_partial": True}, "accuracy": {"balanced": True}}}
    assert is_new(options=options) and is_new()
    assert is_new(converted[0]._replace(facts=converted[0].facts | {"checksum": "other"}))
    image = sorted((small / "imagenet" / "val").glob("*/*.JPEG"))[3]
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    BENCHMARKS["imagenet"].reader.read.cache_clear()
    assert is_new() and not is_new()


def test_measures_are_added_without_losing_others(small, converted, tmp_path):
    path, found = tmp_path / "records.jsonl", {}
    for measure in ("accuracy", "groups"):
        evaluate(converted[:1], small, tmp_path, ["waterbirds"], measures=(measure,))
        before, found = found, numbers(path)
        assert before.items() < found.items()
    assert {r.measure for r in read_records(path)} == {"accuracy", "groups"}
    _, _, lines = evaluate(converted[:1], small, tmp_path, ["waterbirds"])
    assert "already measured" in lines[-1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"shapes": {"a": 1}, "dataset": "spurious_shapes"}, "it was trained on spurious_shapes"),
        ({"num_classes": 12}, "it has 12 classes, not 1000"),
        ({"image_size": 299}, "it takes 299 x 299 images, not 224 x 224"),
    ],
)
def test_the_plan_says_why_a_model_does_not_fit(small, converted, tmp_path, change, why):
    facts = {k: v for k, v in converted[0].facts.items() if k != "stem"}  # as of a foreign model
    other = converted[0]._replace(facts=facts | {"model": "other"} | change)
    jobs, _, lines = plan([other], ["imagenet"], small)
    assert not jobs and lines == [f"imagenet is left out for other: {why}"]
    jobs, _, lines = plan([other, converted[0]], ["imagenet"], small)
    assert [job.model.name for job in jobs] == ["one"] and lines[0].endswith(why)
    message, call = f"other cannot be measured on imagenet: {why}", {"batch_size": 8}
    path, row = tmp_path / "r.jsonl", BENCHMARKS["imagenet"]
    refused(message, evaluate_model, other, row, path=path, **call)
    assert not (tmp_path / "r.jsonl").exists()


def test_lines_of_results_name_the_options_that_distinguish_them():
    options = {"head": "adam", "num_epochs": 20, "levels": [0.1], "images": "test[:7]"}
    (line,) = _headlines([Record("accuracy", 0.5, 0.25, 0.75, 8, options)])
    assert line == "accuracy (head adam, num_epochs 20): 50.00% [25.00%, 75.00%] (n = 8)"
