"""The result page as HTML: what it shows (`Results`), its sections and its style.

The page stands alone: no script, no font, no picture is loaded. Every text that
comes from data is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contract.classes import CLASSES
from training.charts import (
    CLASS_COLOURS,
    CLASS_TITLES,
    Series,
    face_picture,
    heat_map,
    line_chart,
    mask_picture,
    smoothed,
)

SCORE_TITLES: Final = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "average_precision": "Average precision",
    "roc_auc": "ROC AUC",
}
INITIAL_TITLES: Final = {"pretrained": "pre-trained", "scratch": "from scratch"}
NARROW: Final = "\u202f"
"""Narrow no-break space, between a number and its unit."""


TASKS: Final = tuple(
    f"{task}_{kind}"
    for task in ("segmentation", "classification", "rotation", "angle", "agreement")
    for kind in ("loss", "accuracy")
)
"""The order of the curves."""

STYLE: Final = """
:root{--paper:#faf9f6;--card:#fff;--ink:#22252a;--soft:#676c75;--line:#e3e0d8;--pretrained:#1f7a99;
--scratch:#bd6a24;--majority:#8d929b;--good:#2c7a45;--bad:#b23a3a}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--card:#1d2024;--ink:#e7e5e0;--soft:#9ca1aa;
--line:#32363c;--pretrained:#62bcd8;--scratch:#e59c5f;--majority:#7d838d;--good:#79c491;--bad:#ec8f8f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:66rem;padding:0 1.1rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;
font-variant-numeric:tabular-nums}
header{padding:2.6rem 0 .6rem;max-width:50rem}
h1,h2{font-family:"Iowan Old Style","Palatino Linotype",Palatino,Georgia,"Times New Roman",serif;
font-weight:600;text-wrap:balance}
h1{font-size:clamp(1.5rem,1.15rem + 1.9vw,2.35rem);line-height:1.22;margin:.3rem 0 .9rem;
letter-spacing:-.01em}
h2{font-size:1.45rem;line-height:1.25;margin:0 0 .8rem}
h3{font-size:1rem;margin:2rem 0 .3rem}
p{max-width:44rem;margin:.5rem 0 1rem}
.over{font-size:.85rem;color:var(--soft);margin:0}
.lede{font-size:1.05rem;color:var(--soft)}
.note,.soft{color:var(--soft);font-weight:400}
.note{font-size:.88rem}
section{border-top:1px solid var(--line);padding:1.8rem 0 1.4rem}
figure{margin:0}
figcaption{font-size:.9rem;font-weight:600}
ul,ol,dl{margin:0;padding:0;list-style:none}
code,pre{font:.85em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.8rem 1rem;overflow-x:auto}
.scroll{overflow-x:auto}
.commands{white-space:pre-wrap;overflow-wrap:anywhere}
td{white-space:nowrap}
table{border-collapse:collapse;font-size:.93rem;line-height:1.3;margin:.4rem 0 .8rem}
th,td{padding:.42rem .9rem .42rem 0;text-align:right;font-weight:400;vertical-align:bottom}
th:first-child{text-align:left}
th:last-child,td:last-child{padding-right:0}
thead th{color:var(--soft);font-size:.82rem;border-bottom:1px solid var(--line)}
tbody tr+tr>*{border-top:1px solid var(--line)}
table.scores{width:100%;max-width:46rem;font-size:1rem}
.scores tbody+tbody th[scope=rowgroup]{padding-top:1.1rem;font-weight:600}
.scores th[scope=row]{white-space:nowrap}
.scores .best{font-weight:700}
.wide{font-size:.85rem}
.wide th[scope=row]{position:sticky;left:0;background:var(--paper);min-width:7rem;
max-width:11rem;overflow-wrap:break-word}
.wide thead tr+tr th{text-align:right}
.wide th[scope=colgroup]{text-align:center}
.dot{display:inline-block;width:.65rem;height:.65rem;border-radius:50%;margin-right:.45rem;background:var(--majority)}
.dot.pretrained{background:var(--pretrained)}
.dot.scratch{background:var(--scratch);border-radius:1px}
.dot.prevalence{width:2px;height:.95rem;border-radius:0;background:var(--ink);vertical-align:-.15rem}
.legend .dot.majority{width:1.2rem;height:0;border-radius:0;background:none;
border-top:2px dashed var(--majority);
vertical-align:.2rem}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.2rem;font-size:.88rem;margin:.2rem 0 .8rem}
.classes i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.4rem;
vertical-align:-.08rem;outline:1px solid var(--line)}
.classes{gap:.2rem 1rem;margin-top:.8rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:1.4rem 2.2rem}
.chart{display:block;width:100%;height:auto;overflow:visible}
.chart text{font-size:12.5px;fill:var(--soft)}
.chart .value{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.chart line{stroke:var(--line)}
.chart .level{stroke:var(--majority);stroke-width:1.5;stroke-dasharray:5 4}
.chart polyline{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.chart polyline.pretrained,.chart .curve{stroke:var(--pretrained)}
.chart polyline.scratch{stroke:var(--scratch)}
.chart polyline.raw{stroke:var(--majority);stroke-width:1;opacity:.55}
.chart circle{fill:var(--pretrained)}
.chart rect{fill:var(--scratch)}
.bars{columns:2 24rem;column-gap:2.6rem;font-size:.9rem;margin-bottom:1.2rem}
.bars li{display:grid;grid-template-columns:8.6rem 1fr 3.2rem;gap:.7rem;align-items:center;
break-inside:avoid;padding:.2rem 0;line-height:1.15}
.bars .name{overflow-wrap:anywhere}
.track{position:relative;display:grid;gap:2px;padding:3px 0;border-left:1px solid var(--line)}
.bar{display:block;height:6px;border-radius:0 2px 2px 0}
.bar.pretrained{background:var(--pretrained)}
.bar.scratch{background:var(--scratch);opacity:.8}
.mark{position:absolute;top:0;bottom:0;width:2px;background:var(--ink)}
.gain{text-align:right;font-weight:600}
.up{color:var(--good)}
.down{color:var(--bad)}
img{display:block;max-width:100%;height:auto;border-radius:4px}
.faces{display:grid;grid-template-columns:repeat(auto-fill,minmax(10rem,1fr));gap:.7rem}
.faces img{width:100%}
.heats{display:grid;grid-template-columns:repeat(auto-fill,minmax(5.6rem,1fr));gap:1rem .8rem}
.heats figcaption,.mistakes figcaption{font-size:.82rem;line-height:1.3;margin-top:.3rem;
overflow-wrap:anywhere}
.heat{width:100%;image-rendering:pixelated;background:var(--card);outline:1px solid var(--line);
border-radius:2px}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1.2rem 1.6rem;
margin-top:.6rem}
.curves figcaption{display:flex;justify-content:space-between;gap:.4rem}
.mistakes{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.4rem,1fr));gap:1rem .8rem;
margin-top:.6rem}
.mistakes img{width:100%}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:1rem}
.facts dt,.origin dt{color:var(--soft);font-size:.82rem}
.facts dd{margin:0;font-size:1.3rem}
.origin dd{margin:0 0 .7rem;font-size:.9rem;overflow-wrap:anywhere}
details{margin:.8rem 0}
summary{cursor:pointer;font-weight:600;font-size:.93rem}
@media (max-width:32rem){
table.scores{font-size:.9rem}
th,td{padding-right:.55rem}
.scores thead th{font-size:.74rem}
.bars li{grid-template-columns:7.2rem 1fr 2.9rem;gap:.5rem}
.curves{grid-template-columns:1fr 1fr;gap:1rem}
.curves text{font-size:19px}
.curves figcaption{font-size:.8rem}
}
""".strip()
"""The page's style sheet."""


@dataclass(frozen=True)
class Run:
    """One fine-tuned classifier and its scores on the test split.

    Attributes:
        name, initial: such as ``pretrained-5%`` and ``pretrained``.
        labels: share of the labelled train faces. faces: how many these are.
        steps, seconds: of training.
        means: mean of each score over the attributes, 0..1 or None.
        attributes: by attribute the scores, 0..1 or None, and the ``threshold``.
    """

    name: str
    initial: str
    labels: float
    faces: int
    steps: int
    seconds: float
    means: Mapping[str, float | None]
    attributes: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Split:
    """Counts of one split; ``identities`` is 0 where none are known."""

    name: str
    faces: int
    labelled: int
    identities: int
    shards: int


@dataclass(frozen=True)
class Face:
    """A sample: uint8 RGB (S, S, 3), mask uint8 (S, S), and the facts of its JSON member."""

    key: str
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Presence:
    """Where parts are, over `samples` samples.

    Attributes:
        samples: how many.
        cells: float64 (G, G, 19), share of samples with the class in the cell.
        faces: float64 (19,), share of samples with the class anywhere.
    """

    samples: int
    cells: NDArray[np.float64]
    faces: NDArray[np.float64]


@dataclass(frozen=True)
class Pretraining:
    """Stage 1: its metrics, samples per batch, (step, value) curves by name, and chance levels."""

    metrics: Mapping[str, Any]
    batch_size: int
    curves: Mapping[str, Sequence[tuple[float, float]]]
    chance: Mapping[str, float]


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the face, the attribute, the probability of a yes, and the label."""

    face: Face
    attribute: str
    probability: float
    label: bool


@dataclass(frozen=True)
class Results:
    """All that the page shows.

    Attributes:
        dataset: name of the data set.
        sources: inputs in all, None if unknown.
        splits: counts. refused: (reason, count), most first.
        faces, faces_split: some samples, and the split that they are from.
        presence: None without samples. pretraining: None if there was none.
        runs: fewest labels first, from scratch before pre-trained. majority: None without runs.
        test_faces: test faces with a label.
        interval: 95 % interval of the gain with the fewest labels, None without a pair.
        mistakes: of which run, and which.
        config: YAML text. commands: shell lines. versions: (package, version).
        shards_sha256: of shards.parquet. commit: None outside a checkout.
    """

    dataset: str
    sources: int | None
    splits: Sequence[Split]
    refused: Sequence[tuple[str, int]]
    faces: Sequence[Face]
    faces_split: str
    presence: Presence | None
    pretraining: Pretraining | None
    runs: Sequence[Run]
    majority: Run | None
    test_faces: int
    interval: tuple[float, float] | None
    mistakes: tuple[Run | None, Sequence[Mistake]]
    config: str
    commands: Sequence[str]
    shards_sha256: str
    versions: Sequence[tuple[str, str]]
    commit: str | None


def page(results: Results) -> str:
    """The whole page; equal results give equal text."""
    sections = [
        _scores(results),
        _by_labels(results),
        _by_attribute(results),
        _input(results),
        _pretraining(results),
        _mistakes(results),
        _reproduce(results),
    ]
    title = escape(f"Facial attributes from few labels: {results.dataset}")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>"
    )
    top = f'<header><p class="over">{title}</p><h1>{headline(results)}</h1>{_lede(results)}</header>'
    return "\n".join([head, top, "<main>", *filter(None, sections), "</main></body></html>\n"])


def percent(value: float | None) -> str:
    """A share as percent with one decimal and no unit; a dash for None."""
    return "\u2013" if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = f"{100 * value:+.1f}".replace("-", "\u2212")
    return "0.0" if text[1:] == "0.0" else text


def headline(results: Results) -> str:
    """The result in one sentence, as HTML; it claims a gain only if the test faces can show it."""
    total = sum(split.faces for split in results.splits)
    pretrained_on = _count(results.pretraining.metrics["samples"], "face") if results.pretraining else ""
    seen = f"{pretrained_on} without labels" if pretrained_on else ""
    if not results.runs:
        done = (
            f"the network is pre-trained on {pretrained_on}" if pretrained_on else "there was no pre-training"
        )
        where = "train face" if any(split.labelled for split in results.splits) else "face"
        return (
            f"{_count(total, 'face')} in shards, and {done}; "
            f"no classifier was trained, because no {where} has a label"
        )
    pair = _pairs(results.runs)[0]
    first = next(iter(pair.values()))
    lead = f"With {_count(first.faces, 'labelled face')}, "
    score = first.means["average_precision"]
    if all(run.means["average_precision"] is None for run in pair.values()):
        return lead + "nothing can be ranked: in the test split each attribute has only one answer"
    if len(pair) < 2 and score is not None:
        base = results.majority.means["average_precision"] if results.majority else None
        beside = "" if base is None else f"; always answering alike gives {_unit(base)}"
        start = {"pretrained": f"a network pre-trained on {seen}" if seen else "a pre-trained network"}
        name = start.get(first.initial, "a network trained from scratch")
        return f"{lead}{name} reaches a mean average precision of {_unit(score)}{beside}"
    before, after = (pair[name].means["average_precision"] for name in ("scratch", "pretrained"))
    if before is None or after is None:
        return lead + "one of the two networks has no average precision"
    what = f"{lead}pre-training{' on ' + seen if seen else ''} "
    change = f"mean average precision from {_unit(before)} to {_unit(after)}"
    if percent(before) == percent(after):
        return f"{what}leaves mean average precision at {_unit(after)}"
    verb = "lifts" if after > before else "lowers"
    if results.interval and results.interval[0] <= 0 <= results.interval[1]:
        faces = _count(results.test_faces, "test face")
        return f"{what}moves {change}, a difference too small for {faces} to settle"
    return f"{what}{verb} {change}"


def _lede(results: Results) -> str:
    if not results.runs:
        return (
            '<p class="lede">Shards and pre-training are below. To get a classifier, give some of the '
            "photos labels (a label file in CelebA\u2019s layout) and run the same command again.</p>"
        )
    parts = []
    if results.interval:
        low, high = (signed(edge) for edge in results.interval)
        parts.append(
            f"Drawing the {_count(results.test_faces, 'test face')} anew, 95{NARROW}% of the gains lie "
            f"between {low} and {high} points. Each network was trained once; chance in that comes on top."
        )
    pairs = _pairs(results.runs)
    if len(pairs) > 1 and len(pairs[-1]) == 2:
        before, after = (pairs[-1][name].means["average_precision"] for name in ("scratch", "pretrained"))
        if before is not None and after is not None:
            faces = _count(pairs[-1]["scratch"].faces, "labelled face")
            parts.append(f"With {faces} it is {_unit(before)} from scratch and {_unit(after)} pre-trained.")
    return f'<p class="lede">{" ".join(parts)}</p>' if parts else ""


def _scores(results: Results) -> str:
    if not results.runs or results.majority is None:
        return ""
    titles = list(SCORE_TITLES)
    rows = [_row("majority class", results.majority.means, set())]
    body = [f"<tbody>{rows[0]}</tbody>"]
    for pair in _pairs(results.runs):
        first = next(iter(pair.values()))
        of = f' <span class="soft">{100 * first.labels:g}{NARROW}% of the labelled train faces</span>'
        rows = [f'<tr><th scope="rowgroup" colspan="5">{_count(first.faces, "labelled face")}{of}</th></tr>']
        for initial, run in pair.items():
            best = {name for name in titles if len(pair) == 2 and _is_best(run, pair, name)}
            rows.append(_row(INITIAL_TITLES[initial], run.means, best, initial))
        body.append(f"<tbody>{''.join(rows)}</tbody>")
    heads = "".join(f'<th scope="col">{title}</th>' for title in SCORE_TITLES.values())
    top = f'<thead><tr><th scope="col">Start</th>{heads}</tr></thead>'
    table = f'<table class="scores">{top}{"".join(body)}</table>'
    accuracy = results.majority.means["accuracy"]
    note = "Percent, means over attributes, on the test split. Bold: the better of the pair. "
    if accuracy is not None:
        note += (
            f"Accuracy alone misleads: always giving the more frequent answer is right in {_unit(accuracy)} "
            "of all cases and recognises nothing, as balanced accuracy, average precision and ROC AUC show."
        )
    return _section("scores", "Scores", f'{_scroll(table)}<p class="note">{note}</p>')


def _by_labels(results: Results) -> str:
    pairs = _pairs(results.runs)
    if not pairs or results.majority is None:
        return ""
    figures = []
    for score in ("average_precision", "balanced_accuracy"):
        series = []
        for initial in ("scratch", "pretrained"):
            points = [
                (float(pair[initial].faces), value)
                for pair in pairs
                if initial in pair and (value := pair[initial].means[score]) is not None
            ]
            if points:
                series.append(Series(initial, points, marked=True))
        if series:
            counts = sorted({x for line in series for x, _ in line.points})
            base = results.majority.means[score]
            title = (
                f"{'Mean ' if score == 'average_precision' else ''}{SCORE_TITLES[score].lower()}".capitalize()
            )
            chart = line_chart(
                series,
                f"{title} by number of labelled faces",
                [(count, f"{count:,.0f}") for count in counts],
                log=True,
                percent=True,
                levels=[] if base is None else [base],
            )
            figures.append(f"<figure><figcaption>{title}</figcaption>{chart}</figure>")
    if not figures:
        return ""
    legend = _legend([*_initials(results.runs), "majority"])
    note = '<p class="note">Across: labelled faces, on a logarithmic axis.</p>'
    return _section("labels", "How many labels", f'{legend}<div class="two">{"".join(figures)}</div>{note}')


def _by_attribute(results: Results) -> str:
    if not results.runs or results.majority is None:
        return ""
    pair = _pairs(results.runs)[0]
    base = results.majority.attributes
    first = next(iter(pair.values()))
    rows, dropped = [], []
    for name in first.attributes:
        values = {initial: run.attributes[name]["average_precision"] for initial, run in pair.items()}
        floor = base[name]["average_precision"]
        known = {initial: value for initial, value in values.items() if value is not None}
        if floor is None or len(known) < len(pair):
            dropped.append(name)
            continue
        last = known.get("pretrained", known[first.initial])
        rows.append((last - known["scratch"] if len(pair) == 2 else last - floor, name, known, floor))
    rows.sort(key=lambda row: (-row[0], row[1]))
    items = []
    for gain, name, known, floor in rows:
        bars = "".join(
            f'<i class="bar {initial}" style="width:{100 * known[initial]:.1f}%"></i>'
            for initial in ("pretrained", "scratch")
            if initial in known
        )
        numbers = {**{INITIAL_TITLES[i]: value for i, value in known.items()}, "prevalence": floor}
        title = "; ".join(f"{what} {percent(value)}" for what, value in numbers.items())
        colour = "" if signed(gain) == "0.0" else "up" if gain > 0 else "down"
        items.append(
            f'<li title="{escape(title)}"><span class="name">{_words(name)}</span>'
            f'<span class="track">{bars}<i class="mark" style="left:{100 * floor:.1f}%"></i></span>'
            f'<span class="gain {colour}">{signed(gain)}</span></li>'
        )
    what = "the gain of pre-training" if len(pair) == 2 else "the distance to prevalence"
    intro = (
        f'<p class="note">Average precision with {_count(first.faces, "labelled face")}, sorted by {what} in '
        "points (right). Prevalence is the share of faces that have the attribute, and what a guess scores."
    )
    if dropped:
        intro += (
            f" Without a score, as all test faces have the same answer: {', '.join(map(_words, dropped))}."
        )
    bars_html = f'{_legend([*_initials(pair.values()), "prevalence"])}<ol class="bars">{"".join(items)}</ol>'
    return _section(
        "attributes", "Attributes", f"{intro}</p>{bars_html if items else ''}{_all_scores(results)}"
    )


def _all_scores(results: Results) -> str:
    assert results.majority is not None  # the caller has checked
    shown = ("average_precision", "balanced_accuracy")
    width = len(results.runs)
    groups = "".join(f'<th scope="colgroup" colspan="{width}">{SCORE_TITLES[score]}</th>' for score in shown)
    heads = "".join(
        f'<th scope="col">{INITIAL_TITLES[run.initial]}<br>{run.faces:,}</th>'
        for _ in shown
        for run in results.runs
    )
    rows = []
    for name, base in results.majority.attributes.items():
        cells = "".join(
            f"<td>{percent(run.attributes[name][score])}</td>" for score in shown for run in results.runs
        )
        prevalence = percent(base["average_precision"])
        rows.append(f'<tr><th scope="row">{_words(name)}</th><td>{prevalence}</td>{cells}</tr>')
    table = (
        f'<table class="wide"><thead><tr><th scope="col" rowspan="2">Attribute</th>'
        f'<th scope="col" rowspan="2">Preva\u00adlence</th>{groups}</tr><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return f"<details><summary>All attributes and runs as a table</summary>{_scroll(table)}</details>"


def _input(results: Results) -> str:
    total = sum(split.faces for split in results.splits)
    refused = sum(count for _, count in results.refused)
    came = (
        f"{_count(results.sources, 'input')} came in, of which"
        if results.sources is not None
        else "There are"
    )
    parser = results.faces[0].facts if results.faces else {}
    made = ""
    if parser.get("parser"):
        size, weights = parser.get("parser_size"), str(parser.get("parser_sha256") or "")
        made = f" Masks are by {escape(str(parser['parser']))}"
        made += f" at {size} pixels" if size else ""
        made += f" (weights <code>{escape(weights[:12])}</code>)" if weights else ""
        made += "."
    text = (
        f"<p>Data set <strong>{escape(results.dataset)}</strong>. {came} {total:,} became samples"
        f"{f' and {refused:,} were refused' if results.sources is not None else ''}.{made}</p>"
    )
    heads = ("Split", "Faces", "With labels", "Identities", "Shards")
    rows = [
        (
            split.name,
            f"{split.faces:,}",
            f"{split.labelled:,}",
            f"{split.identities:,}" if split.identities else "\u2013",
            f"{split.shards:,}",
        )
        for split in results.splits
    ]
    tables = _scroll(_table(heads, rows))
    if results.refused:
        refusals = [(reason, f"{count:,}") for reason, count in results.refused]
        tables = f'<div class="two">{tables}{_scroll(_table(("Refused because", "Inputs"), refusals))}</div>'
    return _section("input", "What went in", text + tables + _faces(results) + _presence(results.presence))


def _faces(results: Results) -> str:
    if not results.faces:
        return ""
    figures = "".join(
        f'<img src="{mask_picture(face.image, face.mask, 160)}" width="320" height="160" loading="lazy" '
        f'alt="Face {escape(face.key)} and its mask">'
        for face in results.faces
    )
    swatches = "".join(
        f'<li><i style="background:rgb({r},{g},{b})"></i>{escape(CLASS_TITLES[name])}</li>'
        for name, (r, g, b) in zip(CLASSES, CLASS_COLOURS.tolist(), strict=True)
    )
    return (
        f'<h3>Faces and masks</h3><p class="note">{_count(len(results.faces), "face")} of the '
        f"{escape(results.faces_split)} split; left and right are the person\u2019s.</p>"
        f'<div class="faces">{figures}</div><ul class="legend classes">{swatches}</ul>'
    )


def _presence(presence: Presence | None) -> str:
    if presence is None:
        return ""
    maps, absent = [], []
    for number, name in enumerate(CLASSES):
        title = escape(CLASS_TITLES[name])
        if presence.faces[number] == 0:
            absent.append(title)
            continue
        maps.append(
            f'<figure><img class="heat" src="{heat_map(presence.cells[..., number])}" width="96" height="96" '
            f'alt="Where {title} lies"><figcaption>{title}<span class="soft"> '
            f"{100 * presence.faces[number]:.0f}{NARROW}%</span></figcaption></figure>"
        )
    grid = presence.cells.shape[0]
    missing = f" In none of them: {', '.join(absent)}." if absent else ""
    return (
        '<h3>Where the parts are</h3><p class="note">The stronger the colour of a cell of the '
        f"{grid} \u00d7 {grid} grid, the more of {_count(presence.samples, 'sample')} have the part there; "
        "beside the name, the share that have it at all."
        f'{missing}</p><div class="heats">{"".join(maps)}</div>'
    )


def _pretraining(results: Results) -> str:
    if results.pretraining is None:
        return _section("pretraining", "Pre-training", "<p>There was none.</p>")
    metrics, batch = results.pretraining.metrics, results.pretraining.batch_size
    steps, seconds = metrics["steps"], metrics["seconds"]
    facts = [("Faces", f"{metrics['samples']:,}"), ("Steps", f"{steps:,}"), ("Time", _duration(seconds))]
    if seconds:
        facts.append(("Samples per second", f"{steps * batch / seconds:,.1f}"))
    facts.append(("Passes over the faces", f"{steps * batch / max(1, metrics['samples']):,.1f}"))
    if "waiting" in metrics:
        facts.append(("Waiting for data", f"{_unit(metrics['waiting'])}"))
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    groups = []
    for kind, title in (("loss", "Losses"), ("accuracy", "Accuracies")):
        names = [name for name in results.pretraining.curves if name == kind or name.endswith(f"_{kind}")]
        names.sort(key=lambda name: (name != kind, TASKS.index(name) if name in TASKS else len(TASKS), name))
        charts = "".join(_curve(results.pretraining, name, kind) for name in names)
        if charts:
            groups.append(f'<h3>{title}</h3><div class="curves">{charts}</div>')
    note = '<p class="note">Strong: running mean. Dashed: chance. Across: steps.</p>' if groups else ""
    empty = "" if groups else '<p class="note">No curves were kept.</p>'
    return _section(
        "pretraining", "Pre-training", f'<dl class="facts">{cells}</dl>{"".join(groups)}{note}{empty}'
    )


def _curve(pretraining: Pretraining, name: str, kind: str) -> str:
    points = pretraining.curves[name]
    steps, values = [step for step, _ in points], [value for _, value in points]
    mean = smoothed(values, max(1, 2 * (len(values) // 30) + 1))
    lines = [Series("raw", points), Series("curve", list(zip(steps, mean, strict=True)))]
    share = kind == "accuracy"
    title = "Total" if name == kind else name.removesuffix(f"_{kind}").replace("_", " ").capitalize()
    chart = line_chart(
        lines,
        f"{title} {kind} over {steps[-1]:,.0f} steps",
        [(steps[0], f"{steps[0]:,.0f}"), (steps[-1], f"{steps[-1]:,.0f}")],
        size=(300, 150),
        y_steps=3,
        percent=share,
        levels=[pretraining.chance[name]] if name in pretraining.chance else [],
    )
    last = _unit(mean[-1]) if share else f"{mean[-1]:.3f}"
    return f"<figure><figcaption>{escape(title)} <b>{last}</b></figcaption>{chart}</figure>"


def _mistakes(results: Results) -> str:
    run, mistakes = results.mistakes
    if run is None:
        return ""
    intro = (
        f"<p>The most confident mistakes on the test split of the network {INITIAL_TITLES[run.initial]} with "
        f"{_count(run.faces, 'labelled face')}; some may be mistakes of the labels. At most one per face and "
        "two per attribute; p is the probability of a yes.</p>"
    )
    groups = []
    for label, title in ((False, "Yes, but the label says no"), (True, "No, but the label says yes")):
        figures = "".join(
            f'<figure><img src="{face_picture(m.face.image, 160)}" width="160" height="160" loading="lazy" '
            f'alt="Face {escape(m.face.key)}"><figcaption>{_words(m.attribute)}<br><span class="soft">'
            f"p = {100 * m.probability:.1f}{NARROW}%</span></figcaption></figure>"
            for m in mistakes
            if m.label == label
        )
        if figures:
            groups.append(f'<h3>{title}</h3><div class="mistakes">{figures}</div>')
    empty = '<p class="note">There is none: every known test label was predicted right.</p>'
    return _section("mistakes", "Mistakes", intro + ("".join(groups) or empty))


def _reproduce(results: Results) -> str:
    uses = any("config.yaml" in command for command in results.commands)
    how = (
        "with the configuration below saved as <code>config.yaml</code>" if uses else "with this params.yaml"
    )
    times = [("Pre-training", results.pretraining.metrics["seconds"])] if results.pretraining else []
    times += [
        (f"Fine-tuning, {_count(run.faces, 'labelled face')}, {INITIAL_TITLES[run.initial]}", run.seconds)
        for run in results.runs
    ]
    clock = [(name, _duration(seconds)) for name, seconds in times]
    if len(clock) > 1:
        clock.append(("Together", _duration(sum(seconds for _, seconds in times))))
    facts = [("shards.parquet (SHA-256)", results.shards_sha256)]
    facts += [("Commit", results.commit)] if results.commit else []
    facts += [("Versions", ", ".join(f"{name} {version}" for name, version in results.versions))]
    body = (
        f"<p>In the project\u2019s folder, {how}:</p>"
        f'<pre class="commands">{escape(chr(10).join(results.commands))}</pre><dl class="origin">'
        + "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
        + "</dl>"
        + (_scroll(_table(("Stage", "Time"), clock)) if clock else "")
        + f"<details><summary>Configuration</summary><pre>{escape(results.config)}</pre></details>"
    )
    return _section("reproduce", "How to reproduce it", body)


def _pairs(runs: Sequence[Run]) -> list[dict[str, Run]]:
    """The runs by share of labels, fewest first, each by its initialisation."""
    found: dict[float, dict[str, Run]] = {}
    for run in runs:
        found.setdefault(run.labels, {})[run.initial] = run
    return list(found.values())


def _initials(runs: Iterable[Run]) -> list[str]:
    present = {run.initial for run in runs}
    return [name for name in ("pretrained", "scratch") if name in present]


def _is_best(run: Run, pair: Mapping[str, Run], score: str) -> bool:
    """Whether the run is better than the other of its pair at the precision that is shown."""
    values = [other.means[score] for other in pair.values()]
    shown = {percent(value) for value in values}
    best = max((value for value in values if value is not None), default=None)
    return best is not None and len(shown) > 1 and run.means[score] == best


def _row(title: str, means: Mapping[str, float | None], best: set[str], style: str = "majority") -> str:
    cells = "".join(
        f'<td class="best">{percent(means[name])}</td>'
        if name in best
        else f"<td>{percent(means[name])}</td>"
        for name in SCORE_TITLES
    )
    return f'<tr><th scope="row"><i class="dot {escape(style)}"></i>{escape(title)}</th>{cells}</tr>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _legend(names: Sequence[str]) -> str:
    titles = {**INITIAL_TITLES, "majority": "majority class", "prevalence": "prevalence"}
    items = "".join(f'<li><i class="dot {name}"></i>{titles[name]}</li>' for name in names)
    return f'<ul class="legend">{items}</ul>'


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>'


def _scroll(table: str) -> str:
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _words(name: str) -> str:
    """An attribute's name with spaces, escaped."""
    return escape(name.replace("_", " "))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _unit(share: float) -> str:
    return f"{percent(share)}{NARROW}%"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}{NARROW}h {minutes:02d}{NARROW}min" if hours else f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    )
