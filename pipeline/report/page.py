"""The data card as HTML. It stands alone: no script, no font, no picture is loaded, and every text that
comes from data is escaped.
"""

from html import escape
from pathlib import Path

from contract.files import write_text
from contract.layout import Layout
from contract.page.elements import document
from pipeline.report.attributes import attributes_section
from pipeline.report.counts import count
from pipeline.report.faces import look
from pipeline.report.facts import Counts, Faces
from pipeline.report.pictures import averages_section, faces_section, parts_section
from pipeline.report.tables import headline, key_facts, lede, origin_section, way_section


def report(layout: Layout, file: Path) -> None:
    """Write the data card of a set; equal shards and manifests give equal bytes.

    Args:
        layout: where the set lies.
        file: where the page goes.

    Raises:
        UserError: there are no finished shards, or they are broken.
    """
    counts = count(layout)
    write_text(file, page(counts, look(layout, counts)))
    print(f"card: {file}")


def page(counts: Counts, faces: Faces | None) -> str:
    """The whole page; `faces` is None for a set without samples."""
    title = f"Data card: {counts.dataset}"
    top = (
        f'<header><p class="over">{escape(title)}</p><h1>{headline(counts)}</h1>{lede(counts, faces)}</header>'
        f"{key_facts(counts)}"
    )
    sections = [
        averages_section(counts, faces),
        way_section(counts),
        faces_section(counts, faces),
        parts_section(counts, faces),
        attributes_section(counts, faces),
        origin_section(counts, faces),
    ]
    return document(title, top, sections)
