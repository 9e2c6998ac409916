"""How a setting that cannot be is refused: one sentence with the option, the value got and what is allowed."""


class OptionError(ValueError):
    """An option's value that cannot be, whether that shows at once or only beside data, network or library."""


def require(holds: bool, option: str, value: object, allowed: str) -> None:
    """Raises OptionError unless `holds`; `option` is the field's name, which the command line spells with dashes."""
    if not holds:
        raise OptionError(f"--{option.replace('_', '-')} is {value}; allowed: {allowed}")
