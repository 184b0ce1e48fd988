"""The first screen of a report: the question, the answer, and the verdicts in one matrix.

Everything is said by rule from the measured numbers. *Clearly* means that a 95% interval excludes
equality.
"""

import functools
import math
from collections import Counter
from fnmatch import fnmatch
from typing import NamedTuple

from advspur.intervals import difference
from advspur.report import headlines as h
from advspur.report.panels import by_budget, by_model
from advspur.report.suite import NORMS, budget_label, norm_label

LEADS = (  # the number that answers for models of known training: the first that they have
    h.GROUP_GAP,
    h.BACKGROUND_GAP,
    h.SHAPES_GROUPS[2],
    h.SHAPES_GAPS[0],
    h.RFS,
    h.RCS,
    *h.SHAPES_NOISE,
    h.OBJECTNET_RATIO,
)
SPURIOUS, CORE, UNCLEAR = "spurious", "core", "unclear"
EVIDENCE = (  # metrics that tell of one model what it relies on: +1 if larger is more spurious
    ("majority_minority_gap", 1),
    ("background_gap", 1),
    ("*relative_*_sensitivity", -1),
    ("norm_fraction_spurious", 1),
)
VERDICTS = {  # as written in a sentence, for one and for several
    "holds": ("holds", "hold"),
    "holds in part": ("holds in part", "hold in part"),
    "fails": ("fails", "fail"),
    "open": ("is open", "are open"),
}


class Answer(NamedTuple):
    """What the first screen says, and how to draw its figure."""

    question: str
    word: str
    sentences: str
    draw: object = None  # () -> figure
    caption: str = ""


class Chip(NamedTuple):
    """One verdict in a cell of a matrix."""

    text: str
    look: str  # a class of the page
    detail: str
    anchor: str = ""


class Matrix(NamedTuple):
    """Chips by row and column, in the order of appearance."""

    columns: list
    rows: list  # (label, [chips of each column])


def answer_of(suite, trends, others):
    """The Answer of a page: trained models first, then other findings, then single models.

    `trends` are the Findings on the suite, `others` those of the sections below:
    [(question, Findings)].
    """
    for headline in LEADS:
        if answer := _of_training(suite, headline):
            return answer
    for question, findings in [(TRAINING, trends), *others]:
        if findings:
            return Answer(question, *_of_findings(findings))
    return _of_models(suite)


TRAINING = "Does adversarial training make models rely more on spurious features?"


def _of_training(suite, headline):
    """Whether adversarially trained models differ from the standard one; None without both."""
    changes = _changes(suite, headline)
    if not changes:
        return None
    more, less = _clear(changes, headline.sign)
    count, (larger, smaller) = len(changes), ("larger", "smaller")[:: headline.sign]
    name = f"{headline.name} on {headline.title}"
    text = f"All {count}" if more == count > 1 else f"{more} of {count}"
    text += f" adversarially trained model{' has' if count == 1 else 's have'} a clearly {larger} "
    text += f"{name} than the standard model of the same architecture"
    text += f", {less} a clearly {smaller} one" if less else ""
    parts = filter(None, (_numbers(suite, headline, arch) for arch in suite.archs()))
    text += f". The {headline.name} is {'; '.join(parts)}."
    against = [
        f"the {lead.name}" + f" on {lead.title}" * (lead.title != headline.title)
        for lead in LEADS
        if lead != headline and _points_against(suite, lead)
    ]
    if against:
        verb = "points" if len(against) == 1 else "point"
        text += f" But {' and '.join(against)} {verb} the other way."
    caption = f"The {name} by training budget. Grey: the interval of the standard model."
    draw = functools.partial(by_budget, suite, [headline])
    return Answer(TRAINING, _word(more, less, count), text, draw, caption)


def answer_figure(answer):
    """(file name, title, figure, caption) of the first screen, if it has one."""
    if answer.draw:
        yield "answer", answer.question, answer.draw(), answer.caption


def _changes(suite, headline):
    """By what each adversarially trained model differs from the standard one of its kind."""
    changes = [
        difference(estimate, suite.baseline(headline, arch))
        for arch in suite.archs()
        for p in NORMS
        for estimate in suite.curve(headline, arch, p).values()
    ]
    return [c for c in changes if math.isfinite(c.value)]


def _points_against(suite, headline):
    more, less = _clear(_changes(suite, headline), headline.sign)
    return less > more


def _numbers(suite, headline, arch):
    """The number of the standard model and of the largest budget of each norm; "" without both."""
    curves = {p: suite.curve(headline, arch, p) for p in NORMS}
    strongest = [
        f"{shown(curve[max(curve)], headline)} after {norm_label(p)} training with "
        f"ε = {budget_label(p, max(curve))}"
        for p, curve in curves.items()
        if curve
    ]
    base = suite.baseline(headline, arch)
    if not (strongest and math.isfinite(base.value)):
        return ""
    return f"{shown(base, headline)} for the standard {arch}, {' and '.join(strongest)}"


def _clear(changes, sign):
    """How many changes are clearly towards more reliance, and how many clearly towards less."""
    up, down = (sum(c.low > 0 for c in changes), sum(c.high < 0 for c in changes))
    return (up, down) if sign > 0 else (down, up)


def _word(more, less, count):
    if more and less:
        return "It depends."
    if more:
        return "Yes." if more == count else "Mostly yes." if 2 * more > count else "In part."
    return "No, less." if less else "Not clearly."


def _of_findings(findings):
    """(word, sentence) of a list of statements."""
    counts = Counter(verdict_of(f) for f in findings)
    word = "Mostly yes." if 2 * counts["holds"] > len(findings) else "In part."
    word = "Yes." if counts["holds"] == len(findings) else word
    word = word if counts["holds"] or counts["holds in part"] else "Not clearly."
    word = "No." if counts["fails"] == len(findings) else word
    return word, f"Of {len(findings)} statements tested here, {tally(findings)}."


def tally(findings):
    """How many hold, fail, ...: '3 hold, 1 fails'."""
    counts = Counter(verdict_of(f) for f in findings)
    return ", ".join(f"{n} {VERDICTS[v][n > 1]}" for v in VERDICTS if (n := counts[v]))


def verdict_of(finding):
    """The verdict without its note."""
    return finding.verdict.split(" (")[0]


def _of_models(suite):
    """What the evidence says of models of unknown training, or of those that compare with none."""
    measured, names = evidence(suite), judged_models(suite)
    several = len(names) > 1
    question = f"Does {names[0]} rely on spurious features?"
    if several:
        question = f"Which of these {len(names)} models rely on spurious features?"
    if not measured:
        return Answer(question, "Not measured.", "These records have no measure of reliance.")
    pointed = {name: Counter(points_to(suite, x, name) for x in measured) for name in names}
    first = measured[0]
    numbers = suite.numbers(first, lambda m: m.name in names)
    if several:
        word, text = _of_several(pointed)
        if len(numbers) > 1:
            order = sorted(numbers, key=lambda n: numbers[n].value * sign_of(first))
            most, least = (f"{n} ({shown(numbers[n], first)})" for n in (order[-1], order[0]))
            text += f" By the {first.name} on {first.title}, {most} relies most and {least} least."
    else:
        word, text = _of_one(pointed[names[0]])
        for estimate in numbers.values():
            text += f" The {first.name} on {first.title} is {shown(estimate, first)}."
    draw = functools.partial(by_model, suite, measured[:3])
    return Answer(question, word, text, draw, "The first measures of reliance, by model.")


def _of_one(pointed):
    """(word, sentence) of one model, from how many measures point where."""
    spurious, core, unclear = (pointed[v] for v in (SPURIOUS, CORE, UNCLEAR))
    count = spurious + core + unclear
    word = "Measures disagree." if spurious and core else _word(spurious, core, count)
    text = (
        f"Of {count} measure{'s' * (count > 1)}, {spurious} clearly point{'s' * (spurious == 1)} "
    )
    text += (
        f"to spurious features and {core} to the core; {unclear} {'is' * (unclear == 1) or 'are'} "
    )
    return word.replace("No, less.", "No."), f"{text}unclear."


def _of_several(pointed):
    """(word, sentence) of several models."""
    spurious = [n for n, found in pointed.items() if found[SPURIOUS] and not found[CORE]]
    core = [n for n, found in pointed.items() if found[CORE] and not found[SPURIOUS]]
    count, rest = len(pointed), len(pointed) - len(spurious) - len(core)
    word = f"{len(spurious)} of {count}."
    word = "All of them." if len(spurious) == count else word
    word = "None of them." if len(core) == count else word
    word = "Measures disagree." if rest == count else word
    text = (
        f"Clear measures all point to spurious features for {len(spurious)} of {count} models and "
    )
    return (
        word,
        f"{text}all to the core for {len(core)}; for {rest} they disagree, or none is clear.",
    )


def judged_models(suite):
    """The models that the evidence is asked about: those of unknown training, else all."""
    return suite.unknown() or [m.name for m in suite.models]


def evidence(suite):
    """The headlines that tell of a single model what it relies on."""
    own = (x for found in h.own_headlines(suite).values() for x in found)
    names = judged_models(suite)
    return [
        x
        for x in (*h.HEADLINES, *own)
        if sign_of(x) and suite.numbers(x, lambda m: m.name in names)
    ]


def sign_of(headline):
    """+1 if a larger number is more reliance on spurious features, -1 if less; 0 if it is none."""
    return next((s for pattern, s in EVIDENCE if fnmatch(headline.metric, pattern)), 0)


def points_to(suite, headline, name):
    """What one number says of a model: SPURIOUS, CORE or UNCLEAR; "" where it is not there.

    A gap and a relative sensitivity are held against 0, deep NFS against the share of the area
    that is off the core, which it would be if all pixels counted alike.
    """
    estimate = suite.estimate(headline, name)
    even = suite.estimate(headline.even, name).value if headline.even else 0.0
    if not all(map(math.isfinite, (*estimate[:3], even))):
        return ""
    low, high = sorted(sign_of(headline) * (x - even) for x in (estimate.low, estimate.high))
    return SPURIOUS if low > 0 else CORE if high < 0 else UNCLEAR


def trends_matrix(trends):
    """The Matrix of the Findings that have a place in it; their anchors are `claim-N`."""
    columns = list(dict.fromkeys(f.column for f in trends if f.row))
    rows = {f.row: {} for f in trends if f.row}
    for number, f in enumerate(trends):
        if f.row:
            verdict = verdict_of(f)
            text = f"{f.chip} {verdict.replace('holds in part', 'in part')}".strip()
            chip = Chip(text, verdict.replace(" ", "-"), f.statement, f"claim-{number}")
            rows[f.row].setdefault(f.column, []).append(chip)
    return Matrix(columns, [(r, [cells.get(c, []) for c in columns]) for r, cells in rows.items()])


def models_matrix(suite):
    """The Matrix of the evidence on single models: a row a number, a column a model."""
    names = judged_models(suite)

    def cell(headline, name):
        verdict = points_to(suite, headline, name)
        number = shown(suite.estimate(headline, name), headline)
        return [Chip(f"{verdict}: {number}", verdict, headline.label)] if verdict else []

    return Matrix(names, [(x.label, [cell(x, n) for n in names]) for x in evidence(suite)])


def shown(estimate, headline):
    """A number with its unit and interval: 6.3 points [5.1, 7.5]."""
    value, low, high = (f"{100 * x:.1f}" for x in estimate[:3])
    unit = "%" if headline.unit == "%" else f" {headline.unit}"
    return f"{value}{unit} [{low}, {high}]"
