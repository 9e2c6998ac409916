"""Errors of weights files; their texts are one sentence."""


class WeightsError(ValueError):
    """A weights file, name or state dict that cannot be used; its text is one sentence."""


class DamagedFileError(WeightsError):
    """A weights file that is not what was once written. `finding` is the text without its advice."""

    def __init__(self, finding: str, advice: str = "download or save it again"):
        super().__init__(f"{finding}; {advice}")
        self.finding = finding
