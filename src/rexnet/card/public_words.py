"""What a run folder says, fit to be shown to everybody: as Markdown text, and without this machine's folders."""

import re
import shlex
from pathlib import PurePath
from urllib.parse import urlsplit, urlunsplit

from rexnet.models.hub import PREFIX
from rexnet.text import printable

# An underscore inside a word is plain text.
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>#|~$&]|\b_|_\b)")


def escaped(text: object) -> str:
    """Any text on one line of Markdown, so that no name becomes a heading, a link or HTML."""
    return _MARKDOWN.sub(r"\\\1", printable(str(text)))


def public_name(name: str) -> str:
    """A path outside the current folder becomes its last part, an address loses user, password and query."""
    if name.startswith(PREFIX):
        return name
    if "://" in name:
        parts = urlsplit(name)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    if name.startswith(("/", "~", "..")) or PurePath(name).is_absolute():
        return PurePath(name).name
    return name


def public_command(command: str) -> str:
    """The command line with public names in place of its own, on one line."""
    program, *words = shlex.split(command)
    program = PurePath(program).name
    shown = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        shown.append(option + equals + public_name(value))
    return printable(shlex.join(["rexnet" if program == "__main__.py" else program, *shown]))
