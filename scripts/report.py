"""Draw the figures and report.html of a directory with records: python scripts/report.py DIR"""

import sys
from pathlib import Path

import _cli


def main(_flags, *directories):
    for directory in directories or ["runs/quickstart"]:
        print(f"{directory}: drawing the report", file=sys.stderr, flush=True)
        from advspur.report import write_report  # takes seconds

        print(write_report(Path(directory)))


if __name__ == "__main__":
    _cli.run(main, arguments=True)
