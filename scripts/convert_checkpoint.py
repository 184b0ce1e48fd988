"""Convert a PyTorch ResNet checkpoint: python scripts/convert_checkpoint.py FILE [--out DIR]

Reads a file of torch.save without torch and without executing anything in it, checks it name by
name, and writes DIR for advspur.models.load. The default DIR is FILE without its extension, in
--models_dir, $ADVSPUR_MODELS or beside FILE. Norm and budget of the training are read from names
such as the release's <arch>_<norm>_eps<budget>.ckpt; for other names give --train_p and
--train_epsilon. If the file has no normaliser, give --mean and --std; default: ImageNet's.
"""

import math
import os
from pathlib import Path

import _cli
from absl import flags

flags.DEFINE_string("out", None, "Directory to write.")
flags.DEFINE_string("models_dir", None, "Where to write it; default $ADVSPUR_MODELS.")
flags.DEFINE_float("train_p", None, "Norm of the attack it was trained with: 1, 2 or inf.")
flags.DEFINE_float("train_epsilon", None, "Its budget, in [0, 1] pixel units; 0 if standard.")
flags.DEFINE_list("mean", None, "Mean R,G,B of its training pixels in [0, 1]; default ImageNet's.")
flags.DEFINE_list("std", None, "Their standard deviation R,G,B.")


def main(flags, *arguments):
    import jax

    from advspur._checks import check_nonnegative, check_norm, norm_name, require
    from advspur.models.convert import convert
    from advspur.models.store import model_facts, save_converted

    require(len(arguments) == 1, "name one checkpoint file to convert")
    source = Path(arguments[0])
    if flags.train_p is not None:
        check_norm(flags.train_p, (1.0, 2.0, math.inf))
    if flags.train_epsilon is not None:
        check_nonnegative("train_epsilon", flags.train_epsilon)
    both = (flags.train_p is None) == (flags.train_epsilon is None)
    require(both, "--train_p and --train_epsilon go together")
    root = flags.models_dir or os.environ.get("ADVSPUR_MODELS") or source.parent
    conversion = convert(source, mean=flags.mean, std=flags.std)
    directory = save_converted(
        conversion,
        source,
        flags.out or Path(root) / source.stem,
        train_p=flags.train_p,
        train_epsilon=flags.train_epsilon,
    )
    written = model_facts(directory)
    classifier, forward = conversion.classifier, conversion.classifier.forward
    count = sum(leaf.size for leaf in jax.tree.leaves(classifier.params["params"]))
    trained_with = "unknown"
    if written["train_epsilon"] is not None:
        norm, epsilon = norm_name(float(written["train_p"])), written["train_epsilon"]
        trained_with = f"{norm}, epsilon = {epsilon:.5g} in [0, 1] pixel units"
    lines = {
        "container": conversion.container,
        "SHA-256": written["source"]["sha256"],
        "architecture": f"{conversion.arch}, {classifier.num_classes} classes",
        "parameters": f"{count:,}",
        "normalisation": f"{forward.mean}, {forward.std} ({conversion.normalization})",
        "entries": f"{len(conversion.used)} used, {len(conversion.dropped)} dropped by rule",
        "other entries": f"{', '.join(conversion.others) or 'nothing'} (not used)",
        "inert": f"{', '.join(conversion.inert) or 'no names'} (neither imported nor called)",
        "trained with": trained_with,
        "written": directory,
    }
    print(source)
    for name, value in lines.items():
        print(f"  {name:15}{value}")


if __name__ == "__main__":
    _cli.run(main, arguments=True)
