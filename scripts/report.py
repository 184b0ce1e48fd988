"""Draw the figures and report.html of a directory with records: python scripts/report.py DIR"""

from pathlib import Path

import _cli


def main(_flags, *directories):
    from advspur.report import write_report

    for directory in directories or ["runs/quickstart"]:
        print(write_report(Path(directory)))


if __name__ == "__main__":
    _cli.run(main, arguments=True)
