"""A torch module called from JAX programs: one forward or one vector-Jacobian product a batch.

The forward pass of a gradient keeps torch's graph under a number, a token, which the JAX program
passes to the backward pass. A graph that was dropped or taken before is recomputed from the images.

A callback may not make JAX arrays: on CPU, the thread that would fill them may be the one that
waits for the callback. `buffer_callback`, unlike `pure_callback`, passes plain memory.
"""

import contextlib
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
from advspur.models.function import pick


class Network:
    """A torch module in evaluation mode, its normalisation, and the graphs kept for gradients.

    Features are the input or output of `layer`, named `place`, unless it is None; `widths` are the
    lengths of a row of logits and of features. At most `room` graphs are kept.
    """

    def __init__(self, module, mean, std, logits):
        import torch

        self.module, self.logits = module, logits
        self.layer, self.place, self.is_input, self.widths = None, None, True, ()
        tensors = [*module.parameters(), *module.buffers()]
        floats = [t for t in tensors if t.is_floating_point()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.dtype = floats[0].dtype if floats else torch.float32
        self.mean, self.std = (
            torch.tensor(values, dtype=self.dtype, device=self.device).view(1, -1, 1, 1)
            for values in (mean, std)
        )
        self.lock, self.kept, self.last, self.room = threading.Lock(), {}, 0, 1

    def images(self, array):
        """Copy pixels [n, h, w, c] to a tensor [n, c, h, w] on the module's device."""
        import torch

        images = torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)
        return images.contiguous().to(self.device, self.dtype)

    def __call__(self, images):
        """[logits] or [logits, features], torch tensors, of a tensor of images in [0, 1]."""
        seen = []

        def note(module, inputs, output):
            seen.append(inputs[0] if self.is_input else output)

        with contextlib.ExitStack() as hooks:
            if self.layer is not None:
                hooks.enter_context(self.layer.register_forward_hook(note))
            output = self.module((images - self.mean) / self.std)
        logits = pick(type(self.module).__name__, output, self.logits, "logits")
        if self.layer is None:
            return [logits]
        require(seen, "features= names a submodule that is not called")
        features = seen[-1]
        require(
            hasattr(features, "ndim"),
            f"features= names a submodule that returns a {type(features).__name__}; name one that "
            "returns a tensor",
        )
        return [logits, features.mean((2, 3)) if features.ndim == 4 else features]

    def forward(self, images):
        """Callback: the outputs of a batch, without a graph."""
        import torch

        with self.lock, torch.no_grad(), _memory():
            return [_array(output) for output in self(self.images(images))]

    def forward_with_graph(self, images):
        """Callback: the outputs of a batch, and for each image the token of its graph."""
        with self.lock, _memory():
            while len(self.kept) >= self.room:
                del self.kept[next(iter(self.kept))]  # the oldest
            self.last = token = (self.last + 1) % 2**31
            _, outputs = self.kept[token] = self.graph(images)
            return [*map(_array, outputs), np.full(len(images), token, np.int32)]

    def pull_back(self, images, tokens, *cotangents):
        """Callback: the gradient of <cotangents, outputs> with respect to the images."""
        import torch

        with self.lock, _memory():
            tensor, outputs = self.kept.pop(int(tokens[0]), None) or self.graph(images)
            pairs = [
                (output, torch.from_numpy(np.array(ct)).to(self.device, output.dtype))
                for output, ct in zip(outputs, cotangents, strict=True)
                if output.requires_grad
            ]
            grad = None
            if pairs:
                outputs, weights = zip(*pairs, strict=True)
                (grad,) = torch.autograd.grad(outputs, tensor, weights, allow_unused=True)
            if grad is None:
                return [np.zeros(images.shape, np.float32)]
            return [_array(grad.permute(0, 2, 3, 1))]

    def graph(self, images):
        """(the images as a tensor, the outputs, differentiable with respect to it)."""
        import torch

        tensor = self.images(images).requires_grad_()
        with torch.enable_grad():
            return tensor, self(tensor)

    @functools.cached_property
    def digest(self):
        """SHA-256 of the weights and of the source files of the layers."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
        files = set()
        for kind in {*map(type, self.module.modules())}:
            with contextlib.suppress(TypeError, OSError):
                files.add(inspect.getsourcefile(kind))
        for content in sorted(Path(file).read_bytes() for file in files - {None}):
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
    return [jax.ShapeDtypeStruct((len(images), width), jnp.float32) for width in network.widths]


def _on_host(network, function, results, *arrays):
    """Call function(*NumPy arrays) from a JAX program, once for the part of each CPU device."""
    count, devices = len(arrays[0]), jax.local_device_count()
    network.room = max(network.room, devices)
    if jax.default_backend() != "cpu":  # one call for all devices
        return jax.pure_callback(
            lambda *args: tuple(function(*map(np.asarray, args))),
            tuple(results),
            *arrays,
            vmap_method="sequential",
        )
    is_inside = bool(jax.sharding.get_abstract_mesh().manual_axes)
    share = devices if devices > 1 and count % devices == 0 and not is_inside else 1
    parts = tuple(
        jax.ShapeDtypeStruct((r.shape[0] // share, *r.shape[1:]), r.dtype) for r in results
    )

    def write(_, out, *args):
        for buffer, value in zip(out, function(*map(np.asarray, args)), strict=True):
            np.copyto(np.asarray(buffer), value)

    apply = buffer_callback(write, parts, vmap_method="sequential")
    if share > 1:
        split = {"in_specs": SPLIT, "out_specs": SPLIT, "check_vma": False}
        apply = jax.shard_map(apply, mesh=device_mesh(), **split)
    return apply(*arrays)


def _array(tensor):
    return tensor.detach().float().cpu().numpy()


@contextlib.contextmanager
def _memory():
    """Report torch's lack of memory as JAX does, so that messages name the batch size."""
    try:
        yield
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise MemoryError(f"{OUT_OF_MEMORY}: torch: {first_line(error)}") from error
