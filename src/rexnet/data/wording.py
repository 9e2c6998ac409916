"""Words of messages that depend on what happened."""


def plural(number: int, noun: str) -> str:
    """The noun, with an s unless there is one of it."""
    return noun if number == 1 else f"{noun}s"


def reason_of(error: Exception) -> str:
    """Its words; an error of the system loses its number and the file, which the message around it names."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
