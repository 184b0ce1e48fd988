"""Several processes that share the work of a script, and the message if one of them is lost."""

import contextlib
import os
import sys
import tempfile

from absl import flags

PATIENCE = 30  # seconds without a heartbeat after which a process counts as lost
OF_OTHERS = ("Gloo", "NCCL", "oordination", "UNAVAILABLE", "DEADLINE_EXCEEDED")
LOST = (
    "this process has ended (what was saved is kept; restart all of them to resume): "
    "lost contact with another process"
)


def define_flags():
    """Define the flags that join several processes."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "For several processes: HOST:PORT of process 0; or auto: take it, num_processes and "
        "process_id from SLURM, Open MPI or Cloud TPU.",
    )
    flags.DEFINE_integer("num_processes", 1, "Number of processes that share the work.")
    flags.DEFINE_integer("process_id", 0, "Number of this process, from 0.")


@contextlib.contextmanager
def joined():
    """Join the processes that the flags or the cluster name; without flags, run alone.

    Raises: InputError if they cannot connect.
    """
    from advspur._checks import InputError, first_line, require

    coordinator = getattr(flags.FLAGS, "coordinator", None)
    if not coordinator:
        alone = getattr(flags.FLAGS, "num_processes", 1) == 1
        require(alone, "several processes need --coordinator=HOST:PORT of process 0")
        yield
        return
    import jax

    place = {}
    if coordinator != "auto":
        number, index = flags.FLAGS.num_processes, flags.FLAGS.process_id
        host, _, port = coordinator.rpartition(":")
        is_place = host and port.isascii() and port.isdecimal() and 0 < int(port) < 2**16
        require(is_place, f"coordinator = {coordinator}: give HOST:PORT of process 0, or auto")
        require(number >= 1, f"num_processes = {number}: it must be >= 1")
        require(0 <= index < number, f"process_id = {index}: it must be from 0 to {number - 1}")
        place = {"coordinator_address": coordinator}
        place |= {"num_processes": number, "process_id": index}
    # The training loop handles signals. JAX's own service logs lines if the others end first.
    jax.config.update("jax_enable_preemption_service", False)
    lost = None
    with _last_words():
        try:
            jax.distributed.initialize(
                **place,
                initialization_timeout=60,
                heartbeat_timeout_seconds=PATIENCE,
                shutdown_timeout_seconds=PATIENCE,
            )
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"cannot connect to the other processes at {coordinator}: {first_line(error)}"
            ) from error
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if not any(word in str(error) for word in OF_OTHERS):
                raise
            lost = first_line(error)
    if lost:
        print(f"error: {LOST}: {lost}", file=sys.stderr, flush=True)
        os._exit(2)  # a normal exit of JAX would wait for the others


@contextlib.contextmanager
def _last_words():
    """Print one clear line if JAX aborts this process.

    A child process, which only waits for the end of this one, prints it. Everything that Python
    does not print, such as JAX's stack traces, goes into a file.
    """
    read, write = os.pipe()
    log = tempfile.NamedTemporaryFile(prefix="advspur-", suffix=".log", delete=False)
    if os.fork() == 0:
        os.setsid()  # do not receive the signals to the parent's group
        os.close(write)
        if not os.read(read, 1):
            line = f"error: {LOST}, or it was killed itself (details: {log.name})\n"
            os.write(2, line.encode())
        os._exit(0)
    os.close(read)
    python_stderr, before = os.dup(2), sys.stderr
    sys.stderr = os.fdopen(python_stderr, "w", buffering=1)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(python_stderr, 2)
        sys.stderr = before
        os.write(write, b".")
        os.unlink(log.name)
