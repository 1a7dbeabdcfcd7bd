"""A workdir goes on with a run of the same arguments only: each argument that changes a result is in its identity."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import data, engine, models, streams
from cljax.core.types import Forget
from cljax.io import identity

TRAINING = cljax.Recipe(batch_size=8, epochs=1)


def mlp(hidden=8, **more):
  return models.mlp((4, 4, 1), 4, hidden=(hidden,), **more)


def stream_of(dataset, **more):
  return streams.build(dataset, **{"kind": "class", "tasks": 2, "validation": 0.125, **more})


def rescaled_inputs(model, scale):
  def apply(params, state, x, **given):
    return model.apply(params, state, scale * x, **given)

  return model._replace(apply=apply)


def with_rate(rate):
  def method(model, spec):
    del model, spec
    return cljax.Method(terms={"pull": lambda key, params, learner, batch, outputs: rate * optax.tree.norm(params)})

  return method


def other_rows(stream):
  return stream._replace(train=(stream.train[0][1:], *stream.train[1:]))


def other_labels(stream):
  return stream._replace(labels=np.roll(stream.labels, 1, 1))


BASE = {"method": "er", "hyper": {"capacity": 8}}


# What differs from the base run, argument by argument; a dict is of `streams.build` where its key is "stream".
CHANGES = {
  "class_order": {"stream": {"class_order": (2, 1, 0, 3)}},
  "validation": {"stream": {"validation": 0.25}},
  "stream seed": {"stream": {"seed": 1}},
  "active": {"stream": {"active": "seen"}},
  "task_fractions": {"stream": {"task_fractions": (0.5, 1.0)}},
  "classes_per_task": {"stream": {"classes_per_task": (1, 3)}},
  "kind": {"stream": {"kind": "task"}},
  "order": {"stream": {"order": (0, 1, 0)}},
  "rows": {"stream": {"rows": 60}},
  "label_noise": {"stream": {"label_noise": 0.3}},
  "forget": {"stream": {"forget": "2:class=0"}, "method": "er", "forget": "finetune_retain"},
  "rows of a task": {"edit": other_rows},
  "labels of a task": {"edit": other_labels},
  "told tasks": {"edit": lambda s: s._replace(task_id_given=True)},
  "test rows": {"edit": lambda s: s._replace(test=(s.test[0][:-1], s.test[1]))},
  "validation rows": {"edit": lambda s: s._replace(validation=(s.validation[0][:-1], s.validation[1]))},
  "view": {"edit": lambda s: s._replace(view=s.view._replace(apply=lambda tables, x, task: x[:, ::-1]))},
  "model width": {"model": mlp(9)},
  "model activation": {"model": mlp(activation="tanh")},
  "model function": {"model": rescaled_inputs(mlp(), 2.0)},
  "model init": {"model": mlp()._replace(init=lambda key: jax.tree.map(lambda a: 0.5 * a, mlp().init(key)))},
  "method": {"method": "finetune", "hyper": {}},
  "static option": {"hyper": {"capacity": 9}},
  "traced option": {"method": "ewc", "hyper": {"strength": 2.0}},
  "method of one's own": {"method": with_rate(0.1), "hyper": {}},
  "optimizer": {"optimizer": "adam"},
  "learning rate": {"optimizer_options": {"learning_rate": 0.05}},
  "optimizer of one's own": {"optimizer": optax.sgd(0.1)},
  "batch size": {"training": TRAINING._replace(batch_size=4)},
  "epochs": {"training": TRAINING._replace(epochs=2)},
  "first task's epochs": {"training": TRAINING._replace(first_task_epochs=2)},
  "patience": {"training": TRAINING._replace(patience=2)},
  "precision": {"training": TRAINING._replace(precision="bfloat16")},
  "population's groups": {"options": cljax.Options(population_group=2)},
  "augment": {"training": TRAINING._replace(augment="flip")},
  "reset": {"training": TRAINING._replace(reset_per_task=True), "against": {"optimizer": "momentum"}},
  "schedule": {
    "training": TRAINING._replace(schedule_over="stream"),
    "against": {"optimizer_options": {"schedule": "linear"}},
  },
  "divergence": {"options": cljax.Options(on_divergence="freeze")},
  "presentations": {"options": cljax.Options(presentations=True)},  # what a result holds
  "log": {"options": cljax.Options(eval_log="none")},
  "no tasks ahead": {"options": cljax.Options(eval_ahead=False)},
  "log of a size": {"options": cljax.Options(eval_log_limit=1)},
  "seeds": {"seeds": [3]},
  "population": {"population": [engine.Member(0, {"optimizer.learning_rate": 0.01})]},
}
NEUTRAL = {
  "chunks": {"options": cljax.Options(chunk_steps=3)},
  "blocks": {"options": cljax.Options(eval_block=7)},
  "checkpoints": {"options": cljax.Options(checkpoint_every=2)},
  "ids": {"options": cljax.Options(checkpoint_keep_ids=False)},
  "interval": {"options": cljax.Options(max_interval_s=1.0)},
  "same model, built anew": {"model": mlp()},
}


def described(dataset, stream=None, edit=None, model=None, **change):
  made = stream_of(dataset, **(stream or {}))
  made = made if edit is None else edit(made)
  arguments = {**BASE, "training": TRAINING, "model": model or mlp(), **change}
  return dict(engine.prepare(made, **arguments).config())


@pytest.fixture(scope="module")
def base(dataset):
  return described(dataset)


@pytest.mark.parametrize("name", CHANGES)
def test_each_argument_that_changes_a_result_is_told_apart(dataset, base, name):
  change = dict(CHANGES[name])
  shared = change.pop("against", {})
  base = described(dataset, **shared) if shared else base
  differing = cljax.io.checkpoint.differences(base, described(dataset, **shared, **change))
  assert differing


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_changes_no_result_is_not(dataset, base, name):
  assert not cljax.io.checkpoint.differences(base, described(dataset, **NEUTRAL[name]))


def test_every_field_is_in_the_table():
  """A new field of the recipe or the options has to be put into one of the two tables."""
  tried = {
    f
    for c in [*CHANGES.values(), *NEUTRAL.values()]
    for k in ("training", "options")
    if k in c
    for f, v in c[k]._asdict().items()
    if v != (TRAINING if k == "training" else cljax.Options())._asdict()[f]
  }
  # Evaluations inside tasks make curves, feeds and limits of boundary rows are tried below.
  apart = {"eval_every", "eval_limit", "feed", "boundary_limit", "checkpoint_purge_before_deletion"}
  assert tried | apart == set(cljax.Recipe._fields) | set(cljax.Options._fields)


def test_evaluation_times_and_feeds(dataset, base):
  for options in (cljax.Options(eval_every=3), cljax.Options(eval_every=3, eval_limit=2), cljax.Options(feed="grain")):
    assert cljax.io.checkpoint.differences(base, described(dataset, options=options))
  grain = described(dataset, options=cljax.Options(feed="grain"))
  other = described(dataset, options=cljax.Options(feed="grain", boundary_limit=5))
  assert cljax.io.checkpoint.differences(grain, other)
  with pytest.raises(cljax.UsageError, match="boundary_limit"):  # without batches from the host nothing reads it
    described(dataset, options=cljax.Options(boundary_limit=5))


def test_code_of_ones_own_is_known_by_what_it_does(dataset):
  one, same, other = (described(dataset, method=with_rate(r), hyper={}) for r in (0.1, 0.1, 0.2))
  assert one == same
  (difference,) = cljax.io.checkpoint.differences(one, other)
  said = "code.parts (the code of the method, the objective or the optimizer is not what it was)"
  assert identity.told(difference) == said, "two digests say nothing"
  assert identity.told('stream: "a" -> "b"') == 'stream: "a" -> "b"'
  closed = jnp.arange(3.0)
  twice = [identity.traced_digest(lambda x, c=c: x + c, jnp.zeros(3)) for c in (closed, closed, closed + 1)]
  assert twice[0] == twice[1] != twice[2], "arrays that are closed over count"


@pytest.mark.parametrize("stop_early", [True, False])
def test_a_workdir_refuses_another_run(dataset, tmp_path, stop_early):
  """Stopped half way it would train a mixture of both; finished it would answer with the old result."""
  arguments = {"model": mlp(), **BASE, "training": TRAINING, "options": cljax.Options(chunk_steps=4)}
  if stop_early:
    asked = iter([False, True])
    with pytest.raises(cljax.Stopped):
      cljax.run(stream_of(dataset), **arguments, workdir=tmp_path, stop=lambda: next(asked, True))
  else:
    cljax.run(stream_of(dataset), **arguments, workdir=tmp_path)
  with pytest.raises(cljax.UsageError, match="stream_digest"):
    cljax.run(stream_of(dataset, class_order=(2, 1, 0, 3)), **arguments, workdir=tmp_path)
  with pytest.raises(cljax.UsageError, match=r"code\.model"):
    cljax.run(stream_of(dataset), **{**arguments, "model": mlp(activation="tanh")}, workdir=tmp_path)
  cljax.run(stream_of(dataset), **arguments, workdir=tmp_path)


def test_other_versions_do_not_refuse_the_same_code(dataset, tmp_path, monkeypatch):
  arguments = {"model": mlp(), **BASE, "training": TRAINING}
  cljax.run(stream_of(dataset), **arguments, workdir=tmp_path)
  told = []
  older = {**cljax.io.checkpoint.versions(), "jax": "0.0.1"}
  monkeypatch.setattr(cljax.io.checkpoint, "versions", lambda: older)
  cljax.run(stream_of(dataset), **{**arguments, "model": mlp(activation="tanh")}, workdir=tmp_path, report=told.append)
  assert any("0.0.1" in m.get("text", "") for m in told)
  with pytest.raises(cljax.UsageError, match="stream_digest"):
    cljax.run(stream_of(dataset, seed=5), **arguments, workdir=tmp_path)


def test_requests_are_part_of_it(dataset):
  of = lambda f: identity.stream_digest(stream_of(dataset, forget=[(2, f)]))
  assert len({of(Forget(classes=(0,))), of(Forget(classes=(1,))), of(Forget(classes=(0,), holds=("forget",)))}) == 3


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("field", ["x", "y", "group"])
def test_contents_that_were_replaced_are_told_apart(dataset, part, field):
  """A data set's digest is of what it was made of; what stands there now counts."""
  split = lambda s: {"x": s.x.copy(), "y": s.y, "group": s.group}
  arrays = {f"{k}_{end}": v for end in ("train", "test") for k, v in split(getattr(dataset, end)).items()}
  made = data.from_arrays("mine", arrays)
  base = described(made)
  old = getattr(made, part)
  changed = getattr(old, field)[::-1].copy()
  assert (changed != getattr(old, field)).any()
  other = made._replace(**{part: old._replace(**{field: changed})})
  assert any(d.startswith("data_changed") for d in cljax.io.checkpoint.differences(base, described(other)))
  copied = made._replace(**{part: old._replace(**{field: getattr(old, field).copy()})})
  assert described(copied) == base
