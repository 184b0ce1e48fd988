"""Figures and one self-contained page, from the files that runs and evaluations wrote."""

from advspur.report.page import write_report

__all__ = ["write_report"]
