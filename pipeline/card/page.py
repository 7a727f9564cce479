"""The data card as HTML: it stands alone, and every text that comes from data is escaped."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from common.classes import CLASS_TITLES, CLASSES
from common.files import write_text
from common.layout import Layout
from common.page.charts import face_picture, histogram, matrix, picture_uri
from common.page.elements import count, document, duration, percent, scroll, section, table, unit, words
from common.page.masks import class_legend, faces_with_masks, presence_maps
from common.storage import Address
from pipeline.card.counts import Counts, Labels, count_all
from pipeline.card.samples import Looks, Shown, look

PAIRS = 8
"""Pairs of attributes that are listed at each end."""

MATRIX_MOST = 60
"""Attributes above which their matrix is left out."""


def write_card(layout: Layout, file: Address) -> None:
    """Write the page; equal shards give equal bytes.

    Raises:
        UserError: there are no finished shards, or a sample is not what the manifest says.
    """
    write_text(file, card(count_all(layout), look(layout)))


def card(counts: Counts, looks: Looks) -> str:
    """The whole page."""
    refused = counts.sources - _used(counts)
    title = f"Data card: {counts.dataset}"
    parser = looks.parser
    made_by, size = escape(str(parser.get("parser", "an unknown parser"))), parser.get("parser_size", "?")
    lede = (
        f"{count(counts.sources, 'source')} came in, {refused:,} of them refused "
        f"({unit(refused / max(1, counts.sources))}). Faces of {looks.face.shape[0]} pixels; masks "
        f"of {made_by} at {size} pixels."
    )
    header = (
        f'<header><p class="over">{escape(title)}</p><h1>{count(counts.samples, "face")} with masks</h1>'
        f'<p class="lede">{lede}</p></header>'
    )
    sections = [
        _stages(counts),
        _splits(counts),
        _faces(looks),
        _parts(looks),
        _average(looks),
        _labels(counts.labels, counts.samples),
    ]
    return document(title, header, sections)


def _used(counts: Counts) -> int:
    return counts.sources - sum(counts.listed.values()) - sum(counts.later.values())


def _stages(counts: Counts) -> str:
    listed, later = sum(counts.listed.values()), sum(counts.later.values())
    rows = [
        ("Listed", f"{counts.sources:,}", f"{listed:,}"),
        ("Aligned and parsed", f"{counts.sources - listed:,}", f"{later:,}"),
        ("Finished samples", f"{counts.samples:,}", ""),
    ]
    body = scroll(table(("Stage", "in", "refused"), rows))
    reasons = [(name, "while listing", f"{n:,}") for name, n in counts.listed.items()]
    reasons += [(name, "while aligning or parsing", f"{n:,}") for name, n in counts.later.items()]
    if reasons:
        body += "<h3>Refused, and why</h3>" + scroll(table(("Reason", "when", "sources"), reasons))
    else:
        body += "<p>Nothing was refused.</p>"
    if counts.notices:
        noted = [(name, f"{n:,}", unit(n / counts.samples)) for name, n in counts.notices.items()]
        body += "<h3>Kept, but worth knowing</h3>" + scroll(table(("Notice", "samples", "share"), noted))
    took = [
        (name, duration(run["seconds"]), f"{run['images']:,}", f"{run['workers']:,}", _rate(run))
        for name, run in counts.stages.items()
    ]
    if took:
        body += "<h3>The last run of each stage that had something to do</h3>"
        body += scroll(table(("Stage", "time", "images", "workers", "images/s"), took))
    return section("stages", "What came in", body)


def _rate(run: dict[str, float]) -> str:
    return f"{run['images'] / run['seconds']:,.1f}" if run["seconds"] else "\u2013"


def _splits(counts: Counts) -> str:
    rows = [
        (
            split.name,
            f"{split.samples:,}",
            unit(split.samples / counts.samples),
            f"{split.shards:,}",
            "\u2013" if split.identities is None else f"{split.identities:,}",
            f"{split.confidence:.3f}",
        )
        for split in counts.splits
    ]
    heads = ("Split", "samples", "share", "shards", "identities", "mean confidence")
    checks = "".join(_check(promise, found) for promise, found in counts.checks)
    return section("splits", "Splits", scroll(table(heads, rows)) + f"<h3>Checks</h3><ul>{checks}</ul>")


def _check(promise: str, found: int) -> str:
    mark, style = ("\u2717", "down") if found else ("\u2713", "up")
    return (
        f'<li><span class="{style}">{mark}</span> {escape(promise)}{f": {found:,} do" if found else ""}</li>'
    )


def _faces(looks: Looks) -> str:
    titles = {
        "worst": "The parser was least sure of these",
        "random": "Drawn by chance",
        "best": "It was surest of these",
    }
    body = '<p class="note">Confidence is the parser\u2019s, a mean over the parts that a face has.</p>'
    for kind, title in titles.items():
        body += f"<h3>{title}</h3>" + faces_with_masks([_captioned(shown) for shown in looks.shown[kind]])
    return section("faces", "Faces and masks", body + class_legend())


def _captioned(shown: Shown) -> tuple[str, NDArray[np.uint8], NDArray[np.uint8]]:
    return f"{shown.key} {shown.confidence:.3f}", shown.face, shown.mask


def _parts(looks: Looks) -> str:
    measured = count(looks.measured, "sample")
    note = f'<p class="note">From {measured}, evenly spread over the set.</p>'
    maps = presence_maps(looks.presence, (looks.shares > 0).mean(axis=0), looks.measured)
    charts = "".join(_areas(looks))
    areas = (
        '<h3>How much of the face they cover</h3><p class="note">Share of the pixels, over the samples that '
        f'have the part; the height is the share of samples.</p><div class="curves">{charts}</div>'
    )
    return section("parts", "Parts", note + maps + areas)


def _areas(looks: Looks) -> list[str]:
    """A figure per class that occurs."""
    figures = []
    for number, name in enumerate(CLASSES):
        shares = looks.shares[:, number]
        shares = shares[shares > 0]
        if len(shares):
            title = escape(CLASS_TITLES[name])
            figures.append(
                f'<figure><figcaption>{title}<span class="soft">{unit(float(shares.mean()))}</span>'
                f"</figcaption>{histogram(shares.tolist(), f'Area of {CLASS_TITLES[name]}')}</figure>"
            )
    return figures


def _average(looks: Looks) -> str:
    body = (
        f'<p class="note">Of {count(looks.averaged, "sample")}. Sharp eyes and a sharp mouth mean that '
        'the faces are aligned well.</p><div class="faces">'
        f'<figure><img src="{face_picture(looks.face, 256)}" width="256" height="256" alt="Average face">'
        "<figcaption>Average face</figcaption></figure>"
        f'<figure><img src="{picture_uri(looks.mask)}" width="256" height="256" alt="Average mask">'
        "<figcaption>Average mask</figcaption></figure></div>"
    )
    return section("average", "The average face", body)


def _labels(labels: Labels, samples: int) -> str:
    if not labels.names:
        return section("labels", "Labels", "<p>There are none: the set is for pre-training alone.</p>")
    items = []
    for name, yes, known in zip(labels.names, labels.yes.tolist(), labels.known.tolist(), strict=True):
        share = yes / known if known else None
        missing = f' <span class="soft">{unit(1 - known / samples)} unknown</span>' if known < samples else ""
        items.append(
            f'<li><span class="name">{words(name)}{missing}</span><span class="track">'
            f'<i class="bar pretrained" style="width:{100 * (share or 0.0):.2f}%"></i></span>'
            f'<span class="gain">{percent(share)}</span></li>'
        )
    unknown = int((samples - labels.known).sum())
    note = (
        f'<p class="note">{labels.labelled:,} of {count(samples, "sample")} have labels. '
        f"{unit(unknown / (samples * len(labels.names)))} of all values are unknown; the bars are the share "
        "of yes among the known, in percent.</p>"
    )
    body = note + f'<ul class="bars">{"".join(items)}</ul>' + _together(labels)
    return section("labels", "Labels", body)


def _together(labels: Labels) -> str:
    size = len(labels.names)
    pairs = [
        (float(labels.phi[i, j]), labels.names[i], labels.names[j])
        for i in range(size)
        for j in range(i)
        if labels.phi[i, j] == labels.phi[i, j]
    ]
    if not pairs:
        return ""
    pairs.sort()
    strongest = [pair for pair in reversed(pairs[-PAIRS:]) if pair[0] > 0]
    strongest += [pair for pair in reversed(pairs[:PAIRS]) if pair[0] < 0]
    rows = [
        (f"{a.replace('_', ' ')} and {b.replace('_', ' ')}", f"{value:+.2f}".replace("-", "\u2212"))
        for value, a, b in strongest
    ]
    body = '<h3>Which go together</h3><p class="note">Correlation (phi) of each two attributes.</p>'
    if size <= MATRIX_MOST:
        body += (
            '<p class="note"><i class="dot pretrained"></i>More often together than by chance, '
            '<i class="dot scratch"></i>less often. The cells of a name lie at its left and below it.</p>'
        )
        body += scroll(matrix(labels.phi, [name.replace("_", " ") for name in labels.names]))
    return body + scroll(table(("Strongest pairs", "phi"), rows))
