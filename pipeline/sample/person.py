"""Who is painted: the draw of a person's lasting traits and of one picture's passing ones.

The frequencies are those of CelebA's attribute file, measured per sex and age on a 12,001-picture subset of
it, so that a classifier's metrics on the sample set meet the same imbalances and correlations.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from contract.attributes import CELEBA_ATTRIBUTES

HAIR_COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "black": (0.10, 0.085, 0.08),
    "brown": (0.34, 0.215, 0.135),
    "blond": (0.80, 0.64, 0.40),
    "gray": (0.66, 0.65, 0.64),
    "auburn": (0.45, 0.19, 0.09),
    "dark": (0.20, 0.14, 0.105),
}
"""Base colours, sRGB in 0..1; the last two carry none of CelebA's hair colour attributes."""

GROUPS: Final = ("young woman", "older woman", "young man", "older man")
HAIR_COLOUR_ODDS: Final = {
    "young woman": (0.25, 0.27, 0.23, 0.001, 0.10, 0.149),
    "older woman": (0.13, 0.21, 0.34, 0.08, 0.12, 0.12),
    "young man": (0.42, 0.20, 0.03, 0.006, 0.05, 0.294),
    "older man": (0.19, 0.12, 0.03, 0.27, 0.05, 0.34),
}
FACIAL_HAIR: Final = ("none", "stubble", "mustache", "goatee", "beard")
FACIAL_HAIR_ODDS: Final = {
    "young man": (0.57, 0.22, 0.035, 0.075, 0.10),
    "older man": (0.62, 0.10, 0.10, 0.08, 0.10),
}
BALD: Final = dict(zip(GROUPS, (0.0, 0.0, 0.025, 0.11), strict=True))
BANGS: Final = dict(zip(GROUPS, (0.18, 0.35, 0.11, 0.03), strict=True))
GLASSES: Final = dict(zip(GROUPS, (0.021, 0.073, 0.066, 0.20), strict=True))
HAT: Final = dict(zip(GROUPS, (0.023, 0.023, 0.079, 0.089), strict=True))
SMILING: Final = dict(zip(GROUPS, (0.51, 0.64, 0.38, 0.41), strict=True))
LIPSTICK: Final = dict(zip(GROUPS, (0.82, 0.73, 0.01, 0.0), strict=True))
EARRINGS: Final = dict(zip(GROUPS, (0.28, 0.50, 0.018, 0.004), strict=True))
NECKLACE: Final = dict(zip(GROUPS, (0.18, 0.29, 0.02, 0.01), strict=True))
NECKTIE: Final = dict(zip(GROUPS, (0.0, 0.001, 0.116, 0.257), strict=True))
BUSHY: Final = dict(zip(GROUPS, (0.073, 0.018, 0.314, 0.115), strict=True))
PALE: Final = dict(zip(GROUPS, (0.055, 0.043, 0.033, 0.022), strict=True))
MALE_ODDS: Final = 0.425
YOUNG_ODDS: Final = {False: 0.88, True: 0.65}

DRAWN_ATTRIBUTES: Final = tuple(
    """
    5_o_Clock_Shadow Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair
    Bushy_Eyebrows Eyeglasses Goatee Gray_Hair Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Pale_Skin Receding_Hairline Rosy_Cheeks Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat
    Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
    """.split()  # noqa: SIM905
)
"""The attributes that can be seen in the picture."""

COIN_ODDS: Final = {
    "Arched_Eyebrows": 0.267,
    "Attractive": 0.511,
    "Chubby": 0.056,
    "Double_Chin": 0.044,
    "Heavy_Makeup": 0.381,
    "High_Cheekbones": 0.446,
    "Oval_Face": 0.278,
    "Pointy_Nose": 0.271,
    "Sideburns": 0.060,
}
"""The attributes that cannot be seen: drawn by lot, independent of the picture, with CelebA's frequency."""


@dataclass(frozen=True)
class Person:
    """What stays the same in all the pictures of one person. Lengths are in head units, the rest in 0..1."""

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
        """Return the person's name in `GROUPS`."""
        return ("young " if self.young else "older ") + ("man" if self.male else "woman")


@dataclass(frozen=True)
class Moment:
    """What changes from one picture of a person to the next. Angles are in radians."""

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


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _about(rng: np.random.Generator, mean: float, deviation: float) -> float:
    return mean + deviation * float(np.clip(rng.standard_normal(), -2.2, 2.2))


def _choice(rng: np.random.Generator, names: tuple[str, ...], odds: tuple[float, ...]) -> str:
    return str(rng.choice(np.array(names), p=np.array(odds) / sum(odds)))


def draw_person(rng: np.random.Generator) -> Person:
    """Draw the lasting traits of a person who does not exist."""
    male = bool(rng.random() < MALE_ODDS)
    young = bool(rng.random() < YOUNG_ODDS[male])
    group = ("young " if young else "older ") + ("man" if male else "woman")
    pale = bool(rng.random() < PALE[group])
    hair = _choice(rng, tuple(HAIR_COLOURS), HAIR_COLOUR_ODDS[group])
    # Fair hair and gray hair seldom go with dark skin; black hair goes with every skin.
    melanin = float(rng.beta(1.5, 3.2))
    if hair in ("blond", "auburn"):
        melanin *= 0.45
    elif hair in ("brown", "gray"):
        melanin *= 0.75
    elif hair == "black":
        melanin = min(1.0, melanin * 1.35)
    bald = bool(rng.random() < BALD[group])
    bangs = not bald and bool(rng.random() < BANGS[group] * 1.06)
    if male:
        style = _choice(rng, ("short", "swept", "cropped", "long"), (0.42, 0.30, 0.22, 0.06))
    elif young:
        style = _choice(rng, ("long", "bob", "tied", "short"), (0.64, 0.14, 0.19, 0.03))
    else:
        style = _choice(rng, ("long", "bob", "tied", "short"), (0.40, 0.32, 0.15, 0.13))
    if bangs and style in ("swept", "cropped", "tied"):
        style = "short" if male else "long"
    facial_hair = _choice(rng, FACIAL_HAIR, FACIAL_HAIR_ODDS[group]) if male else "none"
    mustache = facial_hair == "mustache" or (facial_hair in ("goatee", "beard") and bool(rng.random() < 0.22))
    waved = 0.46 if not male else 0.13
    shade = _between(rng, 0.85, 1.18) if hair != "black" else _between(rng, 0.7, 1.15)
    base = HAIR_COLOURS[hair]
    tint = _about(rng, 0.0, 0.04)
    bushy = bool(rng.random() < BUSHY[group])
    return Person(
        male=male,
        young=young,
        melanin=0.0 if pale else 0.12 + 0.88 * melanin,
        redness=_between(rng, 0.0, 1.0),
        pale=pale,
        rosy=bool(rng.random() < (0.005 if male else 0.10)),
        face_width=_about(rng, 1.10 if male else 1.06, 0.03),
        jaw=_about(rng, 0.70 if male else 0.34, 0.12),
        chin=_about(rng, 1.80 if male else 1.72, 0.035),
        nose_width=_about(rng, 0.32 if male else 0.275, 0.025),
        nose_length=_about(rng, 0.74 if male else 0.70, 0.025),
        lip_fullness=_about(rng, 0.85 if male else 1.12, 0.17),
        mouth_width=_about(rng, 0.44 if male else 0.42, 0.02),
        eye_size=_about(rng, 0.93 if male else 1.10, 0.08),
        eye_tilt=_about(rng, 0.01, 0.02),
        iris=_iris(rng, hair, melanin),
        brow_height=_about(rng, -0.27 if male else -0.31, 0.02),
        brow_weight=_between(rng, 1.5, 1.9) if bushy else _about(rng, 1.0 if male else 0.75, 0.1),
        bushy=bushy,
        bags=bool(
            rng.random() < {"young woman": 0.09, "older woman": 0.18, "young man": 0.27}.get(group, 0.45)
        ),
        hair="bald" if bald else hair,
        hair_colour=(base[0] * shade * (1 + tint), base[1] * shade, base[2] * shade * (1 - tint)),
        style="bald" if bald else style,
        bangs=bangs,
        parting=_between(rng, -0.55, 0.55),
        volume=_between(rng, 0.0, 1.0),
        hair_length=_between(rng, 0.0, 1.0),
        wave=_between(rng, 0.6, 1.0) if rng.random() < waved else _between(rng, 0.0, 0.15),
        receding=_between(rng, 0.6, 1.0)
        if not bangs and rng.random() < {"older man": 0.25}.get(group, 0.06)
        else _between(rng, 0.0, 0.25),
        facial_hair=facial_hair,
        mustache=mustache,
        wears_glasses=bool(rng.random() < min(1.0, GLASSES[group] * 1.4)),
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
    """Draw expression, pose and accessories of one picture of a person."""
    group = person.group
    smiling = bool(rng.random() < SMILING[group])
    opened = bool(rng.random() < (0.756 if smiling else 0.222))
    hat = bool(person.hair != "bald" and rng.random() < HAT[group] * 1.03)
    earrings = bool(rng.random() < EARRINGS[group])
    necktie = bool(rng.random() < NECKTIE[group])
    glasses = person.wears_glasses and bool(rng.random() < 1 / 1.4)
    if necktie:
        clothing = "suit"
    elif person.male:
        clothing = _choice(rng, ("shirt", "crew", "jacket"), (0.3, 0.4, 0.3))
    else:
        clothing = _choice(rng, ("crew", "neckline", "jacket"), (0.35, 0.45, 0.2))
    return Moment(
        smile=_between(rng, 0.65, 1.0) if smiling else _between(rng, -0.12, 0.12),
        mouth_open=_between(rng, 0.12, 0.24) if opened else 0.0,
        gaze=(_about(rng, 0.0, 0.02), _about(rng, 0.005, 0.01)),
        lids=_between(rng, 0.9, 1.08),
        yaw=_about(rng, 0.0, 0.14),
        pitch=_about(rng, 0.0, 0.06),
        glasses=("none" if not glasses else "dark" if rng.random() < 0.25 else "clear"),
        hat=("none" if not hat else _choice(rng, ("cap", "beanie", "brim"), (0.45, 0.25, 0.3))),
        lipstick=bool(rng.random() < LIPSTICK[group]),
        earrings=("none" if not earrings else _choice(rng, ("stud", "hoop", "drop"), (0.2, 0.4, 0.4))),
        necklace=bool(rng.random() < NECKLACE[group]),
        clothing="tie" if necktie else clothing,
        blurry=bool(rng.random() < 0.054),
        neck_shift=_about(rng, 0.0, 0.08),
    )


def attributes_of(person: Person, moment: Moment, rng: np.random.Generator) -> dict[str, bool]:
    """Return all of CelebA's 40 attributes by name; those in `COIN_ODDS` are drawn by lot."""
    hatless = moment.hat == "none"
    haired = person.hair != "bald" and hatless
    seen = {
        "5_o_Clock_Shadow": person.facial_hair == "stubble",
        "Bags_Under_Eyes": person.bags,
        "Bald": person.hair == "bald",
        "Bangs": person.bangs and hatless,
        "Big_Lips": person.lip_fullness > 1.15,
        "Big_Nose": person.nose_width > 0.325,
        "Black_Hair": haired and person.hair == "black",
        "Blond_Hair": haired and person.hair == "blond",
        "Blurry": moment.blurry,
        "Brown_Hair": haired and person.hair == "brown",
        "Bushy_Eyebrows": person.bushy,
        "Eyeglasses": moment.glasses != "none",
        "Goatee": person.facial_hair in ("goatee",),
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
    lot = {name: bool(rng.random() < odds) for name, odds in COIN_ODDS.items()}
    return {name: seen[name] if name in seen else lot[name] for name in CELEBA_ATTRIBUTES}
