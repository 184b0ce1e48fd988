"""Several processes that share the work of a script, and the message when one of them is lost."""

import contextlib
import os
import sys
import tempfile

from absl import flags

PATIENCE = 30  # seconds without a sign of life after which a process counts as lost
OF_OTHERS = ("Gloo", "NCCL", "oordination", "UNAVAILABLE", "DEADLINE_EXCEEDED")
LOST = (
    "this process has ended (what was saved is kept; restart all of them to resume): "
    "lost contact with another process"
)


def define_flags():
    """The flags that join several processes."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "Of several processes: HOST:PORT of process 0; or auto: as SLURM, Open MPI, Cloud TPU say, "
        "together with the number of processes and which this is.",
    )
    flags.DEFINE_integer("num_processes", 1, "How many processes share the work.")
    flags.DEFINE_integer("process_id", 0, "Which of them this is, from 0.")


@contextlib.contextmanager
def joined():
    """Join the other processes that the flags, or the cluster, speak of; alone without flags.

    Raises: InputError where they do not come together.
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
    # The training loop sees to signals. JAX's own service logs lines when the others end first.
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
        os._exit(2)  # JAX would wait for the others at its end


@contextlib.contextmanager
def _last_words():
    """See to a clear line where JAX ends this process, which it does by aborting it.

    A child that does nothing but wait for the end of its parent says it. What JAX itself prints
    then, many lines of stack traces, goes into a file, as all that is not printed by Python.
    """
    read, write = os.pipe()
    log = tempfile.NamedTemporaryFile(prefix="advspur-", suffix=".log", delete=False)
    if os.fork() == 0:
        os.setsid()  # what is sent to the group of the parent is not meant for it
        os.close(write)
        if not os.read(read, 1):
            line = f"error: {LOST}, or it was killed itself (details: {log.name})\n"
            os.write(2, line.encode())
        os._exit(0)
    os.close(read)
    of_python, before = os.dup(2), sys.stderr
    sys.stderr = os.fdopen(of_python, "w", buffering=1)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(of_python, 2)
        sys.stderr = before
        os.write(write, b".")
        os.unlink(log.name)
