"""Settings of a run as plain values, and what a run that goes on may have other than it began."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

Config = TypeVar("Config")

# A run may move to another machine or folder and still be the same run.
MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("data", "bad_image"),  # what the data is stands in data.json, and is compared
        *("device", "workers", "threads", "output", "overwrite", "resume", "save_minutes", "tensorboard"),
    }
)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain values for JSON; `config_from_dict` reads them back."""
    return asdict(config)


def config_from_dict(kind: type[Config], values: dict[str, Any]) -> Config:
    """The reverse of `config_to_dict`. ValueError for options that this version does not have, or has beside them."""
    return _from_dict(kind, values)


def _from_dict(kind: type, values: dict[str, Any]) -> Any:
    names = {option.name for option in fields(kind)}
    if unknown := sorted(values.keys() ^ names):
        raise ValueError(
            f"the saved settings differ from this version's in {', '.join(unknown)}; allowed: the same set"
        )
    types = get_type_hints(kind)
    return kind(
        **{
            name: _from_dict(types[name], value)
            if is_dataclass(types[name])
            else (tuple(value) if isinstance(value, list) else value)
            for name, value in values.items()
        }
    )


def changed_options(saved: Config, given: Config, *, may_change: frozenset[str] = MAY_CHANGE_ON_RESUME) -> list[str]:
    """The options, as "--lr 0.1 (was 0.5)", in which `given` would make another run of `saved`."""
    changes = []
    for group in fields(saved):  # pyright: ignore[reportArgumentType]
        old, new = getattr(saved, group.name), getattr(given, group.name)
        if is_dataclass(old):
            pairs = [(inner.name, getattr(old, inner.name), getattr(new, inner.name)) for inner in fields(old)]
        else:
            pairs = [(group.name, old, new)]
        changes += [
            f"--{name.replace('_', '-')} {after} (was {before})"
            for name, before, after in pairs
            if before != after and name not in may_change
        ]
    return changes
