"""Text from a run folder made fit to publish: escaped for Markdown and without this machine's folders."""

import re
import shlex
from pathlib import PurePath
from urllib.parse import urlsplit, urlunsplit

from rexnet.models.hub import PREFIX
from rexnet.text import printable

# An underscore inside a word is plain text.
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>#|~$&]|\b_|_\b)")


def escape(text: object) -> str:
    """Return any text as one line of Markdown, so that no name becomes a heading, a link or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(str(text)))


def public_name(name: str) -> str:
    """Return the last part of a path outside the current folder, and an address without user, password and query."""
    if name.startswith(PREFIX):
        return name
    if "://" in name:
        parts = urlsplit(name)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if name.startswith(("/", "~", "..")) or PurePath(name).is_absolute():
        return PurePath(name).name
    return name


def public_command(command: str) -> str:
    """Return the command line with public names for its arguments, on one line."""
    program, *arguments = shlex.split(command)
    program = PurePath(program).name
    shown = []
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        shown.append(option + equals + public_name(value))
    return printable(shlex.join(["rexnet" if program == "__main__.py" else program, *shown]))
