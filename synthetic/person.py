"""Random people: a person's lasting traits, and those of a single image.

The frequencies are those of CelebA's attribute file (see `frequencies`), so that a classifier's metrics on
the sample set meet the same imbalances and correlations.
"""

from dataclasses import dataclass

import numpy as np

from synthetic import frequencies as odds
from synthetic.attributes import CELEBA_ATTRIBUTES

GLASSES_ON = 0.7
"""Share of their images in which people who own spectacles wear them."""


@dataclass(frozen=True)
class Person:
    """What stays the same in all the images of one person. Lengths are in head units, the rest in 0..1."""

    male: bool
    young: bool
    melanin: float
    redness: float
    pale: bool
    rosy: bool
    face_width: float
    jaw: float
    chin: float
    nose_width: float
    nose_length: float
    lip_fullness: float
    mouth_width: float
    eye_size: float
    eye_tilt: float
    iris: tuple[float, float, float]
    brow_height: float
    brow_weight: float
    bushy: bool
    bags: bool
    hair: str
    hair_colour: tuple[float, float, float]
    style: str
    bangs: bool
    parting: float
    volume: float
    hair_length: float
    wave: float
    receding: float
    facial_hair: str
    mustache: bool
    wears_glasses: bool
    asymmetry: float

    @property
    def group(self) -> str:
        """Return the person's name in `frequencies.GROUPS`."""
        return _group(self.male, self.young)


@dataclass(frozen=True)
class Moment:
    """What changes from one image of a person to the next. Angles are in radians."""

    smile: float
    mouth_open: float
    gaze: tuple[float, float]
    lids: float
    yaw: float
    pitch: float
    glasses: str
    hat: str
    lipstick: bool
    earrings: str
    necklace: bool
    clothing: str
    blurry: bool
    neck_shift: float


def _group(male: bool, young: bool) -> str:
    return ("young " if young else "older ") + ("man" if male else "woman")


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _about(rng: np.random.Generator, mean: float, deviation: float) -> float:
    return mean + deviation * float(np.clip(rng.standard_normal(), -2.2, 2.2))


def _choice(rng: np.random.Generator, shares: dict[str, float]) -> str:
    share = np.array(list(shares.values()))
    return str(rng.choice(np.array(list(shares)), p=share / share.sum()))


def _melanin(rng: np.random.Generator, hair: str) -> float:
    """Draw a skin tone; fair and gray hair seldom go with dark skin, black hair goes with every skin."""
    factor = {"blond": 0.45, "auburn": 0.45, "brown": 0.75, "gray": 0.75, "black": 1.35}.get(hair, 1.0)
    return min(1.0, factor * float(rng.beta(1.5, 3.2)))


def draw_person(rng: np.random.Generator) -> Person:
    """Draw the lasting traits of a person who does not exist."""
    male = bool(rng.random() < odds.MALE)
    young = bool(rng.random() < odds.YOUNG[male])
    group = _group(male, young)
    pale = bool(rng.random() < odds.PALE[group])
    hair = _choice(rng, dict(zip(odds.HAIR_COLOURS, odds.HAIR_COLOUR_ODDS[group], strict=True)))
    melanin = _melanin(rng, hair)
    bald = bool(rng.random() < odds.BALD[group])
    bangs = not bald and bool(rng.random() < odds.BANGS[group] / (1 - odds.HAT[group]))
    style = _choice(rng, odds.STYLES[group])
    if bangs and style in ("swept", "cropped", "tied"):
        style = "short" if male else "long"
    facial_hair = _choice(rng, odds.FACIAL_HAIR_ODDS[group]) if male else "none"
    mustache = facial_hair == "mustache" or (facial_hair in ("goatee", "beard") and bool(rng.random() < 0.22))
    receding = not bangs and bool(rng.random() < odds.RECEDING[group])
    shade = _between(rng, 0.85, 1.18) if hair != "black" else _between(rng, 0.7, 1.15)
    base = odds.HAIR_COLOURS[hair]
    tint = _about(rng, 0.0, 0.04)
    bushy = bool(rng.random() < odds.BUSHY[group])
    return Person(
        male=male,
        young=young,
        melanin=0.0 if pale else 0.12 + 0.88 * melanin,
        redness=_between(rng, 0.0, 1.0),
        pale=pale,
        rosy=bool(rng.random() < odds.ROSY[group]),
        face_width=_about(rng, 1.10 if male else 1.06, 0.03),
        jaw=_about(rng, 0.70 if male else 0.34, 0.12),
        chin=_about(rng, 1.80 if male else 1.72, 0.035),
        nose_width=_about(rng, 0.32 if male else 0.275, 0.025),
        nose_length=_about(rng, 0.74 if male else 0.70, 0.025),
        lip_fullness=_about(rng, 0.92 if male else 1.02, 0.17),
        mouth_width=_about(rng, 0.44 if male else 0.42, 0.02),
        eye_size=_about(rng, 0.93 if male else 1.10, 0.08),
        eye_tilt=_about(rng, 0.01, 0.02),
        iris=_iris(rng, hair, melanin),
        brow_height=_about(rng, -0.27 if male else -0.31, 0.02),
        brow_weight=_between(rng, 1.5, 1.9) if bushy else _about(rng, 1.0 if male else 0.75, 0.1),
        bushy=bushy,
        bags=bool(rng.random() < odds.BAGS[group]),
        hair="bald" if bald else hair,
        hair_colour=(base[0] * shade * (1 + tint), base[1] * shade, base[2] * shade * (1 - tint)),
        style="bald" if bald else style,
        bangs=bangs,
        parting=_between(rng, -0.55, 0.55),
        volume=_between(rng, 0.0, 1.0),
        hair_length=_between(rng, 0.0, 1.0),
        wave=_between(rng, 0.6, 1.0) if rng.random() < odds.WAVY[group] else _between(rng, 0.0, 0.15),
        receding=_between(rng, 0.6, 1.0) if receding else _between(rng, 0.0, 0.25),
        facial_hair=facial_hair,
        mustache=mustache,
        wears_glasses=bool(rng.random() < odds.GLASSES[group] / GLASSES_ON),
        asymmetry=_about(rng, 0.0, 0.012),
    )


def _iris(rng: np.random.Generator, hair: str, melanin: float) -> tuple[float, float, float]:
    light = 0.55 if hair in ("blond", "auburn", "gray") else 0.25
    if melanin < 0.4 and rng.random() < light:
        palette = ((0.36, 0.50, 0.62), (0.42, 0.52, 0.44), (0.48, 0.52, 0.54))
    else:
        palette = ((0.30, 0.18, 0.10), (0.20, 0.12, 0.08), (0.38, 0.25, 0.13))
    return palette[int(rng.integers(len(palette)))]


def draw_moment(person: Person, rng: np.random.Generator) -> Moment:
    """Draw expression, pose and accessories of one image of a person."""
    group = person.group
    smiling = bool(rng.random() < odds.SMILING[group])
    opened = bool(rng.random() < odds.SMILE_OPENS_MOUTH[smiling])
    hat = bool(person.hair != "bald" and rng.random() < odds.HAT[group] / (1 - odds.BALD[group]))
    earrings = bool(rng.random() < odds.EARRINGS[group])
    necktie = bool(rng.random() < odds.NECKTIE[group])
    glasses = person.wears_glasses and bool(rng.random() < GLASSES_ON)
    return Moment(
        smile=_between(rng, 0.65, 1.0) if smiling else _between(rng, -0.12, 0.12),
        mouth_open=_between(rng, 0.12, 0.24) if opened else 0.0,
        gaze=(_about(rng, 0.0, 0.02), _about(rng, 0.005, 0.01)),
        lids=_between(rng, 0.9, 1.08),
        yaw=_about(rng, 0.0, 0.14),
        pitch=_about(rng, 0.0, 0.06),
        glasses=("none" if not glasses else "dark" if rng.random() < 0.25 else "clear"),
        hat=("none" if not hat else _choice(rng, {"cap": 0.45, "beanie": 0.25, "brim": 0.3})),
        lipstick=bool(rng.random() < odds.LIPSTICK[group]),
        earrings=("none" if not earrings else _choice(rng, {"stud": 0.2, "hoop": 0.4, "drop": 0.4})),
        necklace=bool(rng.random() < odds.NECKLACE[group]),
        clothing="tie" if necktie else _choice(rng, odds.CLOTHES[person.male]),
        blurry=bool(rng.random() < odds.BLURRY),
        neck_shift=_about(rng, 0.0, 0.08),
    )


def attributes_of(person: Person, moment: Moment, rng: np.random.Generator) -> dict[str, bool]:
    """Return all of CelebA's 40 attributes by name; those in `frequencies.COIN_ODDS` are drawn at random."""
    hatless = moment.hat == "none"
    haired = person.hair != "bald" and hatless
    visible = {
        "5_o_Clock_Shadow": person.facial_hair == "stubble",
        "Bags_Under_Eyes": person.bags,
        "Bald": person.hair == "bald",
        "Bangs": person.bangs and hatless,
        "Big_Lips": person.lip_fullness > 1.10,
        "Big_Nose": person.nose_width > 0.325,
        "Black_Hair": haired and person.hair == "black",
        "Blond_Hair": haired and person.hair == "blond",
        "Blurry": moment.blurry,
        "Brown_Hair": haired and person.hair == "brown",
        "Bushy_Eyebrows": person.bushy,
        "Eyeglasses": moment.glasses != "none",
        "Goatee": person.facial_hair == "goatee",
        "Gray_Hair": haired and person.hair == "gray",
        "Male": person.male,
        "Mouth_Slightly_Open": moment.mouth_open > 0,
        "Mustache": person.mustache,
        "Narrow_Eyes": person.eye_size * moment.lids < 0.86,
        "No_Beard": person.facial_hair == "none",
        "Pale_Skin": person.pale,
        "Receding_Hairline": haired and person.receding > 0.5 and person.style != "bald",
        "Rosy_Cheeks": person.rosy,
        "Smiling": moment.smile > 0.5,
        "Straight_Hair": haired and person.wave < 0.08 and person.style in ("long", "bob", "short"),
        "Wavy_Hair": haired and person.wave > 0.5,
        "Wearing_Earrings": moment.earrings != "none",
        "Wearing_Hat": not hatless,
        "Wearing_Lipstick": moment.lipstick,
        "Wearing_Necklace": moment.necklace,
        "Wearing_Necktie": moment.clothing == "tie",
        "Young": person.young,
    }
    random = {name: bool(rng.random() < share) for name, share in odds.COIN_ODDS.items()}
    return {name: visible[name] if name in visible else random[name] for name in CELEBA_ATTRIBUTES}
