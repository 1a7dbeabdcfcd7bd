"""``Method``: a learning or unlearning method as a tuple of pure functions, and ``compose`` for hybrids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from cljax.core.tree import fold
from cljax.core.types import Access, Batch, Learner, Model, UsageError


class Reference(NamedTuple):
  """An extra gradient for projectors: of ``loss`` (default: the task loss) on ``batch(key, learner) -> Batch``.

  The batch holds rows as they were read; where it has no ``class_mask`` its rows get the one that the task loss uses.
  It may carry a leading axis ``K``: then the gradient has it too, one constraint each. Rows of weight 0 make no
  gradient, so a reference whose rows all have weight 0 is the zero tree.
  """

  batch: Callable
  loss: Callable | None = None


def _keep(key, learner, *_):
  del key
  return learner


def _no_state(key, learner):
  del key, learner
  return ()


def _keep_batch(key, learner, batch):
  del key
  return learner, batch


class Outlook(NamedTuple):
  """What a run is about to do, as far as it is known before its first step: what ``Method.remarks`` is told."""

  steps: int  # of all Learn events
  tasks: tuple  # those of the Learn events, in order
  optimizer: str = ""  # its name, where it has one
  learning_rate: float = 0.0  # of an optimizer by name, the largest of the population
  weights: int = 0  # numbers among the parameters of the model that is trained


_CHAINS = ("penalty", "transform", "pull", "finalize")  # where a method has transforms of its own


class Method(NamedTuple):
  """One method; every field has an identity default. Hooks see ``learner.method_state`` as their own state only.

  model       the Model that is trained, where the method reparameterises (masks, LoRA, ...); None: the one it was given
  init        (key, learner) -> state
  start_task  (key, learner, task: Task) -> learner
  prepare     (key, learner, batch) -> (learner, batch): insert the previous step's rows, then sample and append
  terms       {name: (key, params, learner, batch, outputs) -> scalar}, added to the task loss
  gradient    (key, loss_fn, learner) -> ((loss, aux), grads) with loss_fn(params) -> (loss, aux); None: value_and_grad
  references  {name: Reference}: handed to the transforms as ``references={name: grads}``
  observe     (key, learner, batch) -> {argument: value}: what the transforms are given of the step's batch, as the
              model sees it, beside its gradient; None: nothing
  penalty     optax transform that adds a penalty's gradient to the raw gradient; acts first
  transform   optax transform (a projector) on the raw gradient plus penalties, before the optimizer
  pull        optax transform (a decoupled penalty) on the optimizer's update, given ``rate=``, the learning rate of the
              step, and ``grad=``, the raw gradient
  finalize    optax transform (a projector) on that, given ``optimizer_state=``
  projects    (learner) -> ({kernel path: state}, (state, rows [n, d_in]) -> rows): the symmetric projection of kernels'
              gradients that ``transform`` or else ``finalize`` makes, as one of layer inputs. Where that is the same
              (:mod:`cljax.engine.layerwise`) the backward pass makes it of some kernels, and the transforms are told
              their paths, ``projected=``; hybrids do without
  averaged    (reference, epsilon): ``transform`` is A-GEM against the gradient of that one. Where nothing else is done
              to the gradient the step projects it as it is made, and tells the transform ``fired=``; hybrids do without
  after_step  (key, learner, info: StepInfo) -> learner
  end_task    (key, learner, task: Task) -> learner: consolidate, store, merge; flush pending rows
  forget      (key, learner, request: Request, tools) -> learner
  permits     (learner, request) -> bool: whether ``forget`` can answer the request; where not, the run ends with a
              UsageError that says ``refusal``; None: any
  scrub       (learner, request) -> learner: erase the request's rows from what the method stores
  after_forget (learner, before) -> learner: what is kept as a copy of the parameters follows an edit of them;
              ``before`` are the parameters before it (anchors of ``cljax.regularizers`` follow by themselves)
  predict     (key, learner, x, task) -> logits; None: the model's
  infers_task whether ``predict`` does without the task at test that the method's entry declares, as an option has it
  remarks     (outlook: Outlook) -> lines, each said once where the run begins: an option that will have no effect, or
              hardly one, in this run; they refuse nothing
  replay      what is repeated where the access is to the prefix: 'steps', the same batches with the deleted rows at
              weight 0, or 'epochs', the passes over the rows that are left
  """

  model: Model | None = None
  init: Callable = _no_state
  start_task: Callable = _keep
  prepare: Callable = _keep_batch
  terms: dict[str, Callable] = {}
  gradient: Callable | None = None
  references: dict[str, Reference] = {}
  observe: Callable | None = None
  penalty: optax.GradientTransformation | None = None
  transform: optax.GradientTransformation | None = None
  pull: optax.GradientTransformation | None = None
  finalize: optax.GradientTransformation | None = None
  projects: Callable | None = None
  averaged: tuple[str, float] | None = None
  after_step: Callable = _keep
  end_task: Callable = _keep
  forget: Callable | None = None
  permits: Callable | None = None
  refusal: str = ""
  scrub: Callable | None = None
  after_forget: Callable | None = None
  predict: Callable | None = None
  infers_task: bool = False
  remarks: Callable | None = None
  replay: str = "steps"
  access: Access = Access()


def union_access(accesses) -> Access:
  """The least access that is enough for all."""
  accesses = list(accesses)
  order = ("current", "seen", "all")
  widest = max((a.trains_on for a in accesses), key=order.index, default="current")
  flags = {f: any(getattr(a, f) for a in accesses) for f in Access._fields if f not in ("trains_on", "needs")}
  flags["unlabelled"] = all(a.unlabelled for a in accesses)  # a part that reads labels reads those of all rows
  needs = tuple(dict.fromkeys(n for a in accesses for n in a.needs))
  return Access(trains_on=widest, needs=needs, **flags)


def compose(**methods: Method) -> Method:
  """A hybrid, such as ``compose(ewc=..., er=...)``: its state is a dict by name, and parts act in the order written.

  Penalties of all parts come before all projectors, decoupled pulls before all projectors of updates. A part's hooks
  see their own method state, the states of their own transforms (``learner.opt_state`` holds no other part's) and their
  own entries of ``Batch.extra``: the same method twice is two methods. Two owners of ``model``, ``gradient``,
  ``predict`` or ``forget`` are refused with a UsageError that names them.
  """
  if not methods:
    raise UsageError("compose: got no methods; give at least one, such as compose(ewc=...)")
  for field in ("model", "gradient", "predict", "forget"):
    owners = [n for n, m in methods.items() if getattr(m, field) is not None]
    if len(owners) > 1:
      raise UsageError(f"compose: {' and '.join(owners)} both define {field}; at most one may")

  def own(name: str) -> list[str]:
    """The chains that have an entry of this part."""
    return [f for f in _CHAINS if getattr(methods[name], f) is not None]

  def mine(name: str, opt_state):
    """The optimizer state with this part's transforms alone: hooks look for theirs by type or name."""
    if not hasattr(opt_state, "_fields"):
      return opt_state  # none yet
    had = own(name)
    return opt_state._replace(**{f: getattr(opt_state, f)[name] if f in had else () for f in _CHAINS})

  def returned(name: str, outer, inner):
    if not hasattr(outer, "_fields"):
      return inner
    whole = {f: getattr(outer, f) for f in _CHAINS}
    # named_chain's states are ordered dicts, and stay so.
    changed = {f: type(whole[f])({**whole[f], name: getattr(inner, f)}) for f in own(name)}
    return inner._replace(**{**whole, **changed})

  def view(name: str, learner: Learner) -> Learner:
    return learner._replace(method_state=learner.method_state[name], opt_state=mine(name, learner.opt_state))

  def back(name: str, outer: Learner, inner: Learner) -> Learner:
    state = {**outer.method_state, name: inner.method_state}
    return inner._replace(method_state=state, opt_state=returned(name, outer.opt_state, inner.opt_state))

  def noted(name: str, batch: Batch) -> Batch:
    """The batch with this part's entries of ``extra`` alone."""
    return batch._replace(extra=batch.extra.get(name, {}))

  def init(key, learner):
    return {n: m.init(fold(key, n), learner._replace(opt_state=mine(n, learner.opt_state))) for n, m in methods.items()}

  def chained(field):
    used = {n: m for n, m in methods.items() if getattr(m, field) is not _keep}
    if not used:
      return _keep

    def hook(key, learner, arg):
      for n, m in used.items():
        given = arg._replace(batch=noted(n, arg.batch)) if field == "after_step" else arg
        learner = back(n, learner, getattr(m, field)(fold(key, n), view(n, learner), given))
      return learner

    return hook

  def prepare(key, learner, batch):
    for n, m in methods.items():
      if m.prepare is _keep_batch:
        continue
      inner, new = m.prepare(fold(key, n), view(n, learner), noted(n, batch))
      batch = new._replace(extra={**batch.extra, n: new.extra} if new.extra else batch.extra)
      learner = back(n, learner, inner)
    return learner, batch

  def term(name, fn):
    return lambda key, params, learner, batch, outputs: fn(
      key, params, view(name, learner), noted(name, batch), outputs
    )

  def reference(name, ref):
    loss = ref.loss
    own = None if loss is None else lambda key, params, learner, batch: loss(key, params, view(name, learner), batch)
    return Reference(lambda key, learner: ref.batch(key, view(name, learner)), own)

  def scrub(learner, request):
    for n, m in methods.items():
      if m.scrub is not None:
        learner = back(n, learner, m.scrub(view(n, learner), request))
    return learner

  def after_forget(learner, before):
    for n, m in methods.items():
      if m.after_forget is not None:
        learner = back(n, learner, m.after_forget(view(n, learner), before))
    return learner

  def observe(key, learner, batch):
    out: dict[str, Any] = {}
    for n, m in methods.items():
      if m.observe is not None:
        out |= m.observe(fold(key, n), view(n, learner), noted(n, batch))
    return out

  def transforms(field):
    parts = [(n, getattr(m, field)) for n, m in methods.items() if getattr(m, field) is not None]
    return optax.named_chain(*parts) if parts else None

  references: dict[str, Any] = {}
  for n, m in methods.items():
    for r, ref in m.references.items():
      if r in references:
        raise UsageError(f"compose: {n} repeats the reference {r!r}; reference names must differ")
      references[r] = reference(n, ref)

  def owned(field):
    for n, m in methods.items():
      fn = getattr(m, field)
      if fn is None:
        continue
      if field == "permits":
        return lambda learner, request, n=n, fn=fn: fn(view(n, learner), request)
      if field == "predict":
        return lambda key, learner, x, task, n=n, fn=fn: fn(key, view(n, learner), x, task)
      if field == "forget":
        return lambda key, learner, request, tools, n=n, fn=fn: back(
          n, learner, fn(key, view(n, learner), request, tools)
        )
      return lambda key, loss_fn, learner, n=n, fn=fn: fn(key, loss_fn, view(n, learner))
    return None

  said = [m.remarks for m in methods.values() if m.remarks is not None]
  return Method(
    model=next((m.model for m in methods.values() if m.model is not None), None),
    init=init,
    start_task=chained("start_task"),
    prepare=prepare if any(m.prepare is not _keep_batch for m in methods.values()) else _keep_batch,
    terms={f"{n}/{t}": term(n, fn) for n, m in methods.items() for t, fn in m.terms.items()},
    gradient=owned("gradient"),
    references=references,
    observe=observe if any(m.observe is not None for m in methods.values()) else None,
    penalty=transforms("penalty"),
    transform=transforms("transform"),
    pull=transforms("pull"),
    finalize=transforms("finalize"),
    after_step=chained("after_step"),
    end_task=chained("end_task"),
    forget=owned("forget"),
    permits=owned("permits"),
    refusal=next((m.refusal for m in methods.values() if m.refusal), ""),
    scrub=scrub if any(m.scrub is not None for m in methods.values()) else None,
    after_forget=after_forget if any(m.after_forget is not None for m in methods.values()) else None,
    predict=owned("predict"),
    remarks=(lambda outlook: [line for remarks in said for line in remarks(outlook)]) if said else None,
    replay=next((m.replay for m in methods.values() if m.replay != "steps"), "steps"),
    access=union_access(m.access for m in methods.values()),
  )
