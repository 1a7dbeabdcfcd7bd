"""A registry's name means one thing, whichever registry it is in."""

import pytest

import cljax
from cljax import UsageError, evaluators, methods, objectives
from cljax.core import names
from cljax.objectives import registry


def test_a_name_of_another_kind_is_refused():
  entry = methods.METHODS["er"]
  for name, kind in (("recall", "an evaluator"), ("regression", "an objective")):
    with pytest.raises(
      UsageError, match=rf"^method.name: '{name}' is already the name of {kind}; a name means one thing$"
    ):
      methods.register(name, entry)
    assert name not in methods.METHODS
  with pytest.raises(UsageError, match=r"^evaluators: 'er' is already the name of a method; a name means one thing$"):
    evaluators.register(cljax.Evaluator("er", lambda *_: {}))
  assert "er" not in evaluators.EVALUATORS

  def er(model, spec):
    del model, spec

  with pytest.raises(UsageError, match=r"^objective\.name: 'er' is already the name of a method; a name means one"):
    registry.offered()(er)
  assert "er" not in objectives.OBJECTIVES


def test_no_name_is_in_two_tables():
  assert len(names.TABLES) == 3
  every = [name for table in names.TABLES.values() for name in table]
  assert len(every) == len({*every}) > 80
