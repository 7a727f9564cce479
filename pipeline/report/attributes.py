"""The card's attributes: how frequent they are, what they look like, which go together."""

from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contract.layout import SPLITS
from contract.page.elements import NARROW, count, percent, scroll, section, table, unit, words
from contract.page.maps import coefficient, triangle
from pipeline.report.facts import Counts, Faces, Labels
from pipeline.report.faces import SMALL_SIDE
from pipeline.report.pictures import read_note

PAIRS: Final = 8
"""Pairs listed of each sign."""

MAPPED: Final = 60
"""Attributes in the map of pairs, those with most of the rarer answer first."""


def attributes_section(counts: Counts, faces: Faces | None) -> str:
    """Frequencies, average faces, pairs; a sentence where there are no labels."""
    labels = counts.labels
    if not labels.names or not labels.known.any():
        return section("attributes", "Attributes", "<p>No sample has a label.</p>")
    some = (
        f" {count(counts.unlabelled, 'sample')} of {counts.samples:,} "
        f"{'has' if counts.unlabelled == 1 else 'have'} no label at all."
        if counts.unlabelled
        else " Every sample has labels."
    )
    intro = f"<p>{count(len(labels.names), 'attribute')}, counted over all {counts.samples:,} samples.{some}</p>"
    return section(
        "attributes",
        "Attributes",
        intro + _frequencies(counts) + _averages(counts, faces) + _pairs(labels) + _by_split(counts),
    )


def _shares(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Samples with a yes, samples with an answer, and the attributes by share of yes, greatest first."""
    yes, known = labels.yes.sum(axis=0), labels.known.sum(axis=0)
    order = np.argsort(-yes / np.maximum(known, 1), kind="stable")
    return yes, known, [int(i) for i in order]


def _frequencies(counts: Counts) -> str:
    yes, known, order = _shares(counts.labels)
    items = []
    for i in order:
        share = yes[i] / known[i] if known[i] else None
        answered = known[i] / counts.samples
        bars = "" if share is None else f'<i class="bar pretrained" style="width:{100 * share * answered:.2f}%"></i>'
        unknown = f'<i class="unknown" style="width:{100 * (1 - answered):.2f}%"></i>' if answered < 1 else ""
        items.append(
            f'<li><span class="name">{words(counts.labels.names[i])}</span><span class="track">{bars}{unknown}'
            f'</span><span class="gain">{percent(share)}</span></li>'
        )
    missing = int((counts.samples - known).sum())
    grey = (
        f" Hatched: unknown, {unit(missing / (counts.samples * len(known)))} of all answers."
        if missing
        else " No answer is unknown."
    )
    note = f"Percent of the known answers that are yes.{grey}"
    return f'<h3>How frequent they are</h3><p class="note">{note}</p><ul class="bars">{"".join(items)}</ul>'


def _averages(counts: Counts, faces: Faces | None) -> str:
    if faces is None or not faces.averages:
        return ""
    names = counts.labels.names
    figures = "".join(
        f'<figure><img src="{average.address}" width="{SMALL_SIDE}" height="{SMALL_SIDE}" loading="lazy" '
        f'alt="Average face: {words(names[average.attribute])}"><figcaption>{words(names[average.attribute])} '
        f'<span class="soft">{average.samples:,}</span></figcaption></figure>'
        for average in faces.averages
    )
    return (
        '<h3>What they look like on average</h3><p class="note">The mean of the faces whose answer is yes; beside '
        f"the name, how many. {read_note(counts, faces)}</p>"
        f'<div class="heats">{figures}</div>'
    )


def phi(labels: Labels) -> NDArray[np.float64]:
    """Phi coefficients of all pairs of attributes, over the samples that have both answers.

    Returns:
        float64 (A, A), -1..1; NaN where one of the two answers never changes.
    """
    total = labels.both_known.astype(np.float64)
    first = labels.yes_of_known.astype(np.float64)
    second = first.T
    spread = first * (total - first) * second * (total - second)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (total * labels.both_yes - first * second) / np.sqrt(spread)
    return np.where(spread > 0, values, np.nan)


def _pairs(labels: Labels) -> str:
    yes, known, _ = _shares(labels)
    rarer = np.minimum(yes, known - yes)
    chosen = np.sort(np.argsort(-rarer, kind="stable")[:MAPPED])
    chosen = chosen[rarer[chosen] > 0]
    if len(chosen) < 2:
        return ""
    values = phi(labels)[np.ix_(chosen, chosen)]
    order = _alike(values)
    names = [labels.names[int(i)].replace("_", " ") for i in chosen[order]]
    values = values[np.ix_(order, order)]
    together = labels.both_yes[np.ix_(chosen[order], chosen[order])]
    rows, columns = np.tril_indices(len(names), -1)
    flat = values[rows, columns]
    lists = []
    for sign, title in ((1, "Most often together"), (-1, "Least often together")):
        ranked = [i for i in np.argsort(-sign * flat, kind="stable")[:PAIRS] if sign * flat[i] >= 0.005]
        found = [
            (
                f"{names[rows[i]]}, {names[columns[i]]}",
                coefficient(float(flat[i])),
                f"{together[rows[i], columns[i]]:,}",
            )
            for i in ranked
        ]
        if found:
            lists.append(scroll(table((title, "Phi", "Samples"), found)))
    part = f" The {len(names)} attributes whose rarer answer is most frequent." if len(chosen) == MAPPED else ""
    return (
        '<h3>Which go together</h3><p class="note">The phi coefficient of each pair, over the samples that have '
        'both answers: <i class="dot pretrained"></i>more often together than by chance, '
        f'<i class="dot scratch"></i>less often. A name\u2019s cells lie at the left of it and below it.{part}</p>'
        f"{scroll(triangle(names, values, 'Phi coefficients of pairs of attributes'))}"
        f'<div class="two pairs">{"".join(lists)}</div>'
    )


def _alike(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order that puts attributes side by side that go together: by the first eigenvector."""
    _, vectors = np.linalg.eigh(np.nan_to_num(values))
    first = vectors[:, -1]
    # The sign of an eigenvector is arbitrary.
    first = first * np.sign(first[np.argmax(np.abs(first))])
    return np.argsort(-np.round(first, 9), kind="stable")


def _by_split(counts: Counts) -> str:
    labels = counts.labels
    yes, known, order = _shares(labels)
    splits = [i for i in range(len(SPLITS)) if labels.known[i].any()]
    heads = ("Attribute", "Yes", "No", "Unknown", *(f"{SPLITS[i]}, %" for i in splits))
    rows = [
        (
            labels.names[i].replace("_", " "),
            f"{yes[i]:,}",
            f"{known[i] - yes[i]:,}",
            f"{counts.samples - known[i]:,}",
            *(percent(labels.yes[s, i] / labels.known[s, i] if labels.known[s, i] else None) for s in splits),
        )
        for i in order
    ]
    return (
        f"<details><summary>All counts, and the share of yes in each split</summary>"
        f'{scroll(table(heads, rows).replace("<table", chr(60) + "table class=" + chr(34) + "wide" + chr(34), 1))}'
        "</details>"
    )
