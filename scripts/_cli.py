"""The frame of every script: flags, one-line errors with exit code 2, the compilation cache.

Numbers on the command line may be fractions: --config.attack.epsilon=8/255.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import re
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # configs/ import each other as `configs`

import _processes  # noqa: E402
from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

NUMBER = r"\d+(?:\.\d*)?"
FRACTION = rf"{NUMBER}(?:/{NUMBER})?"
CACHE_SIZE = 1 << 30  # bytes of compiled programs
FRACTIONS = re.compile(rf"^--(?:config\.[\w.]+|train_epsilon)={FRACTION}(?:,{FRACTION})*,?$")

# For each kind of config: the file in configs/ with all its keys, and prefixes of optional keys.
KINDS = {
    "training": ("default", ()),
    "suite": ("quickstart", ("evaluation.",)),
    "evaluation": ("evaluate", ("directories.", "options.", "columns.", "own.")),
    "theory": ("theory_{figure}", ()),
}


def run(main, *, config=None, workdir=False, arguments=False, processes=False):
    """Run main(flags, *arguments); user's mistakes and full disks end in one line and exit code 2.

    A stopped run ends in one line and exit code 130.

    Args:
      config: defines --config, a config of one of KINDS.
      workdir: defines --workdir.
      arguments: whether `main` takes arguments that are not flags.
      processes: defines --coordinator, --num_processes and --process_id.
    """
    if config:
        config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
        flags.mark_flag_as_required("config")
    if workdir:
        flags.DEFINE_string("workdir", None, "Directory of the run; default: runs/<config name>.")
    if processes:
        _processes.define_flags()
    parse = functools.partial(_parse, kind=config)
    app.run(lambda argv: _guarded(main, argv[1:], arguments), flags_parser=parse)


def workdir():
    """Return --workdir; default: runs/<config name>."""
    if flags.FLAGS.workdir:
        return Path(flags.FLAGS.workdir)
    name = config_flags.get_config_filename(flags.FLAGS["config"])
    return Path("runs") / Path(name).stem


def use_compile_cache(workdir):
    """Keep compiled programs in the cache that the environment names, the user's, or `workdir`."""
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = _user_cache() or workdir.absolute() / "xla_cache"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _user_cache():
    """Make room in ~/.cache/advspur/xla and return it; None if it is not writable."""
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(caches, "advspur", "xla")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # not permitted, read-only, full; RuntimeError: no home
        return None
    with contextlib.suppress(OSError):  # a different run may make room at the same time
        files = [f for f in folder.iterdir() if f.is_file()]
        files = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in files)
        total = sum(size for _, size, _ in files)
        for _, size, file in files:  # the oldest first
            if total <= CACHE_SIZE:
                break
            file.unlink(missing_ok=True)
            total -= size
    return folder


def num_cores():
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def words(names):
    """Return the words of a tuple in the config; --config.KEY=a,b makes it one string."""
    return tuple(word for name in names for word in name.split(",") if word)


def split_heads(options):
    """Split the option `heads` of a row's head, if it has one, into words."""
    if "heads" in options.get("head", ()):
        options["head"]["heads"] = words(options["head"]["heads"])


def fail(message):
    """Print one line and exit with 2."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def _parse(argv, kind):
    argv = [_divide(a) if FRACTIONS.match(a) else a for a in argv]
    lines = "\n".join([*argv, ""])  # --config=FILE or --config FILE
    files = re.findall(r"^--?config[=\n](.*)", lines, re.MULTILINE) if kind else []
    configs = {file: load_config(file) for file in files}
    for file, config in configs.items():
        _check_kind(config, file, kind)
    try:
        arguments = flags.FLAGS(argv)
    except flags.Error as error:
        fail(error)
    except (AttributeError, KeyError) as error:  # an unknown key
        key = error.args[0] if error.args else error  # str() of a KeyError adds quotes
        known = ", ".join(_flat_keys(next(iter(configs.values()), {})))
        fail(f"unknown key {key}; the keys, explained in the config file, are: {known}")
    except (TypeError, ValueError) as error:
        fail(error)
    if configs:  # flags may have changed the figure of a theory config
        _check_kind(flags.FLAGS.config, files[-1], kind)
    return arguments


def load_config(file):
    """Return the config of a file; a mistake in the file ends in one line."""
    if not Path(file).is_file():
        fail(f"no config file {file}; the configs are in {ROOT / 'configs'}")
    spec = importlib.util.spec_from_file_location("config", file)
    if spec is None:
        fail(f"{file} is not a Python file: a config is a .py file with a function get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        fail(f"config file {file}{_line_of(error, file)}: {type(error).__name__}: {error}")
    if not hasattr(module, "get_config"):
        fail(f"config file {file} has no function get_config()")
    if not isinstance(config, ConfigDict):
        fail(f"config file {file}: get_config() returns {config!r}; it must return a ConfigDict")
    return config


def _check_kind(config, file, kind):
    """End in one line unless a config has all keys of its kind."""
    name, optional = KINDS[kind]
    if kind == "theory":
        from advspur.theory.run import FIGURES

        figure = config.get("figure", "nfs")
        if figure not in tuple(FIGURES):
            allowed = ", ".join(map(repr, FIGURES))
            fail(f"config file {file}: figure = {figure!r}; allowed: {allowed}")
        name = name.format(figure=figure)
    complete = _flat_keys(importlib.import_module(f"configs.{name}").get_config())
    keys = _flat_keys(config)
    lacking = [key for key in complete if key not in keys and not key.startswith(optional)]
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        fail(
            f"{file} is not a {kind} config: it lacks the keys {', '.join(lacking[:5])}{more}; "
            f"start from configs/{name}.py"
        )


def _line_of(error, file):
    """Return " line N" for the line of `file` that an error comes from, or ""."""
    if isinstance(error, SyntaxError):
        lines = [error.lineno] if error.filename == str(file) else []
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f" line {lines[-1]}" if lines else ""


def _flat_keys(config):
    """Return the keys of a config, dotted for nested ones."""
    flat = []
    for key, value in config.items():
        flat += [f"{key}.{k}" for k in value] if hasattr(value, "items") else [key]
    return flat


def _divide(argument):
    """Turn --config.KEY=8/255 into --config.KEY=0.03137..., also within a list of numbers."""
    flag, values = argument.split("=")
    if "/" not in values:
        return argument
    parts = [[float(x) for x in part.split("/")] for part in values.split(",") if part]
    if any(part[1:] == [0] for part in parts):
        fail(f"{argument} divides by zero")
    return f"{flag}={','.join(repr(part[0] / (part[1:] or [1])[0]) for part in parts)}"


def _guarded(main, arguments, takes_arguments):
    warnings.showwarning = _show_warning
    logging.set_verbosity(logging.FATAL)  # our own lines report what JAX and orbax log
    sys.unraisablehook = _show_unraisable
    from advspur._checks import InputError, require

    try:
        unexpected = "" if takes_arguments else " ".join(arguments)
        require(not unexpected, f"unexpected argument {unexpected!r}: flags begin with --")
        with _processes.joined():
            values = flags.FLAGS.flag_values_dict()
            if "workdir" in values and not values.get("process_id"):  # loading takes seconds
                name = config_flags.get_config_filename(flags.FLAGS["config"])
                print(f"{name}: loading; results: {workdir()}", file=sys.stderr, flush=True)
            main(flags.FLAGS, *arguments)
    except InputError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except Exception as error:
        from advspur.training import TrainingDiverged, TrainingStopped

        if isinstance(error, TrainingStopped):
            print(error, file=sys.stderr)
            sys.exit(130)
        if isinstance(error, TrainingDiverged):
            fail(error)
        if "No space left on device" in str(error):
            fail("No space left on the disk; what was complete before is kept")
        raise
    except KeyboardInterrupt:
        print("stopped; run the same command to resume", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # XLA may still be computing: a normal exit of Python would crash


def _show_warning(message, category, *_args, **_kwargs):
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)


def _show_unraisable(unraisable):
    # When a checkpoint fails, orbax drops tasks whose event loop is closed.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes on slow compilations
