"""Exceptions of the package; each message is one sentence for the user.

ValueError
    OptionError             an option value that is not allowed
    MissingPackageError     an optional package that is not installed
    BadImageError           a file that contains no usable image
        TooManyPixelsError
    WeightsError            weights that cannot be used
        ModelError          a MODEL that is not allowed, which is an OptionError too
        DamagedFileError
        NotDownloadedError
    NonFiniteError          a training run whose losses are not finite
OSError
    LostProcessError        another process of the run has ended
"""

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rexnet.text import printable


class OptionError(ValueError):
    """An option value that is not allowed, in itself or for the given data, network or library."""


def require(holds: bool, option: str, value: object, allowed: str) -> None:
    """Raise OptionError unless `holds`, and for infinity; `option` is the field's name, which the command line spells
    with dashes."""
    if infinite := isinstance(value, float) and math.isinf(value):
        allowed = f"a finite number, {allowed}"
    if infinite or not holds:
        raise OptionError(f"--{option.replace('_', '-')} is {value}; allowed: {allowed}")


def require_at_least(settings: Any, least: float, *names: str, reason: str = "") -> None:
    """Raise OptionError unless these fields of a dataclass are `least` or more; None is allowed if it is the default.
    `reason`: why less is not allowed."""
    for name in names:
        value, optional = getattr(settings, name), type(settings).__dataclass_fields__[name].default is None
        allowed = f"{least} or more" + (", or None" if optional else "") + (f" ({reason})" if reason else "")
        require(optional if value is None else value >= least, name, value, allowed)


class MissingPackageError(ValueError):
    """An optional package that is not installed; the message ends with the pip command that installs it."""

    def __init__(self, what: str, package: str, install: str):
        super().__init__(f"{what} needs the package {package}: pip install {install}")


def require_package(what: str, package: str, install: str) -> None:
    """Raise MissingPackageError unless the package is installed; it is not imported."""
    if find_spec(package) is None:
        raise MissingPackageError(what, package, install)


class BadImageError(ValueError):
    """A file without a usable image. `path` is the name as given ("" for bytes), `reason` one clause."""

    def __init__(self, path: str | Path, reason: str):
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(f"{printable(path) or 'the given data'} cannot be used as an image: {reason}")

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class TooManyPixelsError(BadImageError):
    """An image with more pixels than the caller allows."""


class WeightsError(ValueError):
    """A weights file, name or state dict that cannot be used."""


class ModelError(WeightsError, OptionError):
    """A MODEL that does not exist or is of a kind that the command does not accept."""


class DamagedFileError(WeightsError):
    """A weights file whose content has changed since it was written. `finding` is the message without the advice."""

    def __init__(self, finding: str, advice: str = "download or save it again"):
        super().__init__(f"{finding}; {advice}")
        self.finding = finding


class NotDownloadedError(WeightsError):
    """Published weights that are not in the cache and cannot be downloaded. `finding` is the message without the
    advice."""

    def __init__(self, finding: str, advice: str):
        super().__init__(f"{finding}; {advice}")
        self.finding = finding


class NonFiniteError(ValueError):
    """Too many infinite or NaN losses or gradients; none of them has changed the weights."""


class LostProcessError(OSError):
    """Unexpected end of another process of the run, or of one that reads its images."""
