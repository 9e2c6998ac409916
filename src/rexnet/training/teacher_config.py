"""Settings of distillation. A field is a command-line option, and the text under it is its help; defaults are defined
only here."""

from dataclasses import dataclass, fields
from typing import Annotated

from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import check_images
from rexnet.errors import OptionError, require
from rexnet.options import Argument
from rexnet.references import PREDICTABLE, resolve


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Distillation: trained networks whose predictions the network learns in addition to the labels."""

    teacher: tuple[str, ...] = ()
    """timm/NAME, a run folder or checkpoint, published weights or a file of `rexnet export`; the predictions of several
    are averaged. A teacher with other classes than DATA first gets a classifier for these, fitted on its features."""
    teacher_weights: str | None = None
    """File with the weights of a --teacher given by name, such as timm/NAME; None: download them."""
    unlabelled: str | None = None
    """Folder of additional images, with subfolders, for which only the teacher's predictions are learned; they are
    mixed with the images of DATA, and an epoch covers all of them."""
    temperature: float = 2.0
    """Temperature of the teacher's and the network's predictions in the loss; above 1, the less probable classes count
    more."""
    distillation_weight: float = 0.9
    """Weight of the teacher's predictions in the loss; the labels get the rest."""
    teacher_sha256: Annotated[tuple[str, ...], Argument(recorded=True)] = ()
    """SHA-256 of the weights of each teacher."""
    unlabelled_sha256: Annotated[str | None, Argument(recorded=True)] = None
    """SHA-256 of the names of the unlabelled images."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        holds = 0 < self.distillation_weight <= 1
        require(holds, "distillation_weight", self.distillation_weight, "above 0 and at most 1")
        if self.teacher_weights is not None and len(self.teacher) != 1:
            count = len(self.teacher)
            raise OptionError(
                f"--teacher-weights is {self.teacher_weights} with {count} teachers; allowed: with one teacher"
            )
        for field in fields(self) if not self.teacher else ():
            value = getattr(self, field.name)
            if value != field.default:
                name = field.name.replace("_", "-")
                raise OptionError(f"--{name} is {value}, which has no effect without --teacher; give one")

    def check(self, *, freeze: int | str, augment: AugmentConfig, balance: str, max_minutes: float | None) -> None:
        """Raise OptionError for a setting of the run that distillation cannot follow."""
        if self.teacher:
            require(freeze != "all", "freeze", freeze, "a number, with --teacher")
            require(max_minutes is None, "max_minutes", max_minutes, "None, with --teacher, whose time is not measured")
        if self.unlabelled is not None:
            for name in ("mixup", "cutmix"):
                require(not getattr(augment, name), name, getattr(augment, name), "0, with --unlabelled")
            require(balance != "sampler", "balance", balance, "none, loss, with --unlabelled")

    def check_sources(self) -> tuple[str, ...]:
        """Return the names of the teachers and their weights. Raise ValueError for one that does not exist, and for a
        folder without images."""
        for name in self.teacher:
            resolve(name, allowed=PREDICTABLE, option="--teacher").require_weights()
        weights = () if self.teacher_weights is None else (self.teacher_weights,)
        for name in weights:
            resolve(name, allowed=PREDICTABLE, option="--teacher-weights")
        if self.unlabelled is not None:
            check_images(self.unlabelled)
        return (*self.teacher, *weights)
