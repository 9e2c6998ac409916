"""How a setting that cannot be is refused: one sentence with the option, the value got and what is allowed."""


def require(holds: bool, option: str, value: object, allowed: str) -> None:
    """Raises ValueError unless `holds`; `option` is the field's name, which the command line spells with dashes."""
    if not holds:
        raise ValueError(f"--{option.replace('_', '-')} is {value}; allowed: {allowed}")
