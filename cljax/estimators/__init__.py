"""Passes over data: the Fisher diagonal of each kind, MAS importance, layer inputs, class means."""

from cljax.estimators.fisher import fisher_diagonal
from cljax.estimators.importance import mas_importance

__all__ = ["fisher_diagonal", "mas_importance"]
