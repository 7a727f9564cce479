"""The page's plots of scores against the number of labels: of the runs at hand, and of the study."""

from common.page.charts import Series, line_chart
from common.page.elements import section
from training.report.elements import SCORE_TITLES, initials, legend, pairs, style_of, title_of
from training.report.results import Results, Run, StudyLine

SHOWN = ("average_precision", "balanced_accuracy")


def by_labels(results: Results) -> str:
    """Two charts of scores against the number of labels, and two more of the study if there was one."""
    if not results.runs or results.majority is None:
        return ""
    charts = [_of_runs(results, score) for score in SHOWN]
    if not any(charts):
        return ""
    key = legend([*initials(results.runs), "majority"])
    note = "Across: labelled faces, on a logarithmic axis; bars are the 95\u202f% intervals of the table."
    body = f'{key}<div class="two">{"".join(charts)}</div><p class="note">{note}</p>'
    return section("labels", "How many labels", body + _study(results))


def _of_runs(results: Results, score: str) -> str:
    both, base = pairs(results.runs), results.majority.means.get(score) if results.majority else None
    names = initials(results.runs)[::-1]
    series = []
    for initial in names:
        found = [pair[initial] for pair in both if initial in pair]
        known = [(run, value) for run in found if (value := run.means.get(score)) is not None]
        if known:
            series.append(
                Series(
                    style_of(initial),
                    [(float(run.faces), value) for run, value in known],
                    marked=True,
                    valued=len(names) < 3,
                    errors=[_half(run, score) for run, _ in known],
                )
            )
    return _figure(score, series, base)


def _half(run: Run, score: str) -> float:
    edges = run.intervals.get(score)
    return (edges[1] - edges[0]) / 2 if edges else 0.0


def _study(results: Results) -> str:
    if not results.study:
        return ""
    base = results.majority.means if results.majority else {}
    charts = []
    for score in SHOWN:
        series = [
            Series(
                style_of(line.initial),
                [(faces, mean) for faces, mean, _ in line.points],
                marked=True,
                valued=False,
                errors=[deviation for _, _, deviation in line.points],
            )
            for line in results.study
            if line.score == score
        ]
        charts.append(_figure(score, series, base.get(score)))
    names = list(dict.fromkeys(line.initial for line in results.study))
    seeds = max(line.seeds for line in results.study)
    note = f'<p class="note">Means over {seeds} seeds; bars are their standard deviation.</p>'
    table = _table([line for line in results.study if line.score == SHOWN[0]])
    key = legend([*names, "majority"])
    return f'<h3>The study</h3>{key}<div class="two">{"".join(charts)}</div>{note}{table}'


def _table(lines: list[StudyLine]) -> str:
    counts = sorted({faces for line in lines for faces, _, _ in line.points})
    heads = "".join(f'<th scope="col">{faces:,.0f}</th>' for faces in counts)
    body = ""
    for line in lines:
        values = {faces: (mean, deviation) for faces, mean, deviation in line.points}
        cells = ""
        for faces in counts:
            mean, deviation = values.get(faces, (None, 0.0))
            cells += f"<td>{_dash(mean, deviation)}</td>"
        body += f'<tr><th scope="row">{title_of(line.initial)}</th>{cells}</tr>'
    top = f'<thead><tr><th scope="col">Average precision, labelled faces</th>{heads}</tr></thead>'
    return f'<div class="scroll" tabindex="0"><table class="wide">{top}<tbody>{body}</tbody></table></div>'


def _dash(mean: float | None, deviation: float) -> str:
    return "\u2013" if mean is None else f"{100 * mean:.1f} \u00b1 {100 * deviation:.1f}"


def _figure(score: str, series: list[Series], base: float | None) -> str:
    if not series:
        return ""
    title = f"{'Mean ' if score == 'average_precision' else ''}{SCORE_TITLES[score].lower()}".capitalize()
    counts = sorted({x for line in series for x, _ in line.points})
    chart = line_chart(
        series,
        f"{title} by number of labelled faces",
        [(count, f"{count:,.0f}") for count in counts],
        log=True,
        percent=True,
        levels=[] if base is None else [base],
    )
    return f"<figure><figcaption>{title}</figcaption>{chart}</figure>"
