"""The first screen of a report: the question, and an answer by fixed rules from the numbers.

*Clearly* means that a 95% interval excludes equality.
"""

import functools
import math
from collections import Counter
from typing import NamedTuple

from advspur.intervals import difference
from advspur.report import headlines as h
from advspur.report.claims import STATED
from advspur.report.evidence import CORE, SPURIOUS, UNCLEAR, evidence, judged_models, points_to
from advspur.report.matrix import shown
from advspur.report.panels import by_budget, by_model
from advspur.report.suite import NORMS, budget_label, norm_label

LEADS = (  # the first that is recorded answers the question for models of known training
    h.GROUP_GAP,
    h.BACKGROUND_GAP,
    h.SHAPES_GROUPS[2],
    h.SHAPES_GAPS[0],
    h.RFS,
    h.RCS,
    *h.SHAPES_NOISE,
    h.OBJECTNET_RATIO,
)
VERDICTS = {  # in a sentence, singular and plural
    "holds": ("holds", "hold"),
    "holds in part": ("holds in part", "hold in part"),
    "fails": ("fails", "fail"),
    "open": ("is open", "are open"),
}


class Answer(NamedTuple):
    """The text of the first screen, and a function that draws its figure."""

    question: str
    word: str
    sentences: str
    draw: object = None  # () -> figure
    caption: str = ""


def answer_of(suite, trends, others):
    """The Answer of a page: about training if possible, else about findings, else about models.

    Args:
      trends: Findings about the suite.
      others: [(question, Findings)] of the other sections.
    """
    for headline in LEADS:
        if answer := _of_training(suite, headline):
            return answer
    compared = [f for f in trends if f.column != STATED]  # such a claim is about one model
    for question, findings in [(HERE, compared), *others]:
        if findings:
            return Answer(question, *_of_findings(findings))
    return _of_models(suite)


TRAINING = "Does adversarial training make models rely more on spurious features?"
HERE = "Do the claims that can be tested here hold?"


def _of_training(suite, headline):
    """Do adversarially trained models rely more than the standard one? None without both."""
    changes = _changes(suite, headline)
    if not changes:
        return None
    more, less = _clear(changes, headline.sign)
    levels = "; ".join(filter(None, (_levels(suite, headline, arch) for arch in suite.archs())))
    text = _counted(suite, headline, len(changes), more, less)
    text += f" The {headline.name} is {levels}."
    text += _contradicted(suite, headline, _toward(more, less))
    name = f"{headline.name} on {headline.title}"
    caption = f"The {name} by training budget. Grey: the interval of the standard model."
    draw = functools.partial(by_budget, suite, [headline])
    return Answer(TRAINING, _word(more, less, len(changes)), text, draw, caption)


def _counted(suite, headline, count, more, less):
    """How many of `count` models rely clearly more, and how many clearly less."""
    larger, smaller = ("larger", "smaller")[:: headline.sign]
    text = f"All {count}" if more == count > 1 else f"{more} of {count}"
    text += f" adversarially trained model{' has' if count == 1 else 's have'} a clearly {larger} "
    text += f"{headline.name} on {headline.title} than the standard model of the same architecture"
    text += f", {less} a clearly {smaller} one" if less else ""
    seeds = (s for a in suite.archs() for p in NORMS for s in suite.seeds(headline, a, p).values())
    return text + (" (each a mean over seeds)." if max(map(len, seeds)) > 1 else ".")


def _levels(suite, headline, arch):
    """The number for the standard model and the largest budget of each norm; "" without both."""
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


def _contradicted(suite, headline, direction):
    """A sentence that names the other LEADS that point in the opposite direction, if any."""
    against = [
        f"the {lead.name}" + f" on {lead.title}" * (lead.title != headline.title)
        for lead in LEADS
        if _direction(suite, lead) * direction < 0
    ]
    verb = "points" if len(against) == 1 else "point"
    return f" But {' and '.join(against)} {verb} the other way." if against else ""


def answer_figure(answer):
    """(file name, title, figure, caption) of the first screen, if it has one."""
    if answer.draw:
        yield "answer", answer.question, answer.draw(), answer.caption


def _changes(suite, headline):
    """The finite differences of adversarially trained models from the standard ones."""
    changes = [
        difference(estimate, suite.baseline(headline, arch))
        for arch in suite.archs()
        for p in NORMS
        for estimate in suite.curve(headline, arch, p).values()
    ]
    return [c for c in changes if math.isfinite(c.value)]


def _direction(suite, headline):
    """1 if most models rely clearly more by this number and none less, -1 the reverse, else 0."""
    changes = _changes(suite, headline)
    more, less = _clear(changes, headline.sign)
    return _toward(more, less) * (2 * max(more, less) > len(changes))


def _toward(more, less):
    """1 if some models rely clearly more and none less, -1 for the reverse, else 0."""
    return 0 if more and less else (more > 0) - (less > 0)


def _clear(changes, sign):
    """How many changes clearly mean more reliance, and how many clearly mean less."""
    up, down = sum(c.low > 0 for c in changes), sum(c.high < 0 for c in changes)
    return (up, down) if sign > 0 else (down, up)


def _word(more, less, count):
    if more and less:
        return "It depends."
    if more:
        return "Yes." if more == count else "Mostly yes." if 2 * more > count else "In part."
    return "No, less." if less == count else "No." if 2 * less > count else "Not clearly."


def _of_findings(findings):
    """(word, sentence) about a list of claims."""
    counts, n = Counter(f.kind for f in findings), len(findings)
    if counts["holds"] == n:
        word = "Yes."
    elif 2 * counts["holds"] > n and not counts["fails"]:
        word = "Mostly."
    elif counts["holds"] or counts["holds in part"]:
        word = "In part."
    else:
        word = "No." if counts["fails"] else "Not clearly."
    return word, f"Of {n} claim{'s' * (n > 1)} tested here, {tally(findings)}."


def tally(findings):
    """How many hold, fail and so on, e.g. 3 hold, 1 fails."""
    counts = Counter(f.kind for f in findings)
    return ", ".join(f"{n} {VERDICTS[v][n > 1]}" for v in VERDICTS if (n := counts[v]))


def _of_models(suite):
    """The Answer about single models: those of unknown training, or without a standard one."""
    measured, names = evidence(suite), judged_models(suite)
    if not names:
        return Answer(HERE, "Nothing to test.", "There are no models and no claims here.")
    several = len(names) > 1
    question = f"Does {names[0]} rely on spurious features?"
    if several:
        question = f"Which of these {len(names)} models rely on spurious features?"
    if not measured:
        return Answer(question, "Not measured.", "These records have no measure of reliance.")
    every = [Counter(filter(None, (points_to(suite, x, n) for x in measured))) for n in names]
    counts = [verdicts for verdicts in every if verdicts]
    first = measured[0]
    numbers = suite.numbers(first, lambda m: m.name in names)
    if several:
        word, text = _of_several(counts)
        if len(numbers) > 1:
            order = sorted(numbers, key=lambda n: numbers[n].value * first.sign)
            gap = difference(numbers[order[-1]], numbers[order[0]])
            most, least = (f"{n} ({shown(numbers[n], first)})" for n in (order[-1], order[0]))
            if gap.low > 0 or gap.high < 0:
                text += f" By the {first.name} on {first.title}, {most} relies most, {least} least."
    else:
        word, text = _of_one(*counts)
        for estimate in numbers.values():
            text += f" The {first.name} on {first.title} is {shown(estimate, first)}."
    draw = functools.partial(by_model, suite, measured[:3])
    return Answer(question, word, text, draw, "The first measures of reliance, by model.")


def _of_one(verdicts):
    """(word, sentence) about one model, from {verdict: number of measures}."""
    spurious, core, unclear = (verdicts[v] for v in (SPURIOUS, CORE, UNCLEAR))
    count = spurious + core + unclear
    word = "Measures disagree." if spurious and core else _word(spurious, core, count)
    text = f"Measures that clearly point to spurious features: {spurious} of {count}; to the core: "
    return word.replace("No, less.", "No."), f"{text}{core}; unclear: {unclear}."


def _of_several(counts):
    """(word, sentence) about several models, from the same counts for each of them."""
    count = len(counts)
    spurious = sum(1 for verdicts in counts if verdicts[SPURIOUS] and not verdicts[CORE])
    core = sum(1 for verdicts in counts if verdicts[CORE] and not verdicts[SPURIOUS])
    if spurious or core:
        words = {spurious: "All of them.", core: "None of them."}
        word = words.get(count, f"{spurious} of {count}.")
    else:
        word = "Measures disagree." if any(v[SPURIOUS] for v in counts) else "Not clearly."
    text = f"All clear measures point to spurious features for {spurious} of {count} models, to "
    rest = f"for {count - spurious - core} they disagree, or none is clear."
    return word, f"{text}the core for {core}; {rest}"
