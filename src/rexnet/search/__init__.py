"""Search over the channels of every block under limits on cost (paper section 4), and the linear rule it leads to."""

from typing import TYPE_CHECKING

from rexnet.lazy import lazy_names

if TYPE_CHECKING:
    from rexnet.search.space import Space
    from rexnet.search.trend import Line, fit_line, scaled_config

__all__ = ["Line", "Space", "fit_line", "scaled_config"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Line": "rexnet.search.trend",
        "Space": "rexnet.search.space",
        "fit_line": "rexnet.search.trend",
        "scaled_config": "rexnet.search.trend",
    },
)
