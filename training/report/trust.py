"""The page's part on trust: calibration, gaps between groups, and where the network looks."""

from collections.abc import Sequence
from html import escape

from common.page.charts import Series, line_chart
from common.page.elements import count, percent, scroll, section, signed, unit, words
from training.report.elements import pairs, style_of, title_of
from training.report.results import Results, Run

GAP_SCORES = {
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
}
"""The scores of the table of gaps."""


def best_runs(results: Results) -> list[Run]:
    """The best run of every number of labels, by mean average precision."""
    return [
        max(pair.values(), key=lambda run: run.means.get("average_precision") or 0.0)
        for pair in pairs(results.runs)
    ]


def calibration(results: Results) -> str:
    """A reliability curve of the best run with each number of labels, and its calibration error."""
    figures = []
    for run in best_runs(results):
        points = [(row["predicted"], row["observed"]) for row in run.reliability]
        if not points:
            continue
        chart = line_chart(
            [Series("raw", [(0.0, 0.0), (1.0, 1.0)]), Series(style_of(run.initial), points)],
            f"How often a probability of {run.name} comes true",
            [(0.0, "0"), (0.5, "50\u202f%"), (1.0, "100\u202f%")],
            size=(300, 240),
            percent=True,
        )
        error = run.means.get("calibration_error")
        figures.append(
            f"<figure><figcaption>{_title(run)} <b>{unit(error) if error is not None else ''}</b>"
            f"</figcaption>{chart}</figure>"
        )
    if not figures:
        return ""
    note = (
        '<p class="note">Across: the probability that the network gives. Up: how often the attribute is '
        "really there, all attributes together; the thin line is where both agree. The number is the "
        "expected calibration error, a mean over attributes. The best run with each number of labels.</p>"
    )
    return section("calibration", "Calibration", f'{note}<div class="curves">{"".join(figures)}</div>')


def group_gaps(results: Results) -> str:
    """A table per group attribute: both groups and their difference, for the best runs."""
    tables = []
    best = best_runs(results)
    for name in dict.fromkeys(name for run in best for name in run.gaps):
        rows = [_gap_rows(run, name) for run in best if name in run.gaps]
        heads = "".join(f'<th scope="col">{kind}</th>' for kind in ("with", "without", "difference"))
        gap = best[-1].gaps[name]
        sizes = f"{count(gap['yes']['faces'], 'test face')} with, {gap['no']['faces']:,} without"
        top = f'<thead><tr><th scope="col">{words(name)}: {sizes}</th>{heads}</tr></thead>'
        tables.append(scroll(f'<table class="gaps">{top}<tbody>{"".join(rows)}</tbody></table>'))
    if not tables:
        return ""
    note = (
        '<p class="note">Mean scores in percent of the test faces with an attribute and of those without it, '
        "over the other attributes that both groups have, at the same thresholds. The difference is in "
        "points, with its 95\u202f% interval; bold where the interval leaves out zero. Average "
        "precision also differs because attributes are rarer in one group; balanced "
        "accuracy does not depend on that.</p>"
    )
    return section("gaps", "Gaps between groups", f'{note}<div class="two">{"".join(tables)}</div>')


def _gap_rows(run: Run, name: str) -> str:
    gap = run.gaps[name]
    rows = f'<tr><th scope="rowgroup" colspan="4">{_title(run)}</th></tr>'
    for score, title in GAP_SCORES.items():
        value, edges = gap["difference"].get(score), gap["difference"].get(f"{score}_interval")
        cells = "".join(f"<td>{percent(gap[side].get(score))}</td>" for side in ("yes", "no"))
        between = _between(edges) if edges else ""
        kind = ' class="best"' if edges and (edges[0] > 0 or edges[1] < 0) else ""
        cells += f"<td{kind}>{'' if value is None else signed(value)}{between}</td>"
        rows += f'<tr><th scope="row">{title}</th>{cells}</tr>'
    return rows


def _between(edges: Sequence[float]) -> str:
    return f'<span class="between">{signed(edges[0])} to {signed(edges[1])}</span>'


def _title(run: Run) -> str:
    return f"{count(run.faces, 'labelled face')}, {title_of(run.initial)}"


def activation_maps(results: Results) -> str:
    """Where the network looks, by branch."""
    if not results.maps:
        return ""
    groups = []
    for branch in dict.fromkeys(found.branch for found in results.maps):
        figures = "".join(
            f'<figure><img src="{found.picture}" width="112" height="112" loading="lazy" '
            f'alt="Where the network looks for {words(found.name)}">'
            f"<figcaption>{words(found.name)}</figcaption></figure>"
            for found in results.maps
            if found.branch == branch
        )
        groups.append(f'<h3>Branch: {escape(branch)}</h3><div class="mistakes">{figures}</div>')
    note = (
        '<p class="note">Class-activation maps, a mean over test faces, on the average face. Strong colour: '
        "what the branch sees there speaks for the attribute.</p>"
    )
    return section("maps", "Where the network looks", note + "".join(groups))
