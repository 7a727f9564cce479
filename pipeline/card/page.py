"""The data card: what the manifests and some samples of a set say, laid out by ``templates/card.html.j2``."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.classes import CLASS_TITLES
from common.files import write_text
from common.layout import Layout
from common.page.figures import figure
from common.page.formats import words
from common.page.images import image_uri
from common.page.render import render
from common.storage import Address
from pipeline.card.counts import count_all
from pipeline.card.samples import summarize_samples

PAIRS: Final = 8  # Pairs of attributes that are listed at each end


def write_card(layout: Layout, file: Address) -> None:
    """Write the page; equal shards give equal bytes.

    Raises:
        UserError: there are no finished shards, or a sample is not what the manifest says.
    """
    write_text(file, card(count_all(layout), summarize_samples(layout)))


def card(counts: SimpleNamespace, samples: SimpleNamespace) -> str:
    """The whole page."""
    values = counts.samples * len(counts.attributes)
    return render(
        Path(__file__).parent / "templates",
        "card.html.j2",
        title=f"Data card: {counts.dataset}",
        counts=counts,
        samples=samples,
        refused=sum(counts.listed.values()) + sum(counts.later.values()),
        faces={
            title: [
                (image_uri(image, "jpeg", 128), f"{key} {confidence:.3f}")
                for key, confidence, image in samples.faces[kind]
            ]
            for kind, title in (
                ("worst", "Lowest confidence of the parser"),
                ("random", "A random selection"),
                ("best", "Highest confidence of the parser"),
            )
        },
        presence=_presence(samples.counts),
        areas=_areas(samples.counts),
        average_face=image_uri(samples.face, "jpeg"),
        average_mask=image_uri(samples.mask, "png"),
        # (name, share of ones among the known labels or None, share of unknown labels) of each attribute.
        attributes=[
            (name, yes / known if known else None, 1 - known / counts.samples)
            for name, yes, known in zip(counts.attributes, counts.yes, counts.known, strict=True)
        ],
        unknown=1 - counts.known.sum() / values if values else 0.0,
        pairs=_strongest_pairs(counts),
    )


def _presence(counts: NDArray[np.uint16]) -> dict[str, Any]:
    """In which share of the samples each class lies in each cell, and anywhere.

    ``maps``: of the classes that occur, title, share of the samples, and a heat map of G x G pixels whose
    opacity is the share of a cell. ``absent``: titles of the others.
    """
    present = counts > 0
    cells, shares = present.mean(axis=0), present.any(axis=(1, 2)).mean(axis=0)
    maps, absent = [], []
    for number, title in enumerate(CLASS_TITLES.values()):
        if shares[number]:
            # RGB of a full cell; empty ones are transparent, so it works on light and dark.
            heat = np.full((*cells.shape[:2], 4), (0, 114, 178, 0), np.uint8)
            heat[..., 3] = np.rint(255 * cells[..., number])
            maps.append((title, float(shares[number]), image_uri(heat, "png")))
        else:
            absent.append(title)
    return {"maps": maps, "absent": absent}


def _areas(counts: NDArray[np.uint16]) -> Markup:
    """A box per class that occurs: quartiles over the samples that have it, whiskers at 5 and 95 percent."""
    pixels = counts.sum(axis=(1, 2), dtype=np.int64)
    shares = 100 * pixels / pixels.sum(axis=1, keepdims=True)
    by_title = {
        title: share[share > 0]
        for title, share in zip(CLASS_TITLES.values(), shares.T, strict=True)
        if share.any()
    }

    def draw(axes: Axes) -> None:
        axes.boxplot(
            list(by_title.values()),
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            widths=0.6,
            tick_labels=list(by_title),
        )
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.grid(visible=False, axis="y")

    return figure(draw, "Share of the pixels that each class covers", (4.2, 3.4))


def _strongest_pairs(counts: SimpleNamespace) -> list[tuple[str, str]]:
    """Pairs of attributes and their correlations: the highest positive ones, then the lowest negative."""
    names = [words(name) for name in counts.attributes]
    pairs = sorted(
        (float(counts.phi[i, j]), f"{names[i]} and {names[j]}")
        for i, j in zip(*np.nonzero(np.tril(~np.isnan(counts.phi), -1)), strict=True)
    )
    strongest = [pair for pair in reversed(pairs[-PAIRS:]) if pair[0] > 0]
    strongest += [pair for pair in reversed(pairs[:PAIRS]) if pair[0] < 0]
    return [(title, f"{value:+.2f}".replace("-", "\u2212")) for value, title in strongest]
