"""The page's first part: the headline and the scores of runs and attributes."""

from html import escape

from common.page.elements import NARROW, count, percent, scroll, section, signed, unit, words
from training.report.elements import (
    SCORE_TITLES,
    challenger,
    initials,
    is_best,
    legend,
    pairs,
    row,
    style_of,
    title_of,
)
from training.report.results import Results, Run


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
    if all(run.means["average_precision"] is None for run in pair.values()):
        return lead + "nothing can be ranked: in the test split each attribute has only one answer"
    other = challenger(pair)
    if other is None or "scratch" not in pair:
        shown = other or first
        reached = shown.means["average_precision"]
        base = results.majority.means["average_precision"] if results.majority else None
        beside = "" if base is None else f"; always answering alike gives {unit(base)}"
        known = {
            "pretrained": f"a network pre-trained on {seen}" if seen else "a pre-trained network",
            "scratch": "a network trained from scratch",
        }
        name = known.get(shown.initial, f"the network {title_of(shown.initial)}")
        if reached is None:
            return lead + "the network has no average precision"
        return f"{lead}{name} reaches a mean average precision of {unit(reached)}{beside}"
    before, after = (run.means["average_precision"] for run in (pair["scratch"], other))
    if before is None or after is None:
        return lead + "one of the two networks has no average precision"
    on = f" on {seen}" if seen else ""
    start = (
        f"pre-training{on}" if other.initial == "pretrained" else f"starting {title_of(other.initial)}{on}"
    )
    what = f"{lead}{start} "
    change = f"mean average precision from {unit(before)} to {unit(after)}"
    if percent(before) == percent(after):
        return f"{what}leaves mean average precision at {unit(after)}"
    verb = "lifts" if after > before else "lowers"
    edges = gain_interval(other)
    if edges and edges[0] <= 0 <= edges[1]:
        faces = count(results.test_faces, "test face")
        return f"{what}moves {change}, a difference too small for {faces} to settle"
    return f"{what}{verb} {change}"


def gain_interval(run: Run) -> tuple[float, float] | None:
    """The 95 % interval of the gain in mean average precision over the run from scratch."""
    edges = run.gains.get("average_precision", {}).get("interval")
    return (edges[0], edges[1]) if edges else None


def lede(results: Results) -> str:
    """What the headline rests on, in two or three sentences."""
    if not results.runs:
        return (
            '<p class="lede">Shards and pre-training are below. To get a classifier, give some of the '
            "photos labels (a label file in CelebA\u2019s layout) and run the same command again.</p>"
        )
    parts = []
    other = challenger(pairs(results.runs)[0])
    if other is not None and (edges := gain_interval(other)):
        low, high = (signed(edge) for edge in edges)
        parts.append(
            f"Drawing the people of the {count(results.test_faces, 'test face')} anew, 95{NARROW}% of the "
            f"gains lie between {low} and {high} points. Each network was trained once; chance in that "
            "comes on top."
        )
    both = pairs(results.runs)
    last = challenger(both[-1])
    if len(both) > 1 and last is not None and "scratch" in both[-1]:
        before, after = (run.means["average_precision"] for run in (both[-1]["scratch"], last))
        if before is not None and after is not None:
            faces = count(last.faces, "labelled face")
            parts.append(
                f"With {faces} it is {unit(before)} from scratch and {unit(after)} {title_of(last.initial)}."
            )
    return f'<p class="lede">{" ".join(parts)}</p>' if parts else ""


def scores_section(results: Results) -> str:
    """The headline table: every run beside the majority class, the better of each pair marked."""
    if not results.runs or results.majority is None:
        return ""
    titles = list(SCORE_TITLES)
    body = [f"<tbody>{row(results.majority, 'majority class', set())}</tbody>"]
    for pair in pairs(results.runs):
        first = next(iter(pair.values()))
        of = f' <span class="soft">{labels_of(first)}</span>'
        width = len(titles) + 1
        rows = [
            f'<tr><th scope="rowgroup" colspan="{width}">{count(first.faces, "labelled face")}{of}</th></tr>'
        ]
        for initial, run in pair.items():
            best = {name for name in titles if len(pair) > 1 and is_best(run, pair, name)}
            rows.append(row(run, title_of(initial), best, style_of(initial)))
        body.append(f"<tbody>{''.join(rows)}</tbody>")
    heads = "".join(f'<th scope="col">{title}</th>' for title in SCORE_TITLES.values())
    top = f'<thead><tr><th scope="col">Start</th>{heads}</tr></thead>'
    table = f'<table class="scores">{top}{"".join(body)}</table>'
    accuracy = results.majority.means.get("accuracy")
    note = (
        "Percent, means over attributes, on the test split; below each its 95\u202f% interval over the "
        "choice of test people. Bold: the best with the same labels. Balanced accuracy and F1 answer at "
        "thresholds tuned on val, accuracy at one half; of the calibration error less is better. "
    )
    if not any(run.initial == "scratch" for run in results.runs):
        note += "No run started from scratch (finetune.initial), so nothing says what pre-training gives. "
    if accuracy is not None:
        note += (
            f"Accuracy alone misleads: always giving the more frequent answer is right in {unit(accuracy)} "
            "of all cases and recognises nothing, as balanced accuracy, average precision and ROC AUC show."
        )
    return section("scores", "Scores", f'{scroll(table)}<p class="note">{note}</p>')


def labels_of(run: Run) -> str:
    """Which labels a run had, escaped."""
    if isinstance(run.labels, str):
        return f"the list {escape(run.labels)}"
    return f"{100 * run.labels:g}{NARROW}% of the labelled train faces"


def by_attribute(results: Results) -> str:
    """Bars per attribute at the fewest labels, sorted by gain."""
    if not results.runs or results.majority is None:
        return ""
    pair = pairs(results.runs)[0]
    base = results.majority.attributes
    first = next(iter(pair.values()))
    other = challenger(pair)
    paired = other is not None and "scratch" in pair
    rows, dropped = [], []
    for name in first.attributes:
        values = {initial: run.attributes[name].get("average_precision") for initial, run in pair.items()}
        floor = base[name].get("average_precision")
        known = {initial: value for initial, value in values.items() if value is not None}
        if floor is None or len(known) < len(pair):
            dropped.append(name)
            continue
        last = known[other.initial if other else first.initial]
        rows.append((last - known["scratch"] if paired else last - floor, name, known, floor))
    rows.sort(key=lambda row: (-row[0], row[1]))
    items = []
    for gain, name, known, floor in rows:
        bars = "".join(
            f'<i class="bar {style_of(initial)}" style="width:{100 * known[initial]:.1f}%"></i>'
            for initial in initials(pair.values())
        )
        numbers = {**{title_of(i): value for i, value in known.items()}, "prevalence": floor}
        title = "; ".join(f"{what} {percent(value)}" for what, value in numbers.items())
        colour = "" if signed(gain) == "0.0" else "up" if gain > 0 else "down"
        items.append(
            f'<li title="{title}"><span class="name">{words(name)}</span>'
            f'<span class="track">{bars}<i class="mark" style="left:{100 * floor:.1f}%"></i></span>'
            f'<span class="gain {colour}">{signed(gain)}</span></li>'
        )
    what = (
        f"the gain of the network {title_of(other.initial)}"
        if paired and other
        else "the distance to prevalence"
    )
    intro = (
        f'<p class="note">Average precision with {count(first.faces, "labelled face")}, sorted by {what} in '
        "points (right). Prevalence is the share of faces that have the attribute, and what "
        "the majority class scores."
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
        f'<th scope="col">{title_of(run.initial)}<br>{run.faces:,}</th>'
        for _ in shown
        for run in results.runs
    )
    rows = []
    for name, base in results.majority.attributes.items():
        cells = "".join(
            f"<td>{percent(run.attributes[name].get(score))}</td>" for score in shown for run in results.runs
        )
        prevalence = percent(base.get("average_precision"))
        rows.append(f'<tr><th scope="row">{words(name)}</th><td>{prevalence}</td>{cells}</tr>')
    table = (
        f'<table class="wide"><thead><tr><th scope="col" rowspan="2">Attribute</th>'
        f'<th scope="col" rowspan="2">Preva\u00adlence</th>{groups}</tr><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    return f"<details><summary>All attributes and runs as a table</summary>{scroll(table)}</details>"
