"""The card's pictures: averages, faces with masks, where the parts are and how large."""

from collections.abc import Sequence
from html import escape

import numpy as np

from contract.classes import CLASSES
from contract.page.charts import CLASS_TITLES, class_legend, histogram
from contract.page.elements import NARROW, count, section, unit
from contract.page.maps import patch_map
from pipeline.report.facts import Counts, Faces, Picture
from pipeline.report.faces import SHOWN_SIDE, SIDE

AREA_BINS = 24


def read_note(counts: Counts, faces: Faces) -> str:
    """On how many samples a picture rests."""
    if faces.samples == counts.samples:
        return f"From all {count(faces.samples, 'sample')}."
    return f"From {faces.samples:,} of {count(counts.samples, 'sample')}, spread evenly over the shards."


def averages_section(counts: Counts, faces: Faces | None) -> str:
    """The average face and the average mask."""
    if faces is None:
        return ""
    figures = "".join(
        f'<figure><img src="{address}" width="{SIDE}" height="{SIDE}" alt="{title}">'
        f'<figcaption>{title}</figcaption></figure>'
        for address, title in (
            (faces.face, "Average face"),
            (faces.mask, "Average mask"),
            (faces.usual, "Usual class of each pixel"),
        )
    )
    return section(
        "averages",
        "All of them at once",
        f'<div class="averages">{figures}</div>{class_legend()}'
        f'<p class="note">{read_note(counts, faces)} Left and right are the person\u2019s.</p>',
    )


def faces_section(counts: Counts, faces: Faces | None) -> str:
    """Faces with their masks: at random, and those of which the parser was most and least sure."""
    if faces is None:
        return ""
    body = _grid("Drawn at random", faces.drawn)
    if faces.least:
        shown = np.flatnonzero(counts.confidence)
        low, high = int(shown[0]), int(shown[-1]) + 1
        chart = histogram(
            counts.confidence[low:high].tolist(),
            f"Samples by confidence from {low / 100:.2f} to {high / 100:.2f}",
            (f"{low / 100:.2f}", f"{high / 100:.2f}"),
            size=(400, 110),
        )
        body += (
            _grid("Where the parser was least sure", faces.least)
            + _grid("Where the parser was most sure", faces.most)
            + f'<h3>Confidence of all samples</h3><figure class="single">{chart}</figure>'
            '<p class="note">The parser\u2019s mean probability of the classes that it found in a face. It ranks '
            "faces; it is no probability that a mask is right.</p>"
        )
    return section("faces", "Faces and masks", body)


def _grid(title: str, pictures: Sequence[Picture]) -> str:
    figures = "".join(
        f'<figure><img src="{picture.address}" width="{2 * SHOWN_SIDE}" height="{SHOWN_SIDE}" loading="lazy" '
        f'alt="Face {escape(picture.key)} and its mask"><figcaption class="soft">'
        f"{'' if picture.confidence is None else f'{picture.confidence:.3f} '}"
        f"<code>{escape(picture.key)}</code></figcaption></figure>"
        for picture in pictures
    )
    return f'<h3>{title}</h3><div class="faces">{figures}</div>'


def parts_section(counts: Counts, faces: Faces | None) -> str:
    """One heat map and one histogram of areas per class."""
    if faces is None:
        return ""
    present = (faces.areas > 0).mean(axis=0)
    maps, charts, absent = [], [], []
    for number, name in enumerate(CLASSES):
        title = escape(CLASS_TITLES[name])
        if not present[number]:
            absent.append(title)
            continue
        picture = patch_map(
            faces.cells[..., number],
            None if faces.patches is None else faces.patches[..., number],
            f"Where {CLASS_TITLES[name]} lies",
        )
        maps.append(
            f'<figure>{picture}<figcaption>{title}<span class="soft"> '
            f"{100 * present[number]:.0f}{NARROW}%</span></figcaption></figure>"
        )
        charts.append(_areas(faces, number, title))
    grid = len(faces.cells)
    patches = (
        f" The numbers are the same in percent for {len(faces.patches)} \u00d7 {len(faces.patches)} patches."
        if faces.patches is not None
        else ""
    )
    missing = f" In none of them: {', '.join(absent)}." if absent else ""
    return section(
        "parts",
        "Where the parts are",
        f"<p>The stronger the colour of a cell of the {grid} \u00d7 {grid} grid, the more faces have the part "
        f"there.{patches} Beside the name: the share of faces that have the part at all.</p>"
        f'<div class="heats maps">{"".join(maps)}</div>'
        f'<p class="note">{read_note(counts, faces)}{missing}</p>'
        "<h3>How much of the picture they cover</h3>"
        '<p class="note">Faces that have the part, by the share of the picture that it covers; in bold the '
        "median. The last bar holds the largest hundredth as well.</p>"
        f'<div class="curves">{"".join(charts)}</div>',
    )


def _areas(faces: Faces, number: int, title: str) -> str:
    areas = faces.areas[:, number]
    areas = areas[areas > 0]
    most = float(np.percentile(areas, 99))
    bins = np.minimum((areas / most * AREA_BINS).astype(np.int64), AREA_BINS - 1)
    chart = histogram(
        np.bincount(bins, minlength=AREA_BINS).tolist(),
        f"Faces by the share of the picture that {CLASS_TITLES[CLASSES[number]]} covers",
        ("0", f"{100 * most:.2g}{NARROW}%" if most < 0.1 else f"{100 * most:.0f}{NARROW}%"),
        size=(300, 110),
    )
    median = float(np.median(areas))
    text = unit(median) if median >= 0.01 else f"{100 * median:.2f}{NARROW}%"
    return f"<figure><figcaption>{title} <b>{text}</b></figcaption>{chart}</figure>"
