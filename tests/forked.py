"""Scripts called as a user calls them, in forks of one process that has imported everything."""

import multiprocessing
import os
import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHALLOW = {"resnet_small": ((1,), False, 16, 1)}  # one block of three: most of the time is tracing
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["advspur.benchmarks", "advspur.report", "advspur.theory.run", "advspur.training", "grain"]
)


def flags(config, workdir, changes):
    """The arguments of a config of this name, in `workdir`, with some of its keys changed."""
    changed = [f"--config.{key}={value}" for key, value in changes.items()]
    return [f"--config=configs/{config}.py", f"--workdir={workdir}", *changed]


def xla_flags(devices):
    """The tests' XLA_FLAGS with another number of CPU devices."""
    return re.sub(r"(?<=device_count=)\d+", str(devices), os.environ["XLA_FLAGS"])


def start(folder, script, *arguments, devices=None, networks=SHALLOW, environment=None):
    """A running Process of a script; its output goes to `folder`/out and `folder`/err.

    Args:
      script: path from scripts/, without ".py".
      devices: number of CPU devices.
      networks, environment: entries to replace in ARCHITECTURES and os.environ.
    """
    flags = {} if devices is None else {"XLA_FLAGS": xla_flags(devices)}
    given = Path(folder), script, list(map(str, arguments)), networks, flags | (environment or {})
    process = SERVER.Process(target=_call, args=given)
    process.start()
    return process


def run(folder, script, *arguments, **options):
    """(exit code, stdout, stderr) of a script."""
    process = start(folder, script, *arguments, **options)
    process.join()
    return (process.exitcode, *((Path(folder) / name).read_text() for name in ("out", "err")))


def _call(folder, script, arguments, networks, environment):
    from advspur.models import resnet

    folder.mkdir(parents=True, exist_ok=True)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    resnet.ARCHITECTURES.update(networks)
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "scripts"))
    sys.argv = [f"scripts/{script}.py", *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
