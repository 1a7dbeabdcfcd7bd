"""What a method lacks is said of the method, before a default of one of its options is refused that nobody gave."""

import numpy as np
import pytest

import cljax
from cljax import Access, Method, UsageError, data, engine, methods, models, streams

PAIRS = np.stack([np.arange(40) % 6, np.arange(40) % 8], 1).astype(np.int32)
TOKENS = np.random.default_rng(0).integers(0, 7, (40, 4)).astype(np.int32)


def refused(x, y, model, **given):
  key = lambda k, a: {f"{k}/{n}": v for n, v in a.items()} if isinstance(a, dict) else {k: a}
  rows = data.from_arrays("rows", {**key("x", x), "y": y, "group": np.arange(40) % 2})
  stream = streams.build(rows, "group", tasks=2, forget="2:ids=0-3" if "forget" in given else "")
  with pytest.raises(UsageError) as error:
    engine.prepare(stream, model, **given)
  assert "\n" not in str(error.value)
  return str(error.value)


def of_pairs(**given):
  model, options = models.matrix_factorisation(6, 8, 2), {"items": 8}
  return refused(PAIRS, np.zeros((40, 1), np.float32), model, objective="ranking", objective_options=options, **given)


def of_tokens(x=TOKENS, **given):
  return refused(x, TOKENS, models.transformer(4, 7, width=4, depth=1, heads=1), objective="sequence", **given)


def test_an_edit_is_refused_for_itself_and_not_for_its_default():
  lacks = "needs each, which the objective 'ranking' does not have"
  assert of_pairs(forget="ssd") == f"forget.name: 'ssd' {lacks}"
  assert of_pairs(method="ewc", hyper={"strength": 1.0}) == f"method.name: 'ewc' {lacks}"


def test_a_part_of_a_composition_is_named():
  def both(model, spec):
    made = {name: methods.make(name, model, spec) for name in ("finetune", "ncm")}
    return cljax.compose(**made)

  lacks = "needs classes, which the objective 'sequence' does not have"
  assert of_tokens(method=both) == f"method.name: 'ncm' {lacks}"
  own = lambda model, spec: Method(access=Access(needs=("classes",)))
  assert of_tokens(method=own) == f"method.name: the method of this factory {lacks}"


@pytest.mark.parametrize("augment", ["crop", "flip", "crop_flip"])
def test_text_has_no_sides_to_flip(augment):
  training = cljax.Recipe(augment=augment)
  said = f"train.augment: got {augment!r}, which needs images; inputs "
  assert of_tokens(training=training) == said + "have shape (4,)"
  assert of_tokens({"token": TOKENS}, training=training) == said + "are named, token"
