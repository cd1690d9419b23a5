"""Explain an answer: which token supports which word, where the encoder looked, what else was possible.

explanation = model.explain(Request("cat.jpg"))
explanation.contributions  # (tokens, words)
write_page(explanation, Path("page.html"))
"""

from epalm.explain.explain import explain
from epalm.explain.explanation import Candidate, Explanation

__all__ = ["Candidate", "Explanation", "explain"]
