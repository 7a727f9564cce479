"""The card's numbers: headline, way from sources to samples, splits, checks, origin."""

from html import escape

from contract.page.elements import NARROW, count, duration, scroll, section, table, unit
from pipeline.report.counts import STAGES
from pipeline.report.facts import Counts, Faces

DASH = "\u2013"


def headline(counts: Counts) -> str:
    """What there is in one sentence, as HTML."""
    faces, sources, refused = count(counts.samples, "face"), counts.sources, counts.refused
    if sources is None:
        return f"{faces} in shards"
    come = f"{faces} from {count(sources, 'source')}"
    if refused is None:
        return come
    if not refused:
        return f"{come}, none refused"
    return f"{come}; {unit(refused / max(1, sources))} were refused"


def lede(counts: Counts, faces: Faces | None) -> str:
    """What the faces and masks are, and whether the checks hold."""
    parts = []
    if faces:
        side = faces.sizes[0][0]
        name, pixels, _ = faces.parsers[0][0]
        others = " (not all of them: see the end)" if len(faces.sizes) > 1 else ""
        parts.append(f"Each face is {side} \u00d7 {side} pixels{others}.")
        if name:
            at = f" at {pixels} pixels" if pixels else ""
            parts.append(f"{escape(name.capitalize())} made the masks{at}.")
    broken = sum(check.found > 0 for check in counts.checks)
    parts.append(
        f'<strong class="down">{count(broken, "check")} of {len(counts.checks)} found something.</strong>'
        if broken
        else f"All {len(counts.checks)} checks of keys, sources and identities hold."
    )
    return f'<p class="lede">{" ".join(parts)}</p>'


def key_facts(counts: Counts) -> str:
    """The great numbers below the headline."""
    people = sum(split.identities for split in counts.splits)
    facts = [("Samples", f"{counts.samples:,}")]
    if counts.sources is not None:
        facts.append(("Sources", f"{counts.sources:,}"))
    if counts.refused is not None:
        share = f" ({unit(counts.refused / counts.sources)})" if counts.sources and counts.refused else ""
        facts.append(("Refused", f"{counts.refused:,}{share}"))
    facts.append(("Without any label", f"{counts.unlabelled:,}"))
    facts.append(("Identities", f"{people:,}" if people else "unknown"))
    facts.append(("Shards", f"{sum(split.shards for split in counts.splits):,}"))
    facts.append(("Size", size(counts.member_bytes)))
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{cells}</dl>'


def size(count: int) -> str:
    """Bytes with a decimal unit."""
    value, names = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(names) > 1:
        value, names = value / 1000, names[1:]
    return f"{value:.{0 if names[0] == 'bytes' or value >= 100 else 1}f}{NARROW}{names[0]}"


def way_section(counts: Counts) -> str:
    """What each stage took in and refused, why, what it took, and the splits."""
    heads = ("Split", "Samples", "With labels", "Identities", "Shards")
    rows = [
        (
            split.name,
            f"{split.samples:,}",
            f"{split.labelled:,}",
            f"{split.identities:,}" if split.identities else DASH,
            f"{split.shards:,}",
        )
        for split in counts.splits
    ]
    splits = f"<h3>Splits</h3>{scroll(table(heads, rows))}" if rows else ""
    body = _stages(counts) + _refusals(counts)
    if counts.notices:
        notices = [(name, f"{number:,}") for name, number in counts.notices]
        body += f"<h3>Kept, but said</h3>{scroll(table(('Notice', 'Samples'), notices))}"
    return section("way", "From sources to samples", body + splits + _checks(counts))


def _stages(counts: Counts) -> str:
    if counts.sources is None or counts.refusals is None:
        missing = "source.parquet" if counts.sources is None else "quarantine.parquet"
        return f'<p class="note">{missing} is not there, so nothing is known of what was refused.</p>'
    heads = ["Stage", "Sources in", "Refused", "Sources out"]
    if counts.runs:
        heads += ["Time", "Images/s", "Workers"]
    rows, left = [], counts.sources
    for stage in STAGES:
        refused = sum(refusal.sources for refusal in counts.refusals if refusal.stage == stage)
        row = [stage, f"{left:,}", f"{refused:,}", f"{left - refused:,}"]
        left -= refused
        if run := counts.runs.get(stage):
            speed = f"{run.images / run.seconds:,.1f}" if run.seconds else DASH
            row += [duration(run.seconds), speed, f"{run.workers}"]
        elif counts.runs:
            row += [DASH] * 3
        rows.append(row)
    note = f"{count(left, 'source')} became {count(counts.samples, 'sample')}."
    if counts.runs:
        note += " Times are of each stage\u2019s last run that had shards to make, start of the workers included."
    return f'{scroll(table(heads, rows))}<p class="note">{note}</p>'


def _refusals(counts: Counts) -> str:
    if not counts.refusals:
        return ""
    heads = ("Refused because", "Stage", "Sources", "Such as")
    rows = "".join(
        f'<tr><th scope="row">{escape(refusal.reason)}</th><td>{refusal.stage}</td>'
        f'<td>{refusal.sources:,}</td><td class="text">{escape(refusal.example)}'
        f'<br><span class="soft">{escape(refusal.detail)}</span></td></tr>'
        for refusal in counts.refusals
    )
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return scroll(f'<table class="reasons"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>')


def _checks(counts: Counts) -> str:
    items = []
    for check in counts.checks:
        if not check.found:
            items.append(f'<li><b class="up">\u2713</b> {escape(check.promise)}</li>')
            continue
        more = ", \u2026" if check.found > len(check.examples) else ""
        shown = f": {escape(', '.join(check.examples))}{more}" if check.examples else ""
        items.append(
            f'<li><b class="down">\u2717</b> {escape(check.promise)} '
            f'<span class="down">({check.found:,} found{shown})</span></li>'
        )
    return (
        f'<h3>Checks</h3><ul class="checks">{"".join(items)}</ul><p class="note">Over the manifests. '
        "<code>python -m pipeline.verify</code> reads every byte of the shards back, too.</p>"
    )


def origin_section(counts: Counts, faces: Faces | None) -> str:
    """What the masks were made with, and which set this is about."""
    facts = [("shards.parquet (SHA-256)", counts.sha256)]
    if faces:
        for (name, pixels, weights), number in faces.parsers:
            text = f"{name or 'unknown'}{f' at {pixels} pixels' if pixels else ''}"
            text += f", weights (SHA-256) {weights}" if weights else ""
            facts.append((f"Parser of {number:,} of {count(faces.samples, 'face')} read", text))
        sizes = ", ".join(f"{side} \u00d7 {side} pixels ({number:,})" for side, number in faces.sizes)
        grid = len(faces.cells)
        facts += [("Faces", sizes), ("Stored grid of parts", f"{grid} \u00d7 {grid} cells")]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return section("origin", "Which set this is", f'<dl class="origin">{items}</dl>')
