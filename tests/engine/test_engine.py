"""The engine: what a run is made of, and what must not change when it is cut, fed or spread otherwise."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import engine, losses, methods, models, streams
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, AccessError, UsageError
from cljax.engine import recipe, schedule

TRAIN = cljax.Recipe(batch_size=8, epochs=2)


@pytest.fixture(scope="module")
def plain(class_stream, small_model):
  return cljax.run(class_stream, small_model, training=TRAIN, seeds=[3])


def test_finetune_is_a_hand_written_loop(class_stream, small_model, plain):
  """The whole run again in a dozen lines of optax: the same rows, the same parameters."""
  data, tx = class_stream.dataset.train, optax.sgd(0.1)
  params, _ = small_model.init(tree.fold(jax.random.key(3), "model"))
  opt = tx.init(params)
  deleted = np.zeros(len(data.y), bool)

  @jax.jit
  def step(params, opt, x, y, w):
    def loss(p):
      out, _ = small_model.apply(p, {}, x, train=True, key=None, task=None, mask=w)
      return losses.reduce(losses.cross_entropy(out.logits, y), w)

    updates, opt = tx.update(jax.grad(loss)(params), opt, params)
    return optax.apply_updates(params, updates), opt

  for t in range(2):
    plan = schedule.schedule(class_stream, list(range(t)), t, t, "current", TRAIN)
    index, _, weight = schedule.rows(plan, 3, 0, plan.steps, plan.steps, deleted)
    for i, w in zip(index, weight, strict=True):
      params, opt = step(params, opt, data.x[i], data.y[i], w.astype(np.float32))
  got = jax.tree.map(lambda a: a[0], plain.learner.params)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_accuracy_is_counted_right(class_stream, plain):
  test = class_stream.dataset.test
  logits = np.asarray(plain.predict(test.x))
  for t, rows in enumerate(class_stream.test):
    assert plain.accuracy[0, -1, t] == np.mean(logits[rows].argmax(-1) == test.y[rows])
    own = np.where(class_stream.classes_of_task[t], logits[rows], -np.inf)
    assert plain.task_accuracy[0, -1, t] == np.mean(own.argmax(-1) == test.y[rows])
  held, train = class_stream.validation, class_stream.dataset.train
  logits = np.asarray(plain.predict(train.x))
  for t, rows in enumerate(held):
    assert plain.validation[0, -1, t] == np.mean(logits[rows].argmax(-1) == train.y[rows])


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_any_size_give_the_same_bits(class_stream, small_model, plain, chunk):
  options = cljax.Options(chunk_steps=chunk)
  assert (
    cljax.run(class_stream, small_model, training=TRAIN, seeds=[3], options=options).params_sha256
    == plain.params_sha256
  )


def test_grain_feeds_the_same_bits(class_stream, small_model, plain):
  options = cljax.Options(feed="grain", chunk_steps=3)
  result = cljax.run(class_stream, small_model, training=TRAIN, seeds=[3], options=options)
  assert result.params_sha256 == plain.params_sha256
  np.testing.assert_array_equal(result.accuracy, plain.accuracy)
  assert result.compilations["feed"] == 1
  assert result.compilations["chunk"] == 0


def test_grain_feeds_boundary_passes_and_memories(class_stream, small_model):
  options = cljax.Options(chunk_steps=4)
  for name, hyper in (("ewc", {"strength": 1.0}), ("er", {"capacity": 8})):
    on_device = cljax.run(class_stream, small_model, name, hyper, training=TRAIN, options=options)
    fed = cljax.run(class_stream, small_model, name, hyper, training=TRAIN, options=options._replace(feed="grain"))
    assert fed.params_sha256 == on_device.params_sha256, name


def test_evaluation_inside_tasks_changes_nothing(class_stream, small_model, plain):
  options = cljax.Options(eval_every=3, eval_limit=5)
  result = cljax.run(class_stream, small_model, training=TRAIN, seeds=[3], options=options)
  assert result.params_sha256 == plain.params_sha256
  steps = [c["step"] for c in result.curves if c["task"] == 0]
  assert steps[:2] == [3, 6]
  assert all(np.shape(c["accuracy"]) == (1, 2) for c in result.curves)
  assert result.compilations["evaluate"] == 1


def test_a_grid_is_one_program_and_equals_single_runs(class_stream, small_model):
  grid = [
    cljax.Member(0, {"method.strength": s, "optimizer.learning_rate": lr}) for s in (0.0, 5.0) for lr in (0.1, 0.3)
  ]
  many = cljax.run(class_stream, small_model, "ewc", training=TRAIN, population=grid)
  assert many.compilations["chunk"] == 1
  assert len(set(many.params_sha256)) == 4
  one = cljax.run(
    class_stream, small_model, "ewc", {"strength": 5.0}, optimizer_options={"learning_rate": 0.3}, training=TRAIN
  )
  assert one.params_sha256[0] == many.params_sha256[3]


def test_batch_norm_and_dropout_run_and_keep_state(class_stream):
  model = models.cnn((4, 4, 1), 4, widths=(4, 4, 4), dropout=0.2)
  a = cljax.run(class_stream, model, training=TRAIN)
  b = cljax.run(class_stream, model, training=TRAIN)
  assert a.params_sha256 == b.params_sha256


def test_reset_per_task_and_first_task_epochs(class_stream, small_model):
  base = dict(optimizer="momentum", optimizer_options={"learning_rate": 0.05})
  kept = cljax.run(class_stream, small_model, training=TRAIN, **base)
  reset = cljax.run(class_stream, small_model, training=TRAIN._replace(reset_per_task=True), **base)
  assert kept.params_sha256 != reset.params_sha256
  np.testing.assert_array_equal(kept.accuracy[:, 1], reset.accuracy[:, 1])  # the first task is the same
  longer = cljax.run(class_stream, small_model, training=TRAIN._replace(first_task_epochs=5), **base)
  assert longer.steps == kept.steps + 3 * -(-len(class_stream.train[0]) // 8)


def test_joint_costs_what_the_others_cost_and_cumulative_does_not(class_stream, small_model, plain):
  joint = cljax.run(class_stream, small_model, "joint", training=TRAIN)
  cumulative = cljax.run(class_stream, small_model, "cumulative", training=TRAIN)
  assert joint.steps == plain.steps < cumulative.steps


def test_retraining_is_training_without_the_rows(dataset, small_model):
  """Retrain after a class was forgotten: the class is unknown; and with other rows the bits are those of such a run."""
  stream = streams.build(dataset, tasks=2, forget="2:class=1")
  result = cljax.run(stream, small_model, "finetune", forget="retrain", training=TRAIN)
  assert result.forgotten[0]["forget"][0] == 0.0
  # The retrained learner keeps nothing of the old one: it is a fresh run over a stream whose rows are at weight 0.
  gone = dataset.train.y == 1
  deleted_from_start = streams.build(dataset, tasks=2)
  plan = schedule.schedule(deleted_from_start, [], 0, 0, "current", TRAIN)
  _, _, weight = schedule.rows(plan, 0, 0, plan.steps, plan.steps, gone)
  assert 0 < (weight > 0).sum() < weight.size


def test_a_forgotten_row_never_comes_back(dataset, small_model):
  """After a request the rows have weight 0 in every later event: a later pass gives the same bits with other inputs."""
  victim = int(dataset.train.id[np.flatnonzero(dataset.train.y == 0)[0]])
  row = int(np.flatnonzero(dataset.train.id == victim)[0])
  stream = streams.build(dataset, tasks=2, validation=0.0, forget=f"1:ids={victim}")
  changed = dataset.train.x.copy()
  changed[row] += 100.0
  other = stream._replace(dataset=dataset._replace(train=dataset.train._replace(x=changed)))
  run = lambda s: cljax.run(s, small_model, "cumulative", forget="retrain", training=TRAIN)
  a, b = run(stream), run(other)
  assert a.params_sha256 == b.params_sha256
  np.testing.assert_array_equal(a.accuracy[:, 2:], b.accuracy[:, 2:])
  assert (a.accuracy[:, 1] != b.accuracy[:, 1]).any()  # before the request the row was trained on


def test_nan_stops_saves_and_says_where(class_stream, small_model, tmp_path):
  options = {"learning_rate": 1e30}
  with pytest.raises(cljax.DivergedError, match=r"loss became .* at step \d+ \(step \d+ of task 0\), seed 0"):
    cljax.run(class_stream, small_model, optimizer_options=options, training=TRAIN, workdir=str(tmp_path))
  # In its first event: the folder is free again, for a run of another configuration too.
  assert cljax.run(class_stream, small_model, "l2", training=TRAIN, workdir=str(tmp_path)).alive.all()


def test_a_dead_member_does_not_sink_the_rest(class_stream, small_model):
  grid = [cljax.Member(0, {"optimizer.learning_rate": lr}) for lr in (0.1, 1e30)]
  options = cljax.Options(on_divergence="freeze")
  result = cljax.run(class_stream, small_model, population=grid, training=TRAIN, options=options)
  assert result.alive.tolist() == [True, False]
  alone = cljax.run(class_stream, small_model, training=TRAIN)
  assert result.params_sha256[0] == alone.params_sha256[0]


def test_resume_with_another_config_is_refused(class_stream, small_model, tmp_path):
  cljax.run(class_stream, small_model, training=TRAIN, workdir=str(tmp_path))
  with pytest.raises(UsageError, match=r"training\.epochs: 2 -> 3"):
    cljax.run(class_stream, small_model, training=TRAIN._replace(epochs=3), workdir=str(tmp_path))


@pytest.mark.parametrize("kind", ["crop", "flip", "crop_flip"])
def test_augmentation_moves_pixels_only(kind):
  x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, size=(16, 14, 14, 1)), jnp.float32)
  out = np.asarray(recipe.make_augment(kind)(jax.random.key(0), x))
  assert out.shape == x.shape
  for a, b in zip(np.asarray(x), out, strict=True):
    assert set(np.unique(b)) <= set(np.unique(a)) | {0.0}
  if kind == "flip":
    flipped = [(b == a[:, ::-1]).all() for a, b in zip(np.asarray(x), out, strict=True)]
    assert 0 < sum(flipped) < 16


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_follow_their_formula(schedule):
  tx = recipe.scale_by_schedule(0.5, schedule, warmup=0.2)
  for p, shape in ((0.1, 0.5), (0.2, 1.0), (0.6, 0.5), (1.0, 0.0)):
    updates, _ = tx.update(jnp.ones(2), tx.init(None), progress=jnp.float32(p))
    np.testing.assert_allclose(updates, -0.5 * shape, atol=1e-6)


def undeclared(hook, **access):
  def factory(model, spec):
    del model
    if hook == "x":
      return Method(after_step=lambda k, l, info: l._replace(method_state=info.batch.x), init=lambda k, l: 0.0)
    if hook == "rows":
      return Method(end_task=lambda k, l, task: l._replace(method_state=task.rows.count), access=Access(**access))
    if hook == "boundary":
      return Method(end_task=lambda k, l, task: l)
    return Method(predict=lambda k, l, x, task: jnp.zeros((x.shape[0], spec.num_classes)) + task)

  return factory


@pytest.mark.parametrize(
  ("hook", "access", "said"),
  [
    ("x", {}, "Batch.x"),
    ("rows", {"task_boundaries": True}, "Task.rows"),
    ("boundary", {}, "does not declare Access\\(task_boundaries=True\\)"),
    ("task", {}, "task \\(Access.task_id_at_test\\)"),
  ],
)
def test_undeclared_inputs_are_withheld(class_stream, small_model, hook, access, said):
  with pytest.raises(AccessError, match=said):
    cljax.run(class_stream, small_model, undeclared(hook, **access), training=TRAIN)


def test_all_that_a_method_does_not_declare_is_said_at_once(class_stream, small_model):
  def factory(model, spec):
    del model, spec
    asks = lambda key, learner, *more: learner
    return Method(end_task=asks, forget=asks, access=Access(stores_data=True))

  with pytest.raises(AccessError) as error:
    cljax.run(class_stream, small_model, factory, training=TRAIN)
  for told in ("Access(task_boundaries=True)", "Access(forgets=True)", "has no scrub"):
    assert told in str(error.value)
  assert "\n" not in str(error.value)
  with pytest.raises(UsageError, match=r"^mine: got <function .*; expected cljax\.methods\.Entry\(factory, "):
    methods.register("mine", factory)


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"method": "ewcc"}, "method.name: unknown 'ewcc'; did you mean"),
    ({"method": "ewc", "hyper": {"strenght": 1.0}}, "method.strenght: 'ewc' has no such option; allowed: .*strength"),
    ({"method": "ewc", "hyper": {"strength": -1.0}}, "method.strength: got -1.0; expected a number of at least 0"),
    ({"method": "ewc", "hyper": {"strength": "abc"}}, "method.strength: got 'abc' of type str; expected float"),
    ({"method": "ewc", "hyper": {"fisher": "true"}}, "method.fisher: got 'true'; allowed: auto, exact"),
    ({"optimizer": "sdg"}, "optimizer.name: unknown 'sdg'"),
    ({"optimizer_options": {"lr": 0.1}}, "optimizer.lr: no such option"),
    ({"optimizer_options": {"learning_rate": -0.1}}, "optimizer.learning_rate: got -0.1"),
    ({"training": cljax.Recipe(batch_size=0)}, "train.batch_size: got 0"),
    ({"training": cljax.Recipe(augment="zoom")}, "train.augment: unknown 'zoom'"),
    ({"seeds": 0}, "seeds: got 0"),
    ({"seeds": [1, 1]}, "seeds: got list \\[1, 1\\]"),
    ({"population": [cljax.Member(0, {"method.x": 1.0})]}, "hyper: unknown 'method.x'"),
    ({"options": cljax.Options(chunk_steps=True)}, "train.chunk_steps: got True; expected an integer of at least 1"),
    ({"options": cljax.Options(max_interval_s="a")}, "checkpoint.max_interval_s: got 'a'; expected a positive number"),
    ({"options": cljax.Options(eval_block=10**11)}, "eval.block: got 100000000000; expected at most 2147483647"),
    ({"training": cljax.Recipe(epochs=10**30)}, "train.epochs: got 1000000000000000000000000000000; expected at most"),
    ({"options": cljax.Options(feed="disk")}, "train.feed: unknown 'disk'"),
  ],
)
def test_wrong_arguments_are_refused_in_one_line(class_stream, small_model, kwargs, said):
  with pytest.raises(UsageError, match=said) as error:
    cljax.run(class_stream, small_model, **kwargs)
  assert "\n" not in str(error.value)


def test_a_model_of_another_size_is_refused(class_stream):
  with pytest.raises(UsageError, match="model: gives logits of shape \\(3,\\); the stream has 4 classes"):
    cljax.run(class_stream, models.mlp((4, 4, 1), 3, hidden=(4,)))


def test_forget_events_need_a_method_that_forgets(dataset, small_model):
  stream = streams.build(dataset, tasks=2, forget="1:class=0")
  with pytest.raises(UsageError, match="asks to forget, but the method does not"):
    cljax.run(stream, small_model, "er", {"capacity": 8}, training=TRAIN)
  held = streams.build(dataset, tasks=2, forget=[(1, cljax.Forget(classes=(0,), holds=("forget",)))])
  with pytest.raises(UsageError, match="needs 'retain' data, but the request holds only forget"):
    cljax.run(held, small_model, "ssd", training=TRAIN)


def test_the_docstring_example_runs(monkeypatch, dataset):
  """The example of cljax.run as it stands, on digits."""
  found = doctest.DocTestFinder().find(engine.run, "run", globs={})
  outcome = doctest.DocTestRunner().run(found[0])
  assert outcome.attempted >= 8
  assert outcome.failed == 0


def test_a_run_stopped_in_evaluation_does_not_end_the_task_twice(class_stream, small_model, tmp_path, monkeypatch):
  """A stop while the matrix row is computed, after the boundary: the boundary is not run again."""
  from cljax.engine import loop

  evaluate = loop.evaluate
  calls = []

  def stopped(setup, state, hooks, partial=False):
    calls.append(state.event)
    if len(calls) == 2:
      hooks.save(state)
      raise cljax.Stopped("in the evaluation after the first task")
    return evaluate(setup, state, hooks, partial)

  arguments = (class_stream, small_model, "online_ewc", {"strength": 5.0})
  whole = cljax.run(*arguments, training=TRAIN)
  monkeypatch.setattr(loop, "evaluate", stopped)
  with pytest.raises(cljax.Stopped):
    cljax.run(*arguments, training=TRAIN, workdir=str(tmp_path))
  monkeypatch.setattr(loop, "evaluate", evaluate)
  assert cljax.run(*arguments, training=TRAIN, workdir=str(tmp_path)).params_sha256 == whole.params_sha256


def test_the_gradient_slot_owns_the_gradient(class_stream, small_model, plain):
  """A method that computes value_and_grad itself is finetune; one that halves it is finetune at half the rate."""

  def own(scale):
    def gradient(key, loss_fn, learner):
      out, grads = jax.value_and_grad(loss_fn, has_aux=True)(learner.params)
      return out, jax.tree.map(lambda g: scale * g, grads)

    return lambda model, spec: Method(gradient=gradient)

  same = cljax.run(class_stream, small_model, own(1.0), training=TRAIN, seeds=[3])
  assert same.params_sha256 == plain.params_sha256
  half = cljax.run(class_stream, small_model, own(0.5), training=TRAIN, seeds=[3])
  slow = cljax.run(class_stream, small_model, training=TRAIN, seeds=[3], optimizer_options={"learning_rate": 0.05})
  np.testing.assert_allclose(half.learner.params["head"]["kernel"], slow.learner.params["head"]["kernel"], atol=1e-6)


def test_boundaries_come_once_each_in_order(class_stream, small_model):
  """start_task and end_task see the task's number and all its rows, once, before and after its steps."""

  def factory(model, spec):
    def note(place):
      def hook(key, learner, task):
        seen = learner.method_state.at[place, task.id].set(jnp.stack([learner.step, task.rows.count]))
        return learner._replace(method_state=seen)

      return hook

    access = Access(task_boundaries=True, boundary_data=True)
    return Method(
      init=lambda key, learner: jnp.zeros((2, spec.num_tasks, 2), jnp.int32),
      start_task=note(0),
      end_task=note(1),
      access=access,
    )

  result = cljax.run(class_stream, small_model, factory, training=TRAIN)
  rows = [len(t) for t in class_stream.train]
  steps = [2 * -(-n // 8) for n in rows]
  want = [[[0, rows[0]], [steps[0], rows[1]]], [[steps[0], rows[0]], [sum(steps), rows[1]]]]
  np.testing.assert_array_equal(result.learner.method_state[0], want)


@pytest.mark.parametrize("options", [{}, {"feed": "grain"}, {"feed": "grain", "boundary_limit": 3}])
def test_a_task_says_how_many_rows_it_still_has(class_stream, small_model, options):
  """Without its rows and whatever part of them a boundary reads; deleted rows of a task to come do not count."""
  at = np.r_[np.asarray(class_stream.train[1])[:5], np.asarray(class_stream.train[0])[:1]]
  gone = np.asarray(class_stream.dataset.train.id)[at].tolist()
  asked = (
    [(1, cljax.Forget(ids=tuple(gone)))] if not options else []
  )  # rows that are fed from the host are for learning
  stream = streams.with_forget(class_stream, asked)

  def told(model, spec):
    del model
    note = lambda key, l, task: l._replace(method_state=l.method_state.at[task.id].add(jnp.float32(task.count)))
    return Method(
      init=lambda key, learner: jnp.zeros(spec.num_tasks),
      start_task=note,
      end_task=note,
      forget=lambda key, learner, request, tools: learner,
      access=Access(task_boundaries=True, forgets=True),
    )

  result = cljax.run(stream, small_model, told, training=TRAIN, options=cljax.Options(**options))
  sizes = [len(rows) for rows in class_stream.train]
  np.testing.assert_array_equal(result.learner.method_state, [[2 * sizes[0], 2 * (sizes[1] - 5 * bool(asked))]])
