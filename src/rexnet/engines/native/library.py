"""The compiled library: where it is, why it may be missing, its functions."""

import ctypes
import os
from functools import cache
from hashlib import sha256
from pathlib import Path

from rexnet.errors import OptionError

_PRECISIONS = {"fp32": 0, "bf16": 1, "int8": 2}
_INSTRUCTIONS = {"fp32": "AVX2 or AVX-512", "bf16": "AVX-512 with bf16", "int8": "AVX-512 with VNNI and bf16"}
_INTERFACE = 2
"""Version of the library's interface (interface.cpp)."""
_OFF, _MASK = "REXNET_NATIVE", "REXNET_ISA"
_COMPILE = "pip install --force-reinstall --no-deps PATH/TO/CHECKOUT"


def why_missing(precision: str = "fp32") -> str | None:
    """Explain in one clause why the engine does not run in this precision here; None if it does."""
    if os.environ.get(_OFF) == "0":
        return f"{_OFF} is 0"
    if _file() is None:
        return (
            "it is not compiled, which needs 64-bit Linux on x86 and a C++ compiler when the package is installed "
            f"(Debian: apt install g++, then {_COMPILE})"
        )
    interface = getattr(load(), "rexnet_interface", lambda: 1)()
    if interface != _INTERFACE:
        return (
            f"it was compiled from other sources (interface {interface}, not {_INTERFACE}); install rexnet again: "
            f"{_COMPILE}"
        )
    if load().rexnet_instructions(_PRECISIONS[precision], _mask()) is None:
        return f"this CPU has no {_INSTRUCTIONS[precision]}" + (f", or {_MASK} hides it" if _mask() else "")
    return None


def version() -> str | None:
    """Identify the compiled library and the instructions that it may use; None where it does not run."""
    file = None if why_missing() else _file()
    return file and " ".join(filter(None, (sha256(file.read_bytes()).hexdigest()[:12], _mask().decode())))


@cache
def load() -> ctypes.CDLL:
    """Load the library and declare its functions (interface.cpp). ctypes releases the GIL during their calls."""
    library = ctypes.CDLL(str(_file()))
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("rexnet_instructions", ctypes.c_char_p, (integer, ctypes.c_char_p)),
        ("rexnet_open", pointer, (pointer, integer, ctypes.c_char_p, integer)),
        ("rexnet_close", None, (pointer,)),
        ("rexnet_bytes", ctypes.c_int64, (pointer,)),
        ("rexnet_run", ctypes.c_bool, (*(pointer, pointer), *(integer,) * 3, *(pointer,) * 3, integer)),
        ("rexnet_peak_macs", ctypes.c_double, (pointer, integer)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def open_arguments(precision: str) -> tuple[int, bytes]:
    """Return the precision and the mask of instructions as the library takes them."""
    return _PRECISIONS[precision], _mask()


def _mask() -> bytes:
    mask = os.environ.get(_MASK, "")
    if mask not in ("", "avx2"):
        raise OptionError(f"{_MASK} is {mask!r}; allowed: avx2, or nothing for all instructions of the CPU")
    return mask.encode()


@cache
def _file() -> Path | None:
    return next(iter(sorted(Path(__file__).parent.glob("kernels.*.so"))), None)
