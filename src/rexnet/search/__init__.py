"""Search over the channels of every block under limits on cost (paper section 4), and the linear rule it leads to."""

from rexnet.search.space import Space
from rexnet.search.trend import Line, fit_line, scaled_config

__all__ = ["Line", "Space", "fit_line", "scaled_config"]
