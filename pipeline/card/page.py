"""The data card: what the manifests and some samples of a set say, laid out by ``templates/card.html.j2``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.classes import CLASS_TITLES
from common.files import write_text
from common.layout import Layout
from common.page.figures import correlations, figure
from common.page.formats import words
from common.page.images import face_and_mask, face_image, png_image
from common.page.render import render
from common.storage import Address
from pipeline.card.counts import Counts, Labels, count_all
from pipeline.card.samples import SampleSummary, summarize_samples

TEMPLATES: Final = Path(__file__).parent / "templates"

FACE_SIDE: Final = 128
"""Of a shown face, in pixels."""

PAIRS: Final = 8
"""Pairs of attributes that are listed at each end."""

MATRIX_MOST: Final = 60
"""Attributes above which their matrix is left out."""

KINDS: Final = {
    "worst": "Lowest confidence of the parser",
    "random": "A random selection",
    "best": "Highest confidence of the parser",
}
"""The kinds of shown faces, and their titles."""


@dataclass(frozen=True)
class AttributeShare:
    """An attribute: the share of ones among its known labels (None without any), and of unknown labels."""

    name: str
    positive: float | None
    unknown: float


def write_card(layout: Layout, file: Address) -> None:
    """Write the page; equal shards give equal bytes.

    Raises:
        UserError: there are no finished shards, or a sample is not what the manifest says.
    """
    write_text(file, card(count_all(layout), summarize_samples(layout)))


def card(counts: Counts, samples: SampleSummary) -> str:
    """The whole page."""
    return render(
        TEMPLATES,
        "card.html.j2",
        title=f"Data card: {counts.dataset}",
        counts=counts,
        samples=samples,
        refused=sum(counts.listed.values()) + sum(counts.later.values()),
        faces=_faces(samples),
        areas=figure(
            lambda axes: _draw_areas(axes, samples.shares),
            "Share of the pixels that each class covers",
            (4.2, 3.4),
        ),
        average_face=face_image(samples.face, 256),
        average_mask=png_image(samples.mask),
        attributes=_attribute_shares(counts.labels, counts.samples),
        unknown=_unknown_share(counts.labels, counts.samples),
        matrix=_matrix(counts.labels),
        pairs=_strongest_pairs(counts.labels),
    )


def _faces(samples: SampleSummary) -> dict[str, list[tuple[str, str]]]:
    """By title of its kind: the image of each face and mask, and its caption."""
    return {
        title: [
            (face_and_mask(each.face, each.mask, FACE_SIDE), f"{each.key} {each.confidence:.3f}")
            for each in samples.faces[kind]
        ]
        for kind, title in KINDS.items()
    }


def _draw_areas(axes: Axes, shares: NDArray[np.float64]) -> None:
    """A box per class that occurs: quartiles over the samples that have it, whiskers at 5 and 95 percent."""
    present = [number for number in range(shares.shape[1]) if (shares[:, number] > 0).any()]
    values = [100 * shares[shares[:, number] > 0, number] for number in present]
    titles = list(CLASS_TITLES.values())
    axes.boxplot(
        values,
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        widths=0.6,
        tick_labels=[titles[number] for number in present],
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.grid(visible=False, axis="y")


def _attribute_shares(labels: Labels, samples: int) -> list[AttributeShare]:
    return [
        AttributeShare(name, positive / known if known else None, 1 - known / samples)
        for name, positive, known in zip(
            labels.names, labels.yes.tolist(), labels.known.tolist(), strict=True
        )
    ]


def _unknown_share(labels: Labels, samples: int) -> float:
    values = samples * len(labels.names)
    return float((samples - labels.known).sum()) / values if values else 0.0


def _matrix(labels: Labels) -> Markup | None:
    """The correlations as a figure; None without any, and with too many attributes to read."""
    if len(labels.names) > MATRIX_MOST or not np.tril(~np.isnan(labels.phi), -1).any():
        return None
    side = 1.2 + 0.13 * len(labels.names)
    names = [words(name) for name in labels.names]
    return figure(
        lambda axes: correlations(axes, labels.phi, names), "Correlations of attributes", (side, side)
    )


def _strongest_pairs(labels: Labels) -> list[tuple[str, str]]:
    """Pairs of attributes and their correlations: the highest positive ones, then the lowest negative."""
    pairs = [
        (float(labels.phi[i, j]), f"{words(labels.names[i])} and {words(labels.names[j])}")
        for i in range(len(labels.names))
        for j in range(i)
        if not np.isnan(labels.phi[i, j])
    ]
    pairs.sort()
    strongest = [pair for pair in reversed(pairs[-PAIRS:]) if pair[0] > 0]
    strongest += [pair for pair in reversed(pairs[:PAIRS]) if pair[0] < 0]
    return [(title, f"{value:+.2f}".replace("-", "\u2212")) for value, title in strongest]
