"""Passes over data: the Fisher diagonal of each kind, MAS importance, Kronecker factors, layer inputs, class means,
and moments of features that rows join and leave."""

from cljax.estimators.fisher import default_kind, fisher_diagonal
from cljax.estimators.importance import mas_importance
from cljax.estimators.inputs import layer_inputs
from cljax.estimators.kronecker import Factors, kronecker_factors
from cljax.estimators.moments import Moments, Statistics, class_moments, second_moment
from cljax.estimators.statistics import class_means

__all__ = [
  "Factors",
  "Moments",
  "Statistics",
  "class_means",
  "class_moments",
  "default_kind",
  "fisher_diagonal",
  "kronecker_factors",
  "layer_inputs",
  "mas_importance",
  "second_moment",
]
