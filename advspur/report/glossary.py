"""The abbreviations of the report, each explained at its first use."""

import re

import markupsafe

WORDS = {
    "RFS": "relative foreground sensitivity, from -1 to 1: negative if noise on the background "
    "costs more accuracy than noise on the object",
    "RCS": "relative core sensitivity: as RFS, for the core region of Salient ImageNet-1M",
    "deep NFS": "the share of the squared input gradient that is off the object",
    "NFS": "norm fraction spurious: the share of the weights' squared norm on spurious features",
    "background gap": "accuracy with the background of another image of the class, minus "
    "accuracy with the background of an image of a random class",
    "majority-minority gap": "accuracy where the background agrees with the class, minus accuracy "
    "where it does not",
    "mCE": "mean corruption error: 100 means as many errors as AlexNet makes",
    "MIXED-SAME": "ImageNet-9 with the background of another image of the same class",
    "MIXED-RAND": "ImageNet-9 with the background of an image of a random class",
    "PGD": "projected gradient descent, an attack",
    "AT": "adversarial training",
    "ε": "the budget: the largest size of a perturbation in the norm that is named",
    "ρ": "the ratio of majority to minority images in training",
}
_ANY = re.compile("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in WORDS))


def marker():
    """A function that returns a text as HTML with each abbreviation explained at its first use."""
    seen = set()

    def explain(match):
        word = match.group()
        if word in seen:
            return word
        seen.add(word)
        return markupsafe.Markup('<abbr title="{}">{}</abbr>').format(WORDS[word], word)

    def marked(text):
        return markupsafe.Markup(_ANY.sub(explain, str(markupsafe.escape(text))))

    marked.seen = seen
    return marked
