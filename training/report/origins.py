"""The page's part on data: what went in, the worst mistakes, and how to make it all again."""

from html import escape

from common.classes import CLASS_COLOURS, CLASS_TITLES, CLASSES
from common.page.charts import face_picture, heat_map, mask_picture
from common.page.elements import NARROW, count, scroll, section, table, words
from training.report.elements import title_of
from training.report.results import Presence, Results


def input_section(results: Results) -> str:
    """The data: splits, what was refused and why, faces with masks, where the parts are."""
    total = sum(split.faces for split in results.splits)
    refused = sum(count for _, count in results.refused)
    came = (
        f"{count(results.sources, 'input')} came in, of which" if results.sources is not None else "There are"
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
    tables = scroll(table(heads, rows))
    if results.refused:
        refusals = [(reason, f"{count:,}") for reason, count in results.refused]
        tables = f'<div class="two">{tables}{scroll(table(("Refused because", "Inputs"), refusals))}</div>'
    return section(
        "input", "What went in", text + tables + faces_section(results) + presence_section(results.presence)
    )


def faces_section(results: Results) -> str:
    """A grid of faces, each with its mask, and the legend of classes."""
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
        f'<h3>Faces and masks</h3><p class="note">{count(len(results.faces), "face")} of the '
        f"{escape(results.faces_split)} split; left and right are the person\u2019s.</p>"
        f'<div class="faces">{figures}</div><ul class="legend classes">{swatches}</ul>'
    )


def presence_section(presence: Presence | None) -> str:
    """One heat map per class over the cells of the stored grid."""
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
        f"{grid} \u00d7 {grid} grid, the more of {count(presence.samples, 'sample')} have the part there; "
        "beside the name, the share that have it at all."
        f'{missing}</p><div class="heats">{"".join(maps)}</div>'
    )


def mistakes_section(results: Results) -> str:
    """The most confident wrong answers, with their faces."""
    run, mistakes = results.mistakes
    if run is None:
        return ""
    intro = (
        f"<p>The most confident mistakes on the test split of the network {title_of(run.initial)} with "
        f"{count(run.faces, 'labelled face')}; some may be mistakes of the labels. At most one per face and "
        "two per attribute; p is the probability of a yes.</p>"
    )
    groups = []
    for label, title in ((False, "Yes, but the label says no"), (True, "No, but the label says yes")):
        figures = "".join(
            f'<figure><img src="{face_picture(m.face.image, 160)}" width="160" height="160" loading="lazy" '
            f'alt="Face {escape(m.face.key)}"><figcaption>{words(m.attribute)}<br><span class="soft">'
            f"p = {100 * m.probability:.1f}{NARROW}%</span></figcaption></figure>"
            for m in mistakes
            if m.label == label
        )
        if figures:
            groups.append(f'<h3>{title}</h3><div class="mistakes">{figures}</div>')
    empty = '<p class="note">There is none: every known test label was predicted right.</p>'
    return section("mistakes", "Mistakes", intro + ("".join(groups) or empty))


def reproduce_section(results: Results) -> str:
    """Commands, hash of the shards, versions, and the configuration."""
    uses = any("config.yaml" in command for command in results.commands)
    how = (
        "with the configuration below saved as <code>config.yaml</code>" if uses else "with this params.yaml"
    )
    facts = [("shards.parquet (SHA-256)", results.shards_sha256)]
    facts += [("Commit", results.commit)] if results.commit else []
    facts += [("Versions", ", ".join(f"{name} {version}" for name, version in results.versions))]
    body = (
        f"<p>In the project\u2019s folder, {how}:</p>"
        f'<pre class="commands">{escape(chr(10).join(results.commands))}</pre><dl class="origin">'
        + "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts)
        + "</dl>"
        + f"<details><summary>Configuration</summary><pre>{escape(results.config)}</pre></details>"
    )
    return section("reproduce", "How to reproduce it", body)
