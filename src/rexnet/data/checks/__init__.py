"""The findings of `rexnet data check`."""
