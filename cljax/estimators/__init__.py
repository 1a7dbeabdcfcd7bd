"""Passes over data: the Fisher diagonal of each kind, MAS importance, layer inputs, class means."""

from cljax.estimators.fisher import default_kind, fisher_diagonal
from cljax.estimators.importance import mas_importance
from cljax.estimators.inputs import layer_inputs
from cljax.estimators.statistics import class_means

__all__ = ["class_means", "default_kind", "fisher_diagonal", "layer_inputs", "mas_importance"]
