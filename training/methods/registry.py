"""The list of methods, in the order of tables and plots."""

from typing import Final

from common.errors import UserError
from training.methods.imagenet import ImageNet
from training.methods.method import Method
from training.methods.pretrained import Pretrained
from training.methods.probe import LinearProbe
from training.methods.region_probe import RegionProbeMethod
from training.methods.scratch import Scratch
from training.methods.student import Student

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (Scratch(), LinearProbe(), RegionProbeMethod(), Pretrained(), Student(), ImageNet())
}
"""By name."""


def find_method(name: str) -> Method:
    """The method with a name.

    Raises:
        UserError: there is none.
    """
    if name not in METHODS:
        raise UserError(f"there is no method {name}; finetune.methods may name {', '.join(METHODS)}")
    return METHODS[name]
