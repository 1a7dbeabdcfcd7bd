"""Breaks each entry on purpose and looks whether its recorded tests notice: ``python -m experiments.mutations``.

Mutants of an entry's own code (``_mutants``), a capped and seeded number, each in a process of its own (``_isolated``)
against the tests that its record names, in the record's order, up to the first that fails. Before that the tests run
once unmutated: they must pass, and mutants on lines that they do not enter are counted, not run. A mutant that ran,
by its own mark, and that no test noticed survives. Restartable: what has run under the same code and tests is kept in
``experiments/results/mutations``; ``--only`` runs some entries and leaves the rows of others alone.

``--sample=SECONDS`` writes nothing: for so long it makes mutants anew, one an entry, of those that the committed rows
hold (of an entry that changed since, those that are left; of one that has none, any), and ends with code 1 where one
survives that they do not hold as a survivor, nor ``equivalent.json`` as equivalent.
"""

from __future__ import annotations

import hashlib
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from absl import app, flags

from experiments import _isolated, _mutants
from experiments import _mutations_table as table
from experiments._mutations_table import Row, Store, Subject

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "experiments" / "results" / "mutations"
SLOW = 60.0  # seconds: a recorded test that takes longer is refused
MOST = 100  # entries of which a sample draws
QUICK = 10.0  # seconds of an entry's tests, up to which it takes part in a sample
Key = tuple[str, str]
Run = Callable[[Iterable[_isolated.Task]], Iterator[_isolated.Result]]


def keys(only: Iterable[str]) -> list[Key]:
  """The entries named (``ewc``, ``method/ewc`` or a module of records; all by default) that have recorded tests."""
  from experiments._proof_records import records

  names = {k: (k[1], "/".join(k), module) for k, module in sorted(records.modules_of().items())}
  for name in only:
    if not any(name in mine for mine in names.values()):
      raise SystemExit(f"--only: {name!r} is no entry, kind/entry or module of records")
  return [k for k, mine in names.items() if records.records()[k].tests and (not only or set(only) & set(mine))]


def subjects(wanted: Iterable[Key], run: Run) -> list[Subject]:
  """The entries with their tests and all mutants of their own code."""
  from experiments._proof_records import check, code, records

  tests: dict[Key, dict[str, tuple[str, str]]] = {}  # entry -> test -> file and digest
  for key in wanted:
    named = {t: check.named(t, code.suite()) for t in records.records()[key].tests}
    wrong = [where for where in named.values() if isinstance(where, str)]
    if wrong:
      raise SystemExit(f"{' '.join(key)}: {wrong[0]}")
    tests[key] = {t: (w[0], code.digest_of_test(w[0], t.partition("[")[0])) for t, w in named.items()}
  proved = {
    (k, t): check.moved(_proved(check.proofs().get(k), t, digest), file)
    for k, of in tests.items()
    for t, (file, digest) in of.items()
  }
  files = sorted({file for k, of in tests.items() for t, (file, _) in of.items() if not proved[k, t]})
  listed = {r.name: list(r.tests) for r in run(_isolated.Task(f, (f,), collect=True) for f in files)}
  found = []
  for key, of in tests.items():
    pieces = code.own_code(records.entry(key), records.stops())
    ids = [i for t, (f, _) in of.items() for i in proved[key, t] or check.nodes_of(t, key[1], f, listed.get(f, []))]
    made = [_mutants.mutants((ROOT / p.file).read_text(), p.file, [(p.qualname, p.node)]) for p in pieces]
    candidates = tuple(m for of_piece in made for m in of_piece)
    own = tuple(p.qualname for p in pieces if p.core)
    digests = [code.digest(pieces), *(digest for _, digest in of.values()), *ids]
    stamp = hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]
    found.append(Subject(" ".join(key), stamp, tuple(dict.fromkeys(ids)), candidates, own))
  return found


def _proved(proof: Row | None, test: str, digest: str) -> list[str]:
  """The node ids that a committed proof of the test as it is holds: collecting them takes a second a file."""
  known = (proof or {}).get("tests", {}).get(test)
  return known["nodes"] if known and known["digest"] == digest else []


def baselines(found: list[Subject], store: Store, run: Run, until: float = math.inf) -> None:
  """Runs the recorded tests of each on the code as it is; once more where they failed: what was mended since may lie
  elsewhere."""
  failed = lambda base: base["note"] and not base["refused"]
  new = {s.name: s for s in found if s.tests and ((base := store.get(s)) is None or failed(base))}
  due = (s for s in new.values() if time.monotonic() < until)
  tasks = (_isolated.Task(s.name, s.tests, lines=True, timeout=SLOW * len(s.tests)) for s in due)
  for result in run(tasks):
    subject = new[result.name]
    store.put(baseline(subject, result))
    note = store.rows[subject.name, subject.stamp, ""]["note"]
    print(
      f"{subject.name}: {len(subject.tests)} tests, {result.seconds:.1f} s{': ' + note if note else ''}", flush=True
    )


def baseline(subject: Subject, result: _isolated.Result) -> Row:
  slow = [test for test, (_, seconds) in result.tests.items() if seconds > SLOW]
  note = ""
  if result.outcome != "passed":
    note = f"the recorded tests do not pass ({result.outcome}): {result.failed or subject.tests[0]}: {result.message}"
  elif slow:
    note = f"refused, slower than {SLOW:.0f} s: {', '.join(slow)}"
  entered = {file: set(lines) for file, lines in result.lines.items()}
  reached = lambda m: any(n in entered.get(m.file, ()) for n in range(m.lines[0], m.lines[1] + 1))
  unreached = sorted(m.key for m in subject.candidates if not reached(m))
  row: Row = {"entry": subject.name, "stamp": subject.stamp, "seconds": result.seconds, "note": note}
  return row | {"unreached": unreached, "refused": slow}


def drawn(subject: Subject, store: Store, count: int, seed: str) -> list[_mutants.Mutant]:
  """The mutants to be made of an entry whose tests have run: two of its own function, then one of its helpers."""
  base = store.get(subject)
  if base is None or (base["note"] and not base["refused"]):
    return []
  unreached = set(base["unreached"])
  reached = [m for m in subject.candidates if m.key not in unreached]
  inside = lambda m: any((m.function + ".").startswith(own + ".") for own in subject.own)
  seed = f"{seed} {subject.name}"
  own = _mutants.chosen([m for m in reached if inside(m)], count, seed)
  rest = _mutants.chosen([m for m in reached if not inside(m)], count, seed)
  turns = [(i, m) for i, m in enumerate(own)] + [(2 * i + 1.5, m) for i, m in enumerate(rest)]
  return [m for _, m in sorted(turns, key=lambda turn: turn[0])][:count]


def task(subject: Subject, mutant: _mutants.Mutant, store: Store, root=ROOT, limit=math.inf) -> _isolated.Task:
  base = store.get(subject) or {"seconds": SLOW, "refused": []}
  tests = tuple(t for t in subject.tests if t not in base["refused"])
  text = _mutants.applied(mutant, (pathlib.Path(root) / mutant.file).read_text())
  limit = min(limit, 30 + 4 * base["seconds"])
  return _isolated.Task(f"{subject.name}\n{mutant.key}", tests, overlay={mutant.file: text}, timeout=limit)


def judged(subject: Subject, mutant: _mutants.Mutant, result: _isolated.Result) -> Row:
  """A row: killed by a test, survived, or inactive: what it changed never ran; void where a test failed even so."""
  passed = result.outcome == "passed"
  outcome = ("survived" if passed else "killed") if result.active else ("inactive" if passed else "void")
  how = "" if passed else f"{result.outcome}: {result.message}"
  if outcome == "inactive" and result.started:
    how = f"the tests start {result.started} processes of their own, which see no mutant"
  row: Row = {"entry": subject.name, "stamp": subject.stamp, "mutant": mutant.key, "outcome": outcome}
  row |= {k: v for k, v in mutant._asdict().items() if k not in ("edits", "lines")}
  return row | {"by": result.failed, "how": how[:160], "seconds": result.seconds}


def mutate(
  chosen: Iterable[tuple[Subject, _mutants.Mutant]], store: Store, run: Run, root=ROOT, limit=math.inf
) -> Iterator[Row]:
  """Runs mutants, each for so many seconds at most, and yields their rows as they come."""
  pairs: dict[str, tuple[Subject, _mutants.Mutant]] = {}

  def tasks():
    for subject, mutant in chosen:
      made = task(subject, mutant, store, root, limit)
      pairs[made.name] = (subject, mutant)
      yield made

  for result in run(tasks()):
    yield judged(*pairs[result.name], result)


def whole(
  found: list[Subject], store: Store, run: Run, count: int, seed: int, command: str, every: bool, root=ROOT
) -> int:
  """Runs what has not run, writes the tables; the number of faults: recorded tests that fail without a mutant."""
  baselines(found, store, run)
  todo = [(s, m) for s in found for m in drawn(s, store, count, str(seed)) if store.get(s, m.key) is None]
  print(f"{len(found)} entries, {len(todo)} mutants to run", flush=True)
  void = 0
  for i, row in enumerate(mutate(todo, store, run, root)):
    if row["outcome"] == "void":  # the tree was edited meanwhile, or the test is flaky: to be run again
      void += 1
      print(f"{row['entry']}: {row['by']} failed, and the mutant had not run: {row['how']}", flush=True)
      continue
    store.put(row)
    done, by = f"{i + 1}/{len(todo)} {row['entry']} {row['outcome']}", row["by"].rpartition("::")[2]
    print(f"{done} {row['seconds']:.1f} s {by}: {table.told(row)}", flush=True)
  if every:
    store.tidy({s.name: s.stamp for s in found})
  known = table.equivalents(store.folder)
  lines = [table.summary(s, store, known) for s in found]
  if every:
    table.write(store.folder, lines, command)
  for line in lines:
    print(f"{line['entry']}: {line['killed']} of {line['active']} killed, {len(line['equivalent'])} equivalent")
    for m in line["survived"]:
      print(f"  SURVIVED {table.told(m)}")
  return void + sum("do not pass" in line["note"] for line in lines)


def rank(seed: int, key: Key) -> str:
  return hashlib.sha256(f"{seed} {' '.join(key)}".encode()).hexdigest()


def sample(found: list[Subject], store: Store, run: Run, seconds: float, seed: int, root=ROOT) -> int:
  """The number of unknown survivors among the mutants, one an entry, that run in so many seconds."""
  known, old, start = table.equivalents(store.folder), store.survivors(), time.monotonic()
  baselines(found, store, run, start + seconds / 2)  # of those whose code or tests are not the committed ones

  def picks():
    for subject in found:
      base = store.get(subject)
      if base and base["seconds"] < QUICK:
        held = store.made(subject.name)
        mine = [m for m in subject.candidates if m.key in held]
        if not held:
          mine = drawn(subject, store, 1, f"sample {seed}")
        for mutant in _mutants.chosen(mine, 1, f"sample {seed} {subject.name}"):
          if time.monotonic() < start + seconds - base["seconds"]:
            yield subject, mutant

  rows = list(mutate(picks(), store, run, root, 3 * QUICK))
  alive = [r for r in rows if r["outcome"] == "survived" and (r["entry"], r["mutant"]) not in old]
  alive = [r for r in alive if not table.reason(known, r["entry"], r)]
  print(f"{len(rows)} mutants, {sum(r['outcome'] == 'killed' for r in rows)} killed")
  for row in alive:
    print(f"SURVIVED {row['entry']}: {table.told(row)}")
  return len(alive)


def _flags() -> None:
  flags.DEFINE_list("only", [], "entries, kind/entry or modules of records (default: all with recorded tests)")
  flags.DEFINE_integer("mutants", 6, "at most so many of an entry", lower_bound=1)
  flags.DEFINE_integer("seed", 0, "of the choice among an entry's mutants")
  flags.DEFINE_integer("jobs", 2, "processes at a time", lower_bound=1)
  flags.DEFINE_float("sample", 0.0, "seconds: draw over all entries, write nothing, end with 1 for a new survivor")


def main(argv) -> None:
  del argv
  given = flags.FLAGS
  store, start = Store(FOLDER), time.monotonic()
  with _isolated.pool(given.jobs) as run:
    wanted = keys(given.only)
    if given.sample:
      store.keep = False
      found = subjects(sorted(wanted, key=lambda k: rank(given.seed, k))[:MOST], run)
      sys.exit(1 if sample(found, store, run, given.sample + start - time.monotonic(), given.seed) else 0)
    found = subjects(wanted, run)
    command = f"python -m experiments.mutations --mutants={given.mutants} --seed={given.seed}"
    sys.exit(1 if whole(found, store, run, given.mutants, given.seed, command, not given.only) else 0)


if __name__ == "__main__":
  _flags()
  app.run(main)
