"""The page's part on training: curves of both stages, time and cost."""

from collections.abc import Mapping, Sequence
from html import escape

from common.page.charts import Series, line_chart, smoothed
from common.page.elements import count, duration, percent, scroll, section, table, unit
from training.report.elements import TASKS, style_of, title_of
from training.report.results import Pretraining, Results


def pretraining_section(results: Results) -> str:
    """Size and speed of stage 1, and a curve per loss and accuracy."""
    if results.pretraining is None:
        return section("pretraining", "Pre-training", "<p>There was none.</p>")
    metrics, batch = results.pretraining.metrics, results.pretraining.batch_size
    steps, seconds = metrics["steps"], metrics["seconds"]
    facts = [("Faces", f"{metrics['samples']:,}"), ("Steps", f"{steps:,}"), ("Time", duration(seconds))]
    if seconds:
        facts.append(("Samples per second", f"{steps * batch / seconds:,.1f}"))
    facts.append(("Passes over the faces", f"{steps * batch / max(1, metrics['samples']):,.1f}"))
    if "waiting" in metrics:
        facts.append(("Waiting for data", f"{unit(metrics['waiting'])}"))
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    groups = []
    for kind, title in (("loss", "Losses"), ("accuracy", "Accuracies")):
        names = [name for name in results.pretraining.curves if name == kind or name.endswith(f"_{kind}")]
        names.sort(key=lambda name: (name != kind, TASKS.index(name) if name in TASKS else len(TASKS), name))
        charts = "".join(curve(results.pretraining, name, kind) for name in names)
        if charts:
            groups.append(f'<h3>{title}</h3><div class="curves">{charts}</div>')
    note = '<p class="note">Strong: running mean. Dashed: chance. Across: steps.</p>' if groups else ""
    empty = "" if groups else '<p class="note">No curves were kept.</p>'
    return section(
        "pretraining", "Pre-training", f'<dl class="facts">{cells}</dl>{"".join(groups)}{note}{empty}'
    )


def curve(pretraining: Pretraining, name: str, kind: str) -> str:
    """One curve over the steps."""
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
    last = unit(mean[-1]) if share else f"{mean[-1]:.3f}"
    return f"<figure><figcaption>{escape(title)} <b>{last}</b></figcaption>{chart}</figure>"


def finetuning_section(results: Results) -> str:
    """What is known of the training of every run, and its curves where it kept some."""
    if not results.runs:
        return ""
    titles = list(dict.fromkeys(title for run in results.runs for title in run.facts))
    rows = [
        [f"{run.faces:,} labels, {title_of(run.initial)}", *(_fact(title, run.facts) for title in titles)]
        for run in results.runs
    ]
    charts = "".join(
        _stage_2_curve(name, style_of(run.initial), kind, points)
        for run in results.runs
        for name in (f"{count(run.faces, 'label')}, {title_of(run.initial)}",)
        for kind, points in results.finetuning.get(run.name, {}).items()
    )
    curves = f'<div class="curves">{charts}</div>' if charts else ""
    return section("finetuning", "Fine-tuning", scroll(table(("Run", *titles), rows)) + curves)


def _fact(title: str, facts: Mapping[str, float]) -> str:
    if title not in facts:
        return "\u2013"
    value = facts[title]
    return (
        percent(value) if "precision" in title else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    )


def _stage_2_curve(name: str, style: str, kind: str, points: Sequence[tuple[float, float]]) -> str:
    first, last = points[0][0], points[-1][0]
    chart = line_chart(
        [Series(style, points)],
        f"{kind} of {name} over {last:,.0f} steps",
        [(first, f"{first:,.0f}"), (last, f"{last:,.0f}")],
        size=(300, 150),
        y_steps=3,
    )
    title = escape(kind.replace("_", " ").capitalize())
    return f"<figure><figcaption>{name}: {title} <b>{points[-1][1]:.3f}</b></figcaption>{chart}</figure>"


def costs_section(results: Results) -> str:
    """Wall clock and core-hours of every stage that left a record."""
    if not results.costs:
        return ""
    rows = [
        (
            f"{cost.stage}{', ' + cost.work if cost.work else ''}",
            duration(cost.seconds),
            str(cost.cores),
            f"{cost.seconds * cost.cores / 3600:.2f}",
        )
        for cost in results.costs
    ]
    if len(rows) > 1:
        hours = sum(cost.seconds * cost.cores for cost in results.costs) / 3600
        rows.append(("Together", duration(sum(cost.seconds for cost in results.costs)), "", f"{hours:.2f}"))
    note = (
        '<p class="note">Time as the stages recorded it. A core-hour is one CPU core kept for an hour, the '
        "unit of cost; for training, the cores are those of the machine that wrote this page.</p>"
    )
    return section(
        "costs", "Time and cost", scroll(table(("Stage", "Time", "Cores", "Core-hours"), rows)) + note
    )
