"""The verdicts on the recipes and heads of a suite, and on the theory's prescription."""

import math

from advspur.intervals import Estimate, difference
from advspur.report.claims import Finding
from advspur.report.remedies import over_seeds, points
from advspur.report.suite import NORMS, RANDOM_MASKS, STANDARD, UNKNOWN, number

SMALL = 0.02  # a smaller difference between the gaps of two ratios of budgets is ignored


def remedy_findings(remedies):
    """Yield a Finding for each recipe and head, one for all of them, and others about masks, the
    theory and the last layer."""
    verdicts = {"holds": [], "fails": [], "open": []}
    cue = {"background_gap": "background"}.get(remedies.numbers["gap"].metric, "spurious cue")
    for index, base in remedies.treated():
        kind, other = remedies.kinds[index], remedies.kinds[base]
        gap, seeds = remedies.change("gap", index, base), remedies.seeds(index, base)
        before, after = (remedies.level("gap", i, seeds) for i in (base, index))
        verdict = "holds" if gap.high < 0 else "fails" if gap.low > 0 else "open"
        detail = f"Gap {100 * before.value:.1f} → {100 * after.value:.1f}: {points(gap)}, "
        detail += f"{len(seeds)} seed{'s' * (len(seeds) > 1)}."
        if kind.recipe and len(seeds) == 1:
            verdict, detail = "open", f"{detail} Variation between training seeds is not included."
        if verdict == "holds" and after.high < 0:
            verdict, detail = "open", f"{detail} It overshoots: the gap is below 0."
        verdicts[verdict].append((index, base))
        statement = f"{kind.label}: relies less on the {cue}."
        yield Finding(other.label, statement, verdict, detail)
    if any(verdicts.values()):
        yield Finding("overall", *_overall(remedies, verdicts))
    for index in range(len(remedies.kinds)):
        yield from _control(remedies, index)
    for base, kind in enumerate(remedies.kinds):
        if kind.p not in (STANDARD, UNKNOWN) and not (kind.recipe or kind.head):
            yield from _prescribed(remedies, base)
            yield from _last_layer(remedies, base)


def _overall(remedies, verdicts):
    """(statement, verdict, detail) about all recipes and heads together."""

    def named(pairs):
        return "; ".join(remedies.kinds[index].label for index, _ in pairs) or "none"

    free, costly, unknown = {}, [], []
    for pair in verdicts["holds"]:
        attacked, costs = _costs(remedies, *pair)
        if not attacked:
            unknown.append(pair)
        elif any(cost.high < 0 for cost in costs):
            costly.append(pair)
        else:
            free[pair] = max(0, *(-100 * cost.low for cost in costs))
    statement = (
        "At least one lowers the gap without a clear loss of accuracy, clean or under attack in "
        "its training norm."
    )
    listed = (f"{named([pair])} (at most {most:.1f} points)" for pair, most in free.items())
    detail = f"Without a clear loss: {'; '.join(listed) or 'none'}. At a cost: {named(costly)}. "
    if unknown:
        detail += f"Accuracy under attack not measured: {named(unknown)}. "
    detail += f"Not clear, or worse: {named(verdicts['open'] + verdicts['fails'])}. "
    detail += f"{sum(map(len, verdicts.values()))} comparisons, each with its own 95% interval."
    open_ = unknown or verdicts["open"]
    return statement, "holds" if free else "open" if open_ else "fails", detail


def _costs(remedies, index, base):
    """(was an attack measured?, [changes in the measured accuracies of a kind]).

    Attacks count in the norm that the kind was trained in.
    """
    p = remedies.kinds[index].p
    attacks = (remedies.attacks | remedies.regions).items()
    attacks = [role for role, norm in attacks if p not in NORMS or p == norm]
    roles = [role for role in ("clean", "worst") if role in remedies.numbers]
    found = {role: remedies.change(role, index, base) for role in (*roles, *attacks)}
    known = {role: change for role, change in found.items() if math.isfinite(change.value)}
    return bool(known.keys() & {*attacks}), list(known.values())


def _control(remedies, index):
    """A Finding about random masks: with them a recipe should lower the gap less."""
    kind = remedies.kinds[index]
    if not kind.recipe.endswith(RANDOM_MASKS) or kind.head:
        return
    right = kind.recipe.removesuffix(RANDOM_MASKS)
    for other, found in enumerate(remedies.kinds):
        same = (found.arch, found.p, found.recipe, found.head) == (kind.arch, kind.p, right, "")
        if same and found.has_budget(kind.uniform) and remedies.seeds(index, other):
            gap = remedies.change("gap", other, index)
            verdict = "holds" if gap.high < 0 else "fails" if gap.low > 0 else "open"
            statement = f"{found.label}: with random masks (the control) the gap is larger."
            detail = f"Gap with the right masks minus gap with random masks: {points(gap)}."
            yield Finding("masks", statement, verdict, detail)


def _prescribed(remedies, base):
    """A Finding about the theory's budgets, among kinds with one mean square of the budget.

    Ratio: the budget on the rest divided by the budget on the core; the theory's is w*.
    """
    kind, path = remedies.kinds[base], {1.0: base}
    for index, of in remedies.treated():
        core, rest = remedies.kinds[index].weights
        if of == base and remedies.kinds[index].is_weighted:
            path[rest / core if core else math.inf] = index
    theory = {
        ratio: _says(remedies, remedies.kinds[index]) for ratio, index in sorted(path.items())
    }
    least = (theory[1.0] or {}).get("protective_weight")
    if len(path) < 3 or least is None or not all(theory.values()) or max(path) < least:
        return
    first = min(ratio for ratio in path if ratio >= least)
    others = {r: remedies.change("gap", path[r], path[first]) for r in theory if r != first}
    verdict = "holds" if all(c.low > -SMALL for c in others.values()) else "open"
    if any(change.high < -SMALL for change in others.values()):
        verdict = "fails"
    statement = (
        f"{kind.label}: no ratio of the budget on the rest to the budget on the core has a gap "
        f"more than {100 * SMALL:g} points below the gap at the theory's ratio, w* = {least:.2g} "
        f"(here {first:.2g})."
    )
    listed = [
        f"{r:.2g}: {'–' if of['nfs'] is None else format(of['nfs'], '.3f')}, "
        f"{100 * remedies.level('gap', path[r]).value:.1f}"
        for r, of in theory.items()
    ]
    best = min(others, key=lambda r: others[r].value)
    detail = f"Ratio: predicted NFS, measured gap: {'; '.join(listed)}. "
    detail += f"Gap at {best:.2g} minus gap at {first:.2g}: {points(others[best])}."
    yield Finding("theory", statement, verdict, detail)


def _last_layer(remedies, base):
    """A Finding: does a head remove what adversarial training added to the gap?

    What it added is the difference from the gap of standard networks; what is left is the same
    difference with the head fitted to both. The head is the one with the highest validation score
    on the adversarially trained networks.
    """
    kind = remedies.kinds[base]
    plain = [k for k in remedies.kinds if k.arch == kind.arch and not (k.p or k.recipe or k.head)]
    heads = [k.head for k in remedies.kinds if k.head and k._replace(head="") == kind]
    pairs = {head: [remedies.index(k, head) for k in (kind, *plain[:1])] for head in ("", *heads)}
    pairs = {head: pair for head, pair in pairs.items() if len(pair) == 2 and None not in pair}
    added = _differences(remedies, *pairs.pop("", (base, base)))
    scored = {head: remedies.scores[pair[0]] for head, pair in pairs.items()}
    scored = {head: score for head, score in scored.items() if math.isfinite(score)}
    if not scored or not over_seeds(added).low > 0:
        return
    left = {head: _differences(remedies, *pair) for head, pair in pairs.items()}
    best = max(scored, key=scored.get)
    half = {s: Estimate(*(x / 2 for x in e[:3]), e.num_examples) for s, e in added.items()}
    beyond, removed = over_seeds(half, left[best]), over_seeds(added, left[best])
    verdict = "holds" if beyond.low > 0 else "open"
    if beyond.high < 0:
        verdict = "holds in part" if removed.low > 0 else "fails"
    statement = (
        f"Most of what {kind.label} training adds to the gap is in the last layer: {best}, the "
        "head with the highest validation score, removes more than half of it."
    )
    listed = [f"left with {best} on both: {points(over_seeds(left.pop(best)))}"]
    listed += [f"{head}: {points(over_seeds(of))}" for head, of in left.items()]
    detail = (
        f"Added to that of standard networks: {points(over_seeds(added))}; {'; '.join(listed)}."
    )
    yield Finding("last layer", statement, verdict, detail)


def _differences(remedies, index, other):
    """{seed: Estimate} of the differences between the gaps of two kinds."""
    found, others = (remedies.values["gap", i] for i in (index, other))
    return {s: difference(found[s], others[s]) for s in remedies.seeds(index, other)}


def _says(remedies, kind):
    """The theory's prediction for the attack of a kind, or None."""
    for attack in remedies.prescribed:
        budget = number(attack["p"]), attack["epsilon"], tuple(attack["region_weights"])
        if budget == (kind.p, kind.epsilon, kind.weights):
            return attack
    return None
