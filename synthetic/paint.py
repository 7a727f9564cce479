"""From a person and a moment to a finished portrait: paint the parts, pose the head, take the photograph."""

from dataclasses import dataclass
from typing import Final
from zlib import crc32

import cv2
import numpy as np

from synthetic.accessories import earrings, glasses, hat, necklace
from synthetic.background import background
from synthetic.clothes import clothes
from synthetic.eyes import EYE_X, brows, eyes
from synthetic.geometry import CELEBA_EYES, Bytes, Camera, Canvas, Points, Pose
from synthetic.hair import hair, hair_behind
from synthetic.head import ears, face, neck, nose
from synthetic.layers import Painting
from synthetic.light import draw_light
from synthetic.mouth import facial_hair, lip_lines, mouth
from synthetic.person import Moment, Person, attributes_of
from synthetic.scene import Scene

PARTS: Final = (
    *(hair_behind, neck, clothes, necklace, ears, face, nose, facial_hair),
    *(mouth, eyes, brows, hair, earrings, glasses, hat),
)
"""The functions that paint all the parts, back to front; one returns no layers when the person does not have
the part. To draw one more attribute, write its function and name it here.
"""


@dataclass(frozen=True)
class Portrait:
    """An image and everything known about it.

    Attributes:
        image: uint8 RGB (height, width, 3).
        mask: uint8 (height, width), index into `common.classes.CLASSES`.
        landmarks: float64 (5, 2), pixel (x, y) of the eyes, the nose tip and the mouth corners, the image's
            left ones first: the order of CelebA's and RetinaFace's landmarks.
        attributes: CelebA's 40 attributes by name.
        roll: tilt of the face in degrees, positive clockwise on the screen.
    """

    image: Bytes
    mask: Bytes
    landmarks: Points
    attributes: dict[str, bool]
    roll: float


def paint_person(person: Person, moment: Moment, rng: np.random.Generator, wild: bool = False) -> Portrait:
    """Paint one portrait.

    Args:
        person: lasting traits, see `draw_person`.
        moment: expression, pose and accessories, see `draw_moment`.
        rng: drives light, textures, background and camera.
        wild: paint a larger image with the face anywhere, at any of several sizes and tilted by up to 30
            degrees, instead of CelebA's aligned 178 x 218.
    """
    half_width, reach = (3.5, 5.2) if wild else (2.75, 3.25)
    canvas = Canvas.spanning(-half_width, -3.1, half_width, reach)
    scene = Scene(canvas, person, moment, draw_light(rng), rng)
    painting = Painting(canvas)
    streams = rng.integers(0, 2**32, 2)
    for part in PARTS:
        scene.rng = np.random.default_rng([*streams, crc32(part.__name__.encode())])
        for layer in part(scene):
            painting.add(layer)
    pose = Pose(moment.yaw, moment.pitch)
    landmarks = pose.apply(head_landmarks(scene))
    camera = _wild_camera(landmarks[:2], rng) if wild else _aligned_camera(landmarks[:2], rng)
    image, mask = photograph(painting, pose, camera, background(rng, camera.height, camera.width))
    image = develop(image, moment.blurry, rng, camera.scale)
    attributes = attributes_of(person, moment, rng)
    return Portrait(image, mask, camera.apply(landmarks), attributes, float(np.degrees(camera.roll)))


def head_landmarks(scene: Scene) -> Points:
    """Return eyes, nose tip and mouth corners in head coordinates, float64 (5, 2)."""
    line = lip_lines(scene)[1]
    return np.array([(-EYE_X, 0.0), (EYE_X, 0.0), (0.0, scene.person.nose_length - 0.10), line[0], line[-1]])


def _aligned_camera(eyes_at: Points, rng: np.random.Generator) -> Camera:
    # CelebA's own alignment leaves about a pixel of error at the eyes.
    target = np.array(CELEBA_EYES) + np.clip(rng.normal(0, 0.6, (2, 2)), -1.5, 1.5)
    return Camera.bringing(eyes_at, target)


def _wild_camera(eyes_at: Points, rng: np.random.Generator) -> Camera:
    width, height = int(rng.integers(360, 560)), int(rng.integers(360, 560))
    distance = float(rng.uniform(26, 70))
    roll = float(np.radians(rng.uniform(-30, 30)))
    margin = 2.4 * distance
    middle = np.array([rng.uniform(margin, side - margin) for side in (width, height)])
    half = 0.5 * distance * np.array([np.cos(roll), np.sin(roll)])
    return Camera.bringing(eyes_at, [middle - half, middle + half], width, height)


def photograph(painting: Painting, pose: Pose, camera: Camera, behind: Bytes) -> tuple[Bytes, Bytes]:
    """Return image and mask as the camera sees a painting before a background, uint8, of the camera's size.

    Args:
        painting: the finished drawing.
        pose: turn of the head.
        camera: size and similarity of the image.
        behind: uint8 RGB (height, width, 3) of the camera's size.
    """
    canvas = painting.canvas
    x, y = pose.undo(*camera.rays())
    scale = np.float32(canvas.width / (canvas.x[-1] - canvas.x[0] + canvas.x[1] - canvas.x[0]))
    column = (x - np.float32(canvas.x[0])) * scale
    row = (y - np.float32(canvas.y[0])) * scale
    # Like film, compress the highlights instead of clipping them.
    exposed = painting.colour * (1.1 - 0.2 * painting.colour)
    drawing = np.empty((canvas.height, canvas.width, 4), np.uint8)
    drawing[:, :, :3] = np.clip(exposed * 255 + 0.5, 0, 255)
    drawing[:, :, 3] = painting.coverage * 255 + 0.5
    # Where an image pixel spans several drawing pixels, these are averaged first.
    spread = float(scale) / camera.scale
    if spread > 1.4:
        size = 2 * round(spread / 2) + 1
        drawing = cv2.GaussianBlur(drawing, (size, size), spread / 3.2).astype(np.uint8, copy=False)
    seen = cv2.remap(drawing, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    through = (255 - seen[:, :, 3:].astype(np.int32)) * behind
    image = np.clip(seen[:, :, :3].astype(np.int32) + (through + 127) // 255, 0, 255).astype(np.uint8)
    nearest_row = np.clip(np.rint(row), 0, canvas.height - 1).astype(np.int32)
    nearest_column = np.clip(np.rint(column), 0, canvas.width - 1).astype(np.int32)
    return image, painting.classes[nearest_row, nearest_column]


def develop(image: Bytes, blurry: bool, rng: np.random.Generator, scale: float) -> Bytes:
    """Return the image as the lens and the sensor leave it: exposure, blur and noise, uint8 RGB.

    `scale` is the distance between the eyes in pixels; blur grows with it.
    """
    contrast, brightness = rng.uniform(0.88, 1.18), rng.uniform(-14, 14)
    balance = 1 + rng.normal(0, 0.03, 3)
    levels = np.arange(256, dtype=np.float64)[:, None]
    table = np.clip((levels - 118) * contrast * balance + 118 + brightness, 0, 255).astype(np.uint8)
    toned = np.stack([table[:, channel][image[:, :, channel]] for channel in range(3)], axis=-1)
    sigma = (rng.uniform(1.3, 2.2) if blurry else rng.uniform(0.25, 0.7)) * scale / 38
    size = 2 * max(1, int(2.5 * sigma)) + 1
    soft = cv2.GaussianBlur(toned, (size, size), sigma)
    strength = rng.uniform(0.5, 2.8)
    grain = strength * rng.standard_normal((*image.shape[:2], 3), dtype=np.float32)
    grain = (grain + grain[:, :, 1:2]) * 0.6
    return np.clip(np.rint(soft + grain), 0, 255).astype(np.uint8)
