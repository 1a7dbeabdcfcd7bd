"""The contract suite: what every entry of the registry must satisfy. Arguments stand in the records.

What is compiled is what costs: nearly all laws of an entry are tried by the programs of one run of two members.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import records
from bench import BATCH, Bench, Looped, assert_near, assert_same, renamed

import cljax
from cljax import engine, methods, optimizers, projectors, streams
from cljax.core import tree
from cljax.engine import loop
from cljax.engine.setup import spec_of

NAMES = sorted(methods.METHODS)
FORGET = [n for n in NAMES if methods.METHODS[n].access.forgets]


def only_forgets(access: cljax.Access) -> bool:
  """An unlearning method that takes no part in training."""
  shown = {"forgets", "forget_data", "retain_data", "prefix"}
  return access.forgets and not any(v is True for k, v in access._asdict().items() if k not in shown)


EDITS = [n for n in FORGET if only_forgets(methods.METHODS[n].access) and not methods.METHODS[n].access.prefix]
LEARN = [n for n in NAMES if not methods.METHODS[n].access.prefix and n not in EDITS]


def each(names):
  """One test for each method; those of a method share a worker, so that its programs are built once."""
  return pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in names])


NEUTRAL = {n: records.method(n).neutral for n in LEARN if records.method(n).neutral is not None}
STRICT = [n for n in NEUTRAL if not methods.METHODS[n].access.stores_data]

OPTIONS = cljax.Options(chunk_steps=2)  # one shape for every run here, so that programs are compiled once


UNTRAINED = ("continual_clip",)  # knows what its network knows from the start, which here is nothing


def stream_for(name, request):
  kind = "task_stream" if methods.METHODS[name].access.task_id_at_test else "class_stream"
  return request.getfixturevalue(kind)


def prepare(name, stream, model, hyper=None, **kwargs):
  training = cljax.Recipe(batch_size=BATCH, epochs=2)
  arguments = {"training": training, "options": OPTIONS, **kwargs}
  return engine.prepare(stream, model, name, {**records.arguments(name), **(hyper or {})}, **arguments)


def member(tree, i):
  return jax.tree.map(lambda a: a[i] if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else np.asarray(a)[i], tree)


@pytest.fixture(scope="module")
def built():
  """What was built for one method at a time, and for finetune: a process can hold only so many programs."""
  made = {}

  def get(name, key, make):
    if name != "finetune":
      for other in [k for k in made if k[0] not in (name, "finetune")]:
        del made[other]
    if (name, key) not in made:
      made[name, key] = make()
    return made[name, key]

  return get


@pytest.fixture(scope="module")
def bench(request, built, small_model):
  """Benches by method and arguments, built once each."""

  def get(name, **kwargs):
    return built(
      name, repr(kwargs), lambda: Bench(name, stream_for(name, request), records.network(name, small_model), **kwargs)
    )

  return get


@pytest.fixture(scope="module")
def prepared(request, built, small_model):
  """Two-seed runs by method name and arguments, compiled once each."""

  def get(name, **hyper):
    model = records.network(name, small_model)
    make = lambda: prepare(name, stream_for(name, request), model, hyper, seeds=2)
    return built(name, f"prepared {hyper}", make)

  return get


@pytest.fixture(scope="module")
def looped(prepared):
  """Their programs, to be called step by step."""
  return lambda name, **hyper: Looped(prepared(name, **hyper))


@pytest.fixture(scope="module")
def finished(built, prepared):
  """Their results, run once each."""
  return lambda name: built(name, "finished", lambda: prepared(name).run())


@each(LEARN + EDITS)
def test_entry_is_documented(name):
  entry = methods.METHODS[name]
  assert entry.reference
  assert (entry.factory.__doc__ or "").strip()
  for key in records.arguments(name):
    assert key in entry.options


@each(LEARN)
def test_runs_in_one_compilation(name, finished):
  result = finished(name)
  assert result.compilations["chunk"] == 1
  assert all(count <= 1 for count in result.compilations.values())
  assert np.isfinite(result.accuracy).all()
  assert result.alive.all()
  # The last task is learned: a run that learns nothing proves nothing.
  assert result.task_accuracy[:, -1, -1].mean() > 0.6 or name in UNTRAINED


@each(LEARN)
def test_carry_is_stable(name, prepared, finished):
  """What goes into the first event comes out of the last: trees, shapes and dtypes, through every hook."""
  setup, result = prepared(name).setup, finished(name)
  first = setup.programs.init.shape(*loop.init_arguments(setup))
  assert jax.tree.structure(result.learner) == jax.tree.structure(first)
  shapes = lambda t: [(x.shape, x.dtype) for x in jax.tree.leaves(t)]
  assert shapes(result.learner) == shapes(first)


@each(["derpp", "ewc", "gpm", "lwf", "supsup"])
def test_population_equals_single_runs(name, finished, request, small_model):
  """lax.map over seeds against a run of one seed, to the bit: a property of the engine, tried on each kind of state."""
  single = prepare(name, stream_for(name, request), small_model, seeds=[1]).run()
  assert single.params_sha256[0] == finished(name).params_sha256[1]
  np.testing.assert_array_equal(single.accuracy[0], finished(name).accuracy[1])


# Step by step, each operation is compiled by itself, which costs more than all else here: one of each kind of hook.
EAGER = ["agem", "derpp", "gpm", "lwf", "zeroth_order"]


@each(EAGER)
def test_jit_equals_no_jit(name, looped):
  looped = looped(name)
  learner = looped.train(steps=2, tasks=(0,))
  one = member(learner, 0)
  compiled = looped.steps(learner, 1, 1, met=(0,))
  with jax.disable_jit():
    plain = looped.parts.step(jax.tree.map(jnp.asarray, one), *looped.arguments(1, met=(0,)))[0]
  assert_near(plain.params, member(compiled.params, 0))


def neutral_run(name, looped):
  """Three steps on each of two tasks at the neutral values; floats need no program of their own."""
  neutral = NEUTRAL[name]
  static = {k: v for k, v in neutral.items() if not isinstance(v, float)}
  return looped(name, **static).train(**{k: v for k, v in neutral.items() if k not in static})


@each(STRICT)
def test_neutral_strength_is_the_base_run(name, looped):
  """At neutral strength the parameters are those of plain training, to the bit."""
  assert_same(neutral_run(name, looped).params, looped("finetune").train().params)


@each([n for n in NEUTRAL if n not in STRICT])
def test_replay_is_neutral_to_tolerance(name, looped):
  """Appended rows of weight 0 change the order of sums, so a replay method is neutral to float tolerance only."""
  assert_near(neutral_run(name, looped).params, looped("finetune").train().params)


@each(LEARN)
def test_vmap_equals_loop_and_rows_of_weight_zero_are_as_if_absent(name, bench, looped):
  """Two members by vmap (the accelerator's strategy) on twice the rows, half of them at weight 0, against a run's loop
  over them on the half: the same learners, to float tolerance."""
  weight = np.r_[np.ones(BATCH), np.zeros(BATCH)].astype(np.int32)
  # A memory draws a number for each row slot, so a wide batch replays other rows: compare the first step.
  how = {"steps": 1, "tasks": (0,)} if methods.METHODS[name].access.stores_data else {"steps": 2}
  wide = bench(name, rows=2 * BATCH, members=2).train(weight=weight, **how)
  assert_near(wide.params, looped(name).train(weight=weight[:BATCH], **how).params, 1e-4)


@each([n for n in LEARN if methods.METHODS[n].access.stores_data])
def test_vmap_equals_loop_with_a_memory(name, bench, looped):
  assert_near(bench(name, members=2).train(2).params, looped(name).train(2).params)


PLAIN = [n for n in LEARN if records.method(n).first_task_plain and methods.METHODS[n].access.trains_on == "current"]


@each(PLAIN)
def test_first_task_equals_the_base_learner(name, looped):
  """Before the first boundary a method trains as finetune does, unless its entry says otherwise."""
  assert_near(looped(name).train(4, (0,)).params, looped("finetune").train(4, (0,)).params)


NAMED = {  # their programs hold the tasks' classes: renamed tasks need programs of their own
  "bic", "bir", "clnp", "clpu_derpp", "clr", "co2l", "coda_prompt", "cwr_star", "der_expand", "desire", "dgr",
  "dualprompt", "ease", "eeil", "exssnet", "foster", "hal", "happy", "hat", "hfc", "hide_prompt", "hypernetwork",
  "icarl", "il2m", "incremental_rank", "l2p", "lae", "lucir", "lwf", "lwf_mc", "lwm", "memo", "mos", "mrn", "napa_vq",
  "niwf", "ocm", "packnet", "par", "pass", "pnn", "podnet", "prd", "recall_logits", "relevance_mapping", "sharp",
  "slca", "ssil", "trgp", "wa", "wsn", "xder", "xdg",
}  # fmt: skip


@each(LEARN)
def test_a_task_s_number_is_a_name(name, looped, request, small_model):
  """The same tasks in the same order under other numbers: the same learner, but for what is kept by number."""
  new = (1, 0)
  here = looped(name)
  there = here.renamed(new)
  if name in NAMED:
    hyper = {"temporary": (0,)} if name == "clpu_derpp" else {}
    model = records.network(name, small_model)
    there = Looped(prepare(name, renamed(stream_for(name, request), new), model, hyper, seeds=2))
  told = here.train(steps=2), there.train(steps=2, tasks=new)
  params = [t.params for t in told]
  if name == "supsup":  # a mask for each task number
    params[1] = jax.tree.map(lambda scores: scores[:, jnp.asarray(new)], params[1])
  if name in ("dualprompt", "coda_prompt"):  # prompts for each, drawn when it begins, so all of those that were met
    own = lambda p: p["own"] if name == "dualprompt" else p
    prompts = {k: v[:, jnp.asarray(new)] for k, v in own(params[1]["prompts"]).items()}
    whole = {**params[1]["prompts"], "own": prompts} if name == "dualprompt" else prompts
    params[1] = {**params[1], "prompts": whole}
  pair = lambda n, a: a[:, jnp.asarray(new)] if n.endswith(("/lora_a", "/lora_b", "/lora_scale")) else a
  if name not in ("desire", "i_lora"):  # one pair for all
    params[1] = tree.map_named(pair, params[1])  # a low-rank pair for each
  if name == "trgp":  # scales for each
    params[1]["scales"] = jax.tree.map(lambda scales: scales[:, jnp.asarray(new)], params[1]["scales"])
  assert_near(*params)
  kept = [jax.tree.leaves((t.opt_state.penalty, t.opt_state.transform, t.method_state)) for t in told]
  # Stored rows say which task they are of.
  sizes = [sorted(np.abs(np.asarray(a)).sum() for a in k if jnp.issubdtype(a.dtype, jnp.floating)) for k in kept]
  np.testing.assert_allclose(*sizes, rtol=1e-3, atol=1e-4)


@each(LEARN)
def test_a_task_may_come_back(name, looped):
  """0, 1, 0: all stays finite, and what is kept for each task has room for it."""
  looped = looped(name)
  learner = looped.train(steps=2, tasks=(0, 1, 0))
  for leaf in jax.tree.leaves(learner._replace(key=())):
    assert np.isfinite(np.asarray(leaf)).all() or not jnp.issubdtype(leaf.dtype, jnp.floating)
  tasks = looped.spec.num_tasks
  counts = {projectors.CUBERState: "tasks", projectors.CUBERBlocked: "tasks", optimizers.TagState: "task"}
  dropped = (projectors.OGDState, projectors.GPMState, projectors.SGPState)
  is_mine = lambda node: isinstance(node, (*counts, *dropped))
  for node in filter(is_mine, jax.tree.leaves(learner, is_leaf=is_mine)):
    if isinstance(node, dropped):
      assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(node.dropped))
    else:
      assert (getattr(node, counts[type(node)]) == tasks).all()


@each(LEARN)
def test_checkpoint_round_trip(name, prepared, finished, tmp_path):
  """Stopped in the middle and resumed from disk: the digests and the matrix of the undisturbed run."""
  told = []
  # Not by the number of times it is asked: on a busy machine that may be often before the first step.
  stop = lambda: any(m.get("total", 0) >= 8 for m in told)
  with pytest.raises(cljax.Stopped):
    prepared(name).run(str(tmp_path), report=told.append, stop=stop)
  seen = []
  resumed = prepared(name).run(str(tmp_path), report=seen.append)
  assert any(m["kind"] == "resumed" and m["total"] > 0 for m in seen)
  assert resumed.params_sha256 == finished(name).params_sha256
  np.testing.assert_array_equal(resumed.accuracy, finished(name).accuracy)


@each(LEARN)
def test_undeclared_data_is_not_kept(name, finished, dataset):
  """A method that declares no stored data holds no training row; one that does is found to hold some (the control)."""
  learner = jax.tree.map(np.asarray, finished(name).learner._replace(key=np.zeros(1)))
  width = int(np.prod(dataset.train.x.shape[1:]))
  rows = dataset.train.x.reshape(len(dataset.train.x), -1)
  found = False
  for leaf in jax.tree.leaves((learner.method_state, learner.opt_state, learner.model_state)):
    if leaf.size and leaf.size % width == 0 and leaf.dtype == rows.dtype:
      flat = leaf.reshape(-1, width)
      found |= bool((np.abs(flat[:, None] - rows[None]).max(-1) == 0).any())
  assert found == methods.METHODS[name].access.stores_data


@each(LEARN)
def test_bytes_between_tasks(name, finished):
  result = finished(name)
  learner = result.learner
  kept = (learner.method_state, learner.opt_state.penalty, learner.opt_state.transform, learner.opt_state.finalize)
  assert result.state_bytes == sum(np.asarray(a)[0].nbytes for a in jax.tree.leaves(kept))


@each([n for n in LEARN if methods.METHODS[n].access.stores_data])
def test_scrub_erases_every_stored_row(name, looped):
  """After a scrub no array holds a deleted row; the same search finds it before (the control)."""
  looped = looped(name)
  learner = looped.train(steps=3)
  x = np.asarray(looped.data.x).reshape(len(looped.data.x), -1)

  def holders(learner, rows):
    out = set()
    for leaf in jax.tree.leaves(learner.method_state):
      leaf = np.asarray(leaf)
      if leaf.size and leaf.size % x.shape[1] == 0 and leaf.dtype == x.dtype:
        same = (leaf.reshape(-1, 1, x.shape[1]) == x[rows]).all(-1).any(0)
        out |= set(np.asarray(rows)[same].tolist())
    return out

  stored = sorted(holders(learner, np.arange(len(x))))
  assert len(stored) >= 4
  gone = np.zeros(len(x), bool)
  gone[stored[::2]] = True
  scrubbed = looped.scrub(learner, gone)
  assert holders(scrubbed, np.flatnonzero(gone)) == set()
  assert holders(scrubbed, np.arange(len(x))) == set(stored) - set(np.flatnonzero(gone).tolist())


@each(EDITS)
def test_an_edit_trains_as_finetune(name, class_stream, small_model):
  """What only answers Forget events has no part in training, so the laws of training need no test of their own."""
  spec = spec_of(class_stream, BATCH)
  method = methods.make(name, small_model, spec, **records.arguments(name))
  assert method.forget is not None
  # It may keep something from the first parameters.
  assert method._replace(forget=None, init=cljax.Method().init, access=cljax.Access()) == cljax.Method()


@each(EDITS)
def test_an_edit_keeps_shapes_and_maps_over_members(name, bench):
  """As on an accelerator, where members are vmapped: traced, not compiled."""
  bench = bench(name)
  learner = jax.eval_shape(lambda: jax.vmap(bench.parts.init)(jax.vmap(jax.random.key)(jnp.arange(2))))
  rows = np.asarray(bench.stream.train[0], np.int32)
  after = jax.eval_shape(jax.vmap(lambda l: bench.parts.forget(l, *bench.request(rows[:3], rows[3:]))[0]), learner)
  assert [(a.shape, a.dtype) for a in jax.tree.leaves(after)] == [(a.shape, a.dtype) for a in jax.tree.leaves(learner)]


@each([n for n in EDITS if records.method(n).neutral is not None])
def test_an_edit_of_no_strength_is_the_identity(name, bench, looped):
  """At neutral values every parameter keeps its bits."""
  neutral = records.method(name).neutral
  static = {k: v for k, v in neutral.items() if not isinstance(v, float)}
  bench = bench(name, hyper=static) if static else bench(name)
  trained = member(looped("finetune").train(2, (0,)).params, 0)  # an edit has no part in training
  learner = bench.start()._replace(params=jax.tree.map(jnp.asarray, trained))
  after, _ = bench.forget_class(learner, **{k: v for k, v in neutral.items() if k not in static})
  assert_same(after.params, learner.params)


def padded_with_rows(index, task, size):
  """As the engine's own, but the places behind the rows hold a row, not row 0 of task 0."""
  fill = lambda a, value: jnp.asarray(np.pad(a, (0, size - len(a)), constant_values=value), jnp.int32)
  return fill(index, 7), fill(task, 1), jnp.int32(len(index))


# What needs the task at test is asked to forget tasks: its own tests do.
ASKED = [n for n in FORGET if not methods.METHODS[n].access.task_id_at_test]
SCRUBBED = [n for n in ("agem", "center_loss", "derpp", "er", "ncm") if n not in ASKED]


@each(ASKED + SCRUBBED)
def test_forgets_rows_however_they_are_named(name, dataset, small_model, monkeypatch):
  """The same rows by class, by task and by id, and absent rows that are not: one learner, to the bit, memories and
  prototypes too. Only the requests differ, so that one set of programs serves all."""
  cut = lambda forget: streams.build(dataset, "class", tasks=2, forget=forget)
  y, ids, rows = dataset.train.y, dataset.train.id, cut("").train[0]
  named = lambda label: cljax.Forget(ids=tuple(ids[rows[y[rows] == label]].tolist()))
  one, zero = (cljax.Forget(classes=(c,)) for c in (1, 0))
  more = {} if name in ASKED else {"forget": "gradient_ascent", "forget_hyper": {"steps": 1}}
  made = prepare(name, cut([(1, one), (2, zero)]), small_model, **more)

  def run(first, second):
    return made._replace(setup=made.setup._replace(stream=cut([(1, first), (2, second)]))).run()

  result = run(one, zero)
  assert [e["kind"] for e in result.events] == ["learn", "forget", "learn", "forget"]
  assert result.accuracy.shape == (1, 5, 2)
  assert [f["rows"] for f in result.forgotten] == [(y[rows] == c).sum() for c in (1, 0)]
  assert all(0 <= v <= 1 for f in result.forgotten for v in f["forget"] + f["retain"])
  for first, second in ((named(1), cljax.Forget(tasks=(0,))), (one, named(0))):
    assert_same(run(first, second).learner, result.learner)
  monkeypatch.setattr(loop, "padded", padded_with_rows)
  assert_same(run(one, zero).learner, result.learner)
  few = cljax.Forget(ids=tuple(ids[cut("").train[1][:3]].tolist()))
  assert run(one, few).forgotten[1]["rows"] == 3
