"""How often traits and attributes occur: numbers measured on CelebA, so that metrics behave alike.

The odds per group were measured on a 12,001-image subset of CelebA's attribute file; those of traits that
the file does not list (hair styles, clothes, ways to wear a beard) are guesses.
"""

from typing import Final

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
"""CelebA's attributes depend on sex and age so much that all odds are given for these four."""

HAIR_COLOUR_ODDS: Final = {
    "young woman": (0.25, 0.27, 0.23, 0.001, 0.10, 0.149),
    "older woman": (0.13, 0.21, 0.34, 0.08, 0.12, 0.12),
    "young man": (0.42, 0.20, 0.03, 0.006, 0.05, 0.294),
    "older man": (0.19, 0.12, 0.03, 0.27, 0.05, 0.34),
}
"""In the order of `HAIR_COLOURS`."""

STYLES: Final = {
    "young woman": {"long": 0.64, "bob": 0.14, "tied": 0.19, "short": 0.03},
    "older woman": {"long": 0.40, "bob": 0.32, "tied": 0.15, "short": 0.13},
    "young man": {"short": 0.42, "swept": 0.30, "cropped": 0.22, "long": 0.06},
    "older man": {"short": 0.42, "swept": 0.30, "cropped": 0.22, "long": 0.06},
}
CLOTHES: Final = {
    False: {"crew": 0.35, "neckline": 0.45, "jacket": 0.2},
    True: {"shirt": 0.3, "crew": 0.4, "jacket": 0.3},
}
"""By sex, True for men; a necktie comes first."""

FACIAL_HAIR_ODDS: Final = {
    "young man": {"none": 0.57, "stubble": 0.22, "mustache": 0.035, "goatee": 0.075, "beard": 0.10},
    "older man": {"none": 0.62, "stubble": 0.10, "mustache": 0.10, "goatee": 0.08, "beard": 0.10},
}
SMILE_OPENS_MOUTH: Final = {True: 0.756, False: 0.222}
"""Odds of an open mouth, by whether there is a smile."""

MALE: Final = 0.425
YOUNG: Final = {False: 0.88, True: 0.65}
"""By sex, True for men."""

BLURRY: Final = 0.054
BALD: Final = dict(zip(GROUPS, (0.0, 0.0, 0.025, 0.11), strict=True))
BANGS: Final = dict(zip(GROUPS, (0.18, 0.35, 0.11, 0.03), strict=True))
GLASSES: Final = dict(zip(GROUPS, (0.021, 0.073, 0.066, 0.20), strict=True))
HAT: Final = dict(zip(GROUPS, (0.023, 0.023, 0.079, 0.089), strict=True))
SMILING: Final = dict(zip(GROUPS, (0.51, 0.64, 0.38, 0.41), strict=True))
LIPSTICK: Final = dict(zip(GROUPS, (0.82, 0.73, 0.01, 0.0), strict=True))
EARRINGS: Final = dict(zip(GROUPS, (0.28, 0.50, 0.018, 0.004), strict=True))
NECKLACE: Final = dict(zip(GROUPS, (0.18, 0.29, 0.02, 0.01), strict=True))
NECKTIE: Final = dict(zip(GROUPS, (0.0, 0.001, 0.116, 0.257), strict=True))
BAGS: Final = dict(zip(GROUPS, (0.09, 0.18, 0.27, 0.45), strict=True))
RECEDING: Final = dict(zip(GROUPS, (0.06, 0.06, 0.06, 0.25), strict=True))
ROSY: Final = dict(zip(GROUPS, (0.10, 0.11, 0.005, 0.005), strict=True))
WAVY: Final = dict(zip(GROUPS, (0.46, 0.50, 0.14, 0.12), strict=True))
BUSHY: Final = dict(zip(GROUPS, (0.073, 0.018, 0.314, 0.115), strict=True))
PALE: Final = dict(zip(GROUPS, (0.055, 0.043, 0.033, 0.022), strict=True))

DRAWN_ATTRIBUTES: Final = tuple(
    """
    5_o_Clock_Shadow Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair
    Bushy_Eyebrows Eyeglasses Goatee Gray_Hair Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Pale_Skin Receding_Hairline Rosy_Cheeks Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat
    Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
    """.split()  # noqa: SIM905
)
"""The attributes that can be seen in the image."""

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
"""The attributes that cannot be seen: drawn at random, independent of the image, with CelebA's frequency."""
