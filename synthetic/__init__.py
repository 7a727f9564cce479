"""The sample set: painted portraits of people who do not exist, in CelebA's layout.

Everything about a portrait is known by construction: its attributes, its identity, its landmarks and the
class of every pixel. The set is the demo's input, the tests' ground truth, and an unlimited source of data
for rehearsals at scale.

    person = draw_person(rng)
    portrait = paint_person(person, draw_moment(person, rng), rng)
    portrait.image, portrait.mask, portrait.landmarks, portrait.attributes

    write_dataset("data/sample", count=1200, seed=1)
"""

from synthetic.contact_sheet import write_contact_sheet
from synthetic.dataset import iterate_portraits, paint_portrait, write_dataset
from synthetic.frequencies import DRAWN_ATTRIBUTES
from synthetic.paint import Portrait, paint_person
from synthetic.person import Moment, Person, draw_moment, draw_person

__all__ = [
    "DRAWN_ATTRIBUTES",
    "Moment",
    "Person",
    "Portrait",
    "draw_moment",
    "draw_person",
    "iterate_portraits",
    "paint_person",
    "paint_portrait",
    "write_contact_sheet",
    "write_dataset",
]
