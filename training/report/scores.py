"""The page's first half: the headline and everything about scores."""

from html import escape

from contract.page.charts import (
    Series,
    line_chart,
)
from contract.page.elements import NARROW, count, percent, scroll, section, signed, unit, words
from training.report.elements import INITIAL_TITLES, SCORE_TITLES, initials, is_best, legend, pairs, row
from training.report.results import Results


def headline(results: Results) -> str:
    """The result in one sentence, as HTML; it claims a gain only if the test faces can show it."""
    total = sum(split.faces for split in results.splits)
    pretrained_on = count(results.pretraining.metrics["samples"], "face") if results.pretraining else ""
    seen = f"{pretrained_on} without labels" if pretrained_on else ""
    if not results.runs:
        done = (
            f"the network is pre-trained on {pretrained_on}" if pretrained_on else "there was no pre-training"
        )
        where = "train face" if any(split.labelled for split in results.splits) else "face"
        return (
            f"{count(total, 'face')} in shards, and {done}; "
            f"no classifier was trained, because no {where} has a label"
        )
    pair = pairs(results.runs)[0]
    first = next(iter(pair.values()))
    lead = f"With {count(first.faces, 'labelled face')}, "
    score = first.means["average_precision"]
    if all(run.means["average_precision"] is None for run in pair.values()):
        return lead + "nothing can be ranked: in the test split each attribute has only one answer"
    if len(pair) < 2 and score is not None:
        base = results.majority.means["average_precision"] if results.majority else None
        beside = "" if base is None else f"; always answering alike gives {unit(base)}"
        start = {"pretrained": f"a network pre-trained on {seen}" if seen else "a pre-trained network"}
        name = start.get(first.initial, "a network trained from scratch")
        return f"{lead}{name} reaches a mean average precision of {unit(score)}{beside}"
    before, after = (pair[name].means["average_precision"] for name in ("scratch", "pretrained"))
    if before is None or after is None:
        return lead + "one of the two networks has no average precision"
    what = f"{lead}pre-training{' on ' + seen if seen else ''} "
    change = f"mean average precision from {unit(before)} to {unit(after)}"
    if percent(before) == percent(after):
        return f"{what}leaves mean average precision at {unit(after)}"
    verb = "lifts" if after > before else "lowers"
    if results.interval and results.interval[0] <= 0 <= results.interval[1]:
        faces = count(results.test_faces, "test face")
        return f"{what}moves {change}, a difference too small for {faces} to settle"
    return f"{what}{verb} {change}"


def lede(results: Results) -> str:
    """What the headline rests on, in two or three sentences."""
    if not results.runs:
        return (
            '<p class="lede">Shards and pre-training are below. To get a classifier, give some of the '
            "photos labels (a label file in CelebA\u2019s layout) and run the same command again.</p>"
        )
    parts = []
    if results.interval:
        low, high = (signed(edge) for edge in results.interval)
        parts.append(
            f"Drawing the {count(results.test_faces, 'test face')} anew, 95{NARROW}% of the gains lie "
            f"between {low} and {high} points. Each network was trained once; chance in that comes on top."
        )
    both = pairs(results.runs)
    if len(both) > 1 and len(both[-1]) == 2:
        before, after = (both[-1][name].means["average_precision"] for name in ("scratch", "pretrained"))
        if before is not None and after is not None:
            faces = count(both[-1]["scratch"].faces, "labelled face")
            parts.append(f"With {faces} it is {unit(before)} from scratch and {unit(after)} pre-trained.")
    return f'<p class="lede">{" ".join(parts)}</p>' if parts else ""


def scores_section(results: Results) -> str:
    """The headline table: every run beside the majority class, the better of each pair marked."""
    if not results.runs or results.majority is None:
        return ""
    titles = list(SCORE_TITLES)
    rows = [row("majority class", results.majority.means, set())]
    body = [f"<tbody>{rows[0]}</tbody>"]
    for pair in pairs(results.runs):
        first = next(iter(pair.values()))
        of = f' <span class="soft">{100 * first.labels:g}{NARROW}% of the labelled train faces</span>'
        rows = [f'<tr><th scope="rowgroup" colspan="5">{count(first.faces, "labelled face")}{of}</th></tr>']
        for initial, run in pair.items():
            best = {name for name in titles if len(pair) == 2 and is_best(run, pair, name)}
            rows.append(row(INITIAL_TITLES[initial], run.means, best, initial))
        body.append(f"<tbody>{''.join(rows)}</tbody>")
    heads = "".join(f'<th scope="col">{title}</th>' for title in SCORE_TITLES.values())
    top = f'<thead><tr><th scope="col">Start</th>{heads}</tr></thead>'
    table = f'<table class="scores">{top}{"".join(body)}</table>'
    accuracy = results.majority.means["accuracy"]
    note = "Percent, means over attributes, on the test split. Bold: the better of the pair. "
    if accuracy is not None:
        note += (
            f"Accuracy alone misleads: always giving the more frequent answer is right in {unit(accuracy)} "
            "of all cases and recognises nothing, as balanced accuracy, average precision and ROC AUC show."
        )
    return section("scores", "Scores", f'{scroll(table)}<p class="note">{note}</p>')


def by_labels(results: Results) -> str:
    """Two charts of scores against the number of labels."""
    both = pairs(results.runs)
    if not both or results.majority is None:
        return ""
    figures = []
    for score in ("average_precision", "balanced_accuracy"):
        series = []
        for initial in ("scratch", "pretrained"):
            points = [
                (float(pair[initial].faces), value)
                for pair in both
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
    key = legend([*initials(results.runs), "majority"])
    note = '<p class="note">Across: labelled faces, on a logarithmic axis.</p>'
    return section("labels", "How many labels", f'{key}<div class="two">{"".join(figures)}</div>{note}')


def by_attribute(results: Results) -> str:
    """Bars per attribute at the fewest labels, sorted by gain."""
    if not results.runs or results.majority is None:
        return ""
    pair = pairs(results.runs)[0]
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
            f'<li title="{escape(title)}"><span class="name">{words(name)}</span>'
            f'<span class="track">{bars}<i class="mark" style="left:{100 * floor:.1f}%"></i></span>'
            f'<span class="gain {colour}">{signed(gain)}</span></li>'
        )
    what = "the gain of pre-training" if len(pair) == 2 else "the distance to prevalence"
    intro = (
        f'<p class="note">Average precision with {count(first.faces, "labelled face")}, sorted by {what} in '
        "points (right). Prevalence is the share of faces that have the attribute, and what a guess scores."
    )
    if dropped:
        intro += (
            f" Without a score, as all test faces have the same answer: {', '.join(map(words, dropped))}."
        )
    bars_html = f'{legend([*initials(pair.values()), "prevalence"])}<ol class="bars">{"".join(items)}</ol>'
    return section(
        "attributes", "Attributes", f"{intro}</p>{bars_html if items else ''}{all_scores(results)}"
    )


def all_scores(results: Results) -> str:
    """Every score of every attribute, folded away."""
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
        rows.append(f'<tr><th scope="row">{words(name)}</th><td>{prevalence}</td>{cells}</tr>')
    table = (
        f'<table class="wide"><thead><tr><th scope="col" rowspan="2">Attribute</th>'
        f'<th scope="col" rowspan="2">Preva\u00adlence</th>{groups}</tr><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return f"<details><summary>All attributes and runs as a table</summary>{scroll(table)}</details>"
