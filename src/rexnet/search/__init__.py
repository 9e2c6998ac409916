"""Search over the channels of every block under limits on cost (paper section 4), and the linear rule that it
yields."""

from typing import TYPE_CHECKING

from rexnet.lazy import lazy_names

if TYPE_CHECKING:
    from rexnet.search.shape import Line, fit_line
    from rexnet.search.space import Space, scaled_config

__all__ = ["Line", "Space", "fit_line", "scaled_config"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Line": "rexnet.search.shape",
        "Space": "rexnet.search.space",
        "fit_line": "rexnet.search.shape",
        "scaled_config": "rexnet.search.space",
    },
)
