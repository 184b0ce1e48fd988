"""Two things measured alternately in one process, and the ratio of their times."""

import json
import statistics
import time


def print_ratio(claim, first, second, pairs, **facts):
    """Print a line of JSON: median, least and largest of time(first) / time(second).

    Both are called once before, so that nothing is compiled or read for the first time.

    Returns: the median seconds of each.
    """
    first()
    second()
    times = [(seconds_of(first), seconds_of(second)) for _ in range(pairs)]
    ratios = [a / b for a, b in times]
    result = {
        "claim": claim,
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "seconds": [round(statistics.median(t), 4) for t in zip(*times, strict=True)],
        "pairs": pairs,
    }
    print(json.dumps(result | facts))
    return result["seconds"]


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
