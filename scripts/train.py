"""Train one model: python scripts/train.py --config configs/l2_eps3.py [--config.KEY=VALUE]...

Checkpoints, metrics.jsonl and TensorBoard events go to --workdir (runs/<config name>). Run the same
command again to resume.
"""

import _cli


def main(flags):
    from advspur.training import train

    _cli.use_compile_cache(_cli.workdir())
    train(flags.config, _cli.workdir())


if __name__ == "__main__":
    _cli.run(main, config="training", workdir=True, processes=True)
