"""What the numbers of a suite allow to be said of its recipes, and of the theory's prescription."""

import math

from advspur.report.claims import Finding
from advspur.report.remedies import points
from advspur.report.suite import STANDARD, number


def remedy_findings(remedies):
    """A Finding on each recipe and head, the sentence that the numbers allow, and what they say of
    the theory and of the last layer."""
    verdicts = {"holds": [], "fails": [], "open": []}
    for index, base in remedies.treated():
        kind, other = remedies.kinds[index], remedies.kinds[base]
        gap = remedies.change("gap", index, base)
        verdict = "holds" if gap.high < 0 else "fails" if gap.low > 0 else "open"
        verdicts[verdict].append((index, base))
        before, after = (100 * remedies.level("gap", i).value for i in (base, index))
        seeds = len({*kind.names} & {*other.names})
        detail = f"Gap {before:.1f} → {after:.1f}: {points(gap)}, {seeds} seed{'s' * (seeds > 1)}."
        yield Finding(other.label, f"{kind.label}: relies less on the background.", verdict, detail)
    if any(verdicts.values()):
        yield Finding("in sum", *_sum(remedies, verdicts))
    for base, kind in enumerate(remedies.kinds):
        if kind.p and not (kind.recipe or kind.head):
            yield from _prescribed(remedies, base)
            yield from _last_layer(remedies, base)


def _prescribed(remedies, base):
    """A Finding on the budgets that the theory prescribes, along kinds of one mean square.

    The ratio is that of the budget on the rest to that on the core; that of the theory is w*.
    """
    kind, path = remedies.kinds[base], {1.0: base}
    for index, of in remedies.treated():
        core, rest = remedies.kinds[index].weights
        if of == base and remedies.kinds[index].is_weighted:
            path[rest / core if core else math.inf] = index
    told = {ratio: _told(remedies, remedies.kinds[index]) for ratio, index in sorted(path.items())}
    least = (told[1.0] or {}).get("protective_weight")
    if len(path) < 3 or least is None or not all(told.values()):
        return
    gaps = {ratio: remedies.level("gap", path[ratio]).value for ratio in told}
    best = min(gaps, key=gaps.get)
    enough = [ratio for ratio in gaps if ratio >= least]
    changes = [remedies.change("gap", path[best], path[ratio]) for ratio in enough]
    verdict = "open"
    if best in enough:
        more = [remedies.change("gap", path[best], path[r]) for r in enough if r != best]
        verdict = "fails" if any(c.high < 0 for c in more) else "holds"
    elif enough and all(change.high < 0 for change in changes):
        verdict = "fails"
    statement = (
        f"At {kind.label}, from the ratio w* = {least:.2g} of the theory on (budget on the rest to "
        "that on the core), the gap gets no smaller."
    )
    listed = (f"{r:g}: NFS {told[r]['nfs']:.3f}, gap {100 * gaps[r]:.1f}" for r in gaps)
    yield Finding("theory", statement, verdict, f"Ratio: predicted, measured: {'; '.join(listed)}.")


def _last_layer(remedies, base):
    """A Finding on whether a head takes away what an attack added to the gap of standard networks.

    With each head, fitted to both kinds, what is left of that is the difference between their gaps.
    """
    kind = remedies.kinds[base]
    plain = [k for k in remedies.kinds if k.arch == kind.arch and not (k.p or k.recipe or k.head)]
    heads = [k.head for k in remedies.kinds if k.head and k._replace(head="") == kind]
    pairs = {head: [remedies.index(k, head) for k in (kind, *plain[:1])] for head in ("", *heads)}
    pairs = {head: pair for head, pair in pairs.items() if len(pair) == 2 and None not in pair}
    left = {head: remedies.change("gap", *pair) for head, pair in pairs.items()}
    added = left.pop("", None)
    if not left or not added.low > 0:
        return
    best = min(left, key=lambda head: left[head].value)
    is_less = remedies.change("gap", pairs[best][0], base).high < 0
    is_left = left[best].low > 0
    verdict = "holds in part" if is_left else "holds"
    if not is_less:
        verdict = "fails" if is_left else "open"
    statement = f"The gap that {kind.label} training adds is in the last layer: a head removes it."
    listed = "; ".join(f"{head} {points(of)}" for head, of in left.items())
    detail = f"Added to that of standard networks: {points(added)}; with a head on both: {listed}."
    yield Finding("last layer", statement, verdict, detail)


def _told(remedies, kind):
    """What the theory says of a kind's attack; None where it says nothing."""
    for said in remedies.prescribed:
        budget = number(said["p"]), said["epsilon"], tuple(said["region_weights"])
        if budget == (kind.p, kind.epsilon, kind.weights):
            return said
    return None


def _sum(remedies, verdicts):
    """(statement, verdict, detail) of all recipes."""

    def named(pairs):
        return "; ".join(remedies.kinds[index].label for index, _ in pairs) or "none"

    helps = verdicts["holds"]
    free = [pair for pair in helps if not any(c.high < 0 for c in _costs(remedies, *pair))]
    statement = (
        "Something lowers the gap and no accuracy, clean or under attack in its norm, clearly."
    )
    detail = f"Without a clear loss: {named(free)}. At a cost: "
    detail += f"{named([pair for pair in helps if pair not in free])}. "
    detail += f"Not clear, or worse: {named(verdicts['open'] + verdicts['fails'])}."
    return statement, "holds" if free else "fails", detail


def _costs(remedies, index, base):
    """The changes of the accuracies of a kind, under attack in the norm it was trained for."""
    p = remedies.kinds[index].p
    attacks = (remedies.attacks | remedies.regions).items()
    roles = ["clean", "worst", *(role for role, norm in attacks if p in (norm, STANDARD))]
    return [remedies.change(r, index, base) for r in roles if r in remedies.numbers]
