"""Sweep the linear theory, draw it: python scripts/theory.py --config configs/theory_nfs.py

Writes theory_<figure>.npz, figures/ and report.html to --workdir (runs/<config name>).
"""

import _cli


def main(flags):
    import jax

    jax.config.update("jax_num_cpu_devices", _cli.num_cores())
    from advspur._checks import check_choice
    from advspur._progress import Progress
    from advspur.report import write_report
    from advspur.theory.run import check_config, num_problems, run_sweeps

    config, workdir = flags.config, _cli.workdir()
    check_choice("dtype", config.dtype, ("float32", "float64"))
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    _cli.use_compile_cache(workdir)
    check_config(config)
    with Progress(num_problems(config), workdir.name, unit="problems") as progress:
        print(run_sweeps(config, workdir, progress))
    print(write_report(workdir))


if __name__ == "__main__":
    _cli.run(main, config="theory", workdir=True)
