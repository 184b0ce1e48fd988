"""What attacks find of what is possible, on linear classifiers: python scripts/calibrate.py

There the strongest perturbation inside ball and box is known exactly (attacks.linear_oracle), so an
attack that misses some is weak, and says so here. Images have many pixels at 0 and 1; the budgets
are such that part of the images can be attacked and part cannot.
"""

import math

import _cli
from absl import flags

flags.DEFINE_integer("num_images", 256, "Random images of each norm.")
flags.DEFINE_integer("size", 16, "Pixels a side.")
flags.DEFINE_integer("num_classes", 10, "Classes of the linear classifier.")
flags.DEFINE_integer("seed", 0, "Of images, weights and attacks.")


def main(flags):
    import jax

    from advspur._checks import check_seed, norm_name
    from advspur.attacks.linear_oracle import calibrate

    check_seed("seed", flags.seed)
    print(f"{'norm':5}{'epsilon':>9}  {'attack':8}{'found':>6}{'possible':>10}{'share':>8}")
    for p in (math.inf, 2, 1):
        epsilon, possible, found = calibrate(
            jax.random.key(flags.seed),
            p=p,
            num_images=flags.num_images,
            size=flags.size,
            num_classes=flags.num_classes,
        )
        for name, count in found.items():
            share = count / possible if possible else math.nan
            print(f"{norm_name(p):5}{epsilon:9.4f}  {name:8}{count:6}{possible:10}{share:8.1%}")


if __name__ == "__main__":
    _cli.run(main)
