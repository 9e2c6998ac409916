"""The paper's design principles applied to well-known networks: advice on their layers, and rewritten networks."""

from rexnet.study.advice_config import Limits
from rexnet.study.principles.advice import Advice, Finding, advise
from rexnet.study.principles.changes import Change
from rexnet.study.principles.rewriting import Rewriting, rewrite

__all__ = ["Advice", "Change", "Finding", "Limits", "Rewriting", "advise", "rewrite"]
