"""The script that is run first on an accelerator, on this CPU at toy size."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).resolve().parents[1]


def measured(folder, part):
    """What a part of accelerator.py says."""
    code, out, err = forked.run(folder, "timings/accelerator", part, "--toy")
    assert code == 0, out + err
    found = json.loads(out)
    assert found["part"] == part and found["toy"] and found["s"] > 0
    return found


def test_each_part_is_written_as_soon_as_it_is_known_and_a_failed_one_is_told(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "FLAGS": "--toy"}
    script = ROOT / "scripts" / "timings" / "accelerator.sh"
    done = subprocess.run(
        [script, "environment", "nothing"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    lines = (tmp_path / "accelerator.jsonl").read_text().splitlines()
    assert done.stdout.splitlines() == lines
    first, second = map(json.loads, lines)
    assert first["platform"] == "cpu" and first["cpus"] == os.cpu_count()
    assert second == {"part": "nothing", "failed": True}
    assert "invalid choice: 'nothing'" in (tmp_path / "accelerator.log").read_text()

    environment["LIMIT"] = "0"
    done = subprocess.run([script, "theory"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"part": "theory", "failed": True}


def test_the_device_is_held_against_float64(tmp_path):
    found = measured(tmp_path, "correctness")
    for precision in ("highest", "default"):
        errors = found[precision]
        assert 1e-9 < errors["logits"] < 1e-5 and 1e-9 < errors["gradient"] < 1e-3


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_a_step_is_timed(tmp_path, dtype):
    found = measured(tmp_path, f"step_{dtype}")
    median, least, largest = found["step_s"]
    assert found["dtype"] == dtype and 0 < least <= median <= largest
    assert found["images_per_s"] == pytest.approx(found["batch"] / median, rel=1e-2)
    assert found["share_of_peak"] is None  # that of a CPU is not known


def test_autoattack_theory_a_suite_and_memory_are_measured(tmp_path):
    found = measured(tmp_path, "autoattack")
    assert found["robust"] == 4 and found["seconds_of_attacks"].keys() == {"apgd-ce", "square"}
    found = measured(tmp_path, "theory")
    assert found["p=2"]["certified"] == 1 and found["p=2"]["cells_per_s"] > 0
    found = measured(tmp_path, "suite")
    assert found["models"] == 2 and found["together"]["s"] > 0 and found["one_by_one"]["s"] > 0
    found = measured(tmp_path, "memory")
    assert found["batch_32_mb"] > found["batch_8_mb"] > 0
