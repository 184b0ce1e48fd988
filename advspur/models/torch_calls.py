"""A torch module called from JAX programs: one forward or one vector-Jacobian product a batch.

The forward of a gradient keeps torch's graph under a number, a token, that goes through the JAX
program to the backward, which looks the graph up. A graph that was dropped by then is made again
from the images.

A callback may not make JAX arrays: on CPU, the thread that would fill them may be the one that
waits for the callback. `buffer_callback` hands over memory, as `pure_callback` does not.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from advspur._checks import first_line, require
from advspur._devices import OUT_OF_MEMORY, SPLIT, device_mesh
from advspur.models.checks import foreign_code, pick


@dataclasses.dataclass
class Graph:
    """One forward of torch that can be differentiated."""

    images: object
    outputs: list
    is_used: bool = False


class Network:
    """A torch module in evaluation mode, its normalisation, and the graphs that are kept.

    Attributes:
      layer: the module that gives the features; None: none does.
      is_input: whether they are its input; else its output.
    """

    def __init__(self, module, mean, std, logits, layer=None, is_input=True):
        import torch

        self.module, self.logits, self.layer, self.is_input = module, logits, layer, is_input
        tensors = [*module.parameters(), *module.buffers()]
        floats = [t for t in tensors if t.is_floating_point()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.dtype = floats[0].dtype if floats else torch.float32
        self.mean, self.std = (
            torch.tensor(values, dtype=self.dtype, device=self.device).view(1, -1, 1, 1)
            for values in (mean, std)
        )
        self.lock, self.kept, self.last, self.room = threading.Lock(), {}, 0, 1
        self.widths = functools.cache(self._widths)

    def images(self, array):
        """A tensor of its own, [n, c, h, w] on the module's device, from pixels [n, h, w, c]."""
        import torch

        images = torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)
        return images.contiguous().to(self.device, self.dtype)

    def __call__(self, images):
        """[logits] or [logits, features] of a tensor of images in [0, 1], as torch gives them."""
        seen = []

        def note(module, inputs, output=None):
            seen.append(inputs[0] if self.is_input else output)

        if self.layer is not None:
            hook = "register_forward_pre_hook" if self.is_input else "register_forward_hook"
            handle = getattr(self.layer, hook)(note)
        try:
            output = self.module((images - self.mean) / self.std)
        finally:
            if self.layer is not None:
                handle.remove()
        logits = pick(type(self.module).__name__, output, self.logits, "logits")
        if self.layer is None:
            return [logits]
        require(seen, "features= names a submodule that is not called")
        return [logits, _pooled(seen[-1])]

    def _widths(self, height, width, channels):
        """The lengths of a row of logits and features for images of a size, from a real call."""
        import torch

        name = type(self.module).__name__
        with self.lock, torch.no_grad(), foreign_code(f"{name} on {height} x {width} images"):
            outputs = self(self.images(np.zeros((1, height, width, channels), np.float32)))
        return tuple(output.shape[1] for output in outputs)

    def forward(self, images):
        """Callback: the outputs of a batch, without a graph."""
        import torch

        with self.lock, torch.no_grad(), _memory():
            if len(self.kept) >= self.room:
                self._drop(only_used=True)
            return [_array(output) for output in self(self.images(images))]

    def forward_with_graph(self, images):
        """Callback: the outputs of a batch, and the token of its graph for each image."""
        with self.lock, _memory():
            self.last = token = (self.last + 1) % 2**31
            graph = self._record(token, images)
            return [*map(_array, graph.outputs), np.full(len(images), token, np.int32)]

    def pull_back(self, images, tokens, *cotangents):
        """Callback: the gradient of <cotangents, outputs> with respect to the images."""
        import torch

        with self.lock, _memory():
            token = int(tokens[0])
            graph = self.kept.get(token) or self._record(token, images)
            graph.is_used = True
            pairs = [
                (output, torch.from_numpy(np.array(ct)).to(self.device, output.dtype))
                for output, ct in zip(graph.outputs, cotangents, strict=True)
                if output.requires_grad
            ]
            grad = None
            if pairs:
                outputs, weights = zip(*pairs, strict=True)
                (grad,) = torch.autograd.grad(
                    outputs, graph.images, weights, retain_graph=True, allow_unused=True
                )
            if grad is None:
                return [np.zeros(images.shape, np.float32)]
            return [_array(grad.permute(0, 2, 3, 1))]

    def _record(self, token, images):
        import torch

        while len(self.kept) >= self.room:
            self._drop()
        tensor = self.images(images).requires_grad_()
        with torch.enable_grad():
            self.kept[token] = Graph(tensor, self(tensor))
        return self.kept[token]

    def _drop(self, only_used=False):
        """Forget the graphs whose gradient was taken; where there are none, the oldest."""
        used = [token for token, graph in self.kept.items() if graph.is_used]
        for token in used or ([] if only_used else list(self.kept)[:1]):
            del self.kept[token]

    @property
    def place(self):
        """Where the features are, as a text."""
        names = {id(layer): name for name, layer in self.module.named_modules()}
        return f"{'input' if self.is_input else 'output'} of {names.get(id(self.layer))}"

    @functools.cached_property
    def digest(self):
        """SHA-256 of its weights, and of the files that its layers are written in."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
        files = {_file(kind) for kind in {*map(type, self.module.modules())}} - {None}
        for content in sorted(Path(file).read_bytes() for file in files):
            digest.update(content)
        digest.update(repr(self.module).encode())
        return digest.hexdigest()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def call(network, images):
    """(logits,) or (logits, features) of float32 images [n, h, w, c], differentiable once."""
    return _on_host(network, network.forward, _outputs(network, images), images)


def _forward(network, images):
    results = [*_outputs(network, images), jax.ShapeDtypeStruct((len(images),), jnp.int32)]
    *outputs, tokens = _on_host(network, network.forward_with_graph, results, images)
    return tuple(outputs), (images, tokens)


def _backward(network, residuals, cotangents):
    images, tokens = residuals
    results = [jax.ShapeDtypeStruct(images.shape, images.dtype)]
    return tuple(_on_host(network, network.pull_back, results, images, tokens, *cotangents))


call.defvjp(_forward, _backward)


def _outputs(network, images):
    widths = network.widths(*images.shape[1:])
    return [jax.ShapeDtypeStruct((len(images), width), jnp.float32) for width in widths]


def _on_host(network, function, results, *arrays):
    """function(*NumPy arrays) as a part of a JAX program; all have the batch as first axis.

    Of a batch that is split over several CPU devices, each calls with its own part.
    """
    count, devices = len(arrays[0]), jax.local_device_count()
    is_inside = bool(jax.sharding.get_abstract_mesh().manual_axes)
    network.room = max(network.room, devices)
    if jax.default_backend() != "cpu":  # one call for all devices
        return jax.pure_callback(
            lambda *given: tuple(function(*map(np.asarray, given))),
            tuple(results),
            *arrays,
            vmap_method="sequential",
        )
    share = devices if devices > 1 and count % devices == 0 and not is_inside else 1
    parts = tuple(
        jax.ShapeDtypeStruct((r.shape[0] // share, *r.shape[1:]), r.dtype) for r in results
    )

    def write(_, out, *given):
        for buffer, value in zip(out, function(*map(np.asarray, given)), strict=True):
            np.copyto(np.asarray(buffer), value)

    apply = buffer_callback(write, parts, vmap_method="sequential")
    if share > 1:
        split = {"in_specs": SPLIT, "out_specs": SPLIT, "check_vma": False}
        apply = jax.shard_map(apply, mesh=device_mesh(), **split)
    return apply(*arrays)


def _pooled(features):
    """Features [n, d]; of [n, c, h, w] the average over space."""
    require(
        hasattr(features, "ndim"),
        f"features= names a submodule that returns a {type(features).__name__}; name one whose "
        "output is a single tensor",
    )
    return features.mean((2, 3)) if features.ndim == 4 else features


def _array(tensor):
    return tensor.detach().float().cpu().numpy()


def _file(kind):
    try:
        return inspect.getsourcefile(kind)
    except (TypeError, OSError):
        return None


@contextlib.contextmanager
def _memory():
    """torch's lack of memory, as JAX says it: then the lines about it name the batch size."""
    try:
        yield
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise MemoryError(f"{OUT_OF_MEMORY}: torch: {first_line(error)}") from error
