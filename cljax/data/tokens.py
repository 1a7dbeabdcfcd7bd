"""Text as tokens: the ``tokenizer.json`` of a folder, its chat template, and which tokens of a row are learned."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cljax.core import words as words_of
from cljax.core.checks import check_integer
from cljax.core.extras import needed
from cljax.core.types import UsageError

Message = Mapping[str, str]  # {"role": ..., "content": ...}


class Tokenizer(NamedTuple):
  """The tokens of a folder, as functions; no special token is added that the text does not spell.

  ``encode(text) -> ids``; ``decode(ids, special=False) -> text``, special tokens shown or not;
  ``spans(text) -> [(start, end)]``, the characters of each token. ``vocabulary``: ids are below it. ``begin``, ``end``
  and ``pad``: the ids of those tokens, None where there is none.
  ``chat(messages, answer=False) -> text`` is the folder's template, with ``answer`` up to where the answer begins.
  """

  encode: Callable[[str], list[int]]
  decode: Callable[..., str]
  spans: Callable[[str], list[tuple[int, int]]]
  chat: Callable[..., str]
  vocabulary: int
  begin: int | None
  end: int | None
  pad: int | None


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, OSError) as error:
    raise UsageError(f"folder: {path} cannot be read ({' '.join(str(error).split())[:120]})") from None
  if not isinstance(found, dict):
    raise UsageError(f"folder: {path} holds {type(found).__name__}; expected an object")
  return found


def tokenizer(folder: str | os.PathLike) -> Tokenizer:
  """The :class:`Tokenizer` of a Hugging Face folder: ``tokenizer.json``, and its ``tokenizer_config.json`` if any.

  Truncation and padding that the file asks for are off: all of a text becomes tokens, and nothing else. A template runs
  in Jinja's sandbox. Needs ``cljax[pretrained]``. Raises UsageError for a folder without a tokenizer and for a file
  that is none; ``chat`` does without a template, and for messages that the template refuses.
  """
  folder = Path(folder).expanduser()
  made = words_of.read(folder)
  config = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
  words = {name: _word(config.get(f"{name}_token")) for name in ("bos", "eos", "pad", "unk")}

  def id_of(name: str) -> int | None:
    word = words[name]
    return None if word is None else made.token_to_id(word)

  def encode(text: str) -> list[int]:
    return made.encode(text, add_special_tokens=False).ids

  def decode(ids: Sequence[int], special: bool = False) -> str:
    return made.decode([int(i) for i in ids], skip_special_tokens=not special)

  def spans(text: str) -> list[tuple[int, int]]:
    return made.encode(text, add_special_tokens=False).offsets

  template = config.get("chat_template")
  if template is None and (folder / "chat_template.jinja").is_file():
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")

  def chat(messages: Sequence[Message], answer: bool = False) -> str:
    if template is None:
      raise UsageError(f"folder: {folder} has no chat template")
    return _rendered(template, messages, answer, {f"{n}_token": w for n, w in words.items() if w is not None})

  size = max(made.get_vocab(with_added_tokens=True).values(), default=-1) + 1  # ids may leave gaps
  return Tokenizer(encode, decode, spans, chat, size, id_of("bos"), id_of("eos"), id_of("pad"))


def byte_tokenizer() -> Tokenizer:
  """Bytes of UTF-8 as tokens 0..255, and 256, which ends and pads; it needs no file and has no chat template."""

  def encode(text: str) -> list[int]:
    return list(text.encode("utf-8"))

  def decode(ids: Sequence[int], special: bool = False) -> str:
    parts = bytes(int(i) for i in ids if int(i) < 256).decode("utf-8", "replace")
    return parts + "<end>" * (special * sum(int(i) == 256 for i in ids))

  def spans(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i, c in enumerate(text) for _ in c.encode("utf-8")]

  def chat(messages: Sequence[Message], answer: bool = False) -> str:
    raise UsageError("tokenizer: bytes have no chat template")

  return Tokenizer(encode, decode, spans, chat, 257, None, 256, 256)


def named(name: str) -> Tokenizer:
  """The tokens of 'bytes', else of the folder of that name, as :func:`tokenizer` reads it."""
  return byte_tokenizer() if name == "bytes" else tokenizer(name)


def train_tokenizer(folder: str | os.PathLike, texts: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
  """Writes ``tokenizer.json`` of a byte-level BPE of ``vocabulary`` tokens, learned from ``texts``, and reads it.

  Its first token, ``<|end|>``, ends and pads. All 256 bytes are tokens, so that any text comes back as it was. Of which
  texts it is made (of all domains, of the first alone) is a choice of the protocol, and another forgetting. Needs
  ``cljax[pretrained]``. Raises UsageError for fewer than 257 tokens.
  """
  check_integer("vocabulary", vocabulary, 257)
  with needed("train_tokenizer"):
    from tokenizers import Tokenizer as Made
    from tokenizers import decoders, models, pre_tokenizers, trainers
  made = Made(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  made.train_from_iterator(texts, trainers.BpeTrainer(
    vocab_size=vocabulary, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False,
  ))  # fmt: skip
  folder = Path(folder).expanduser()
  folder.mkdir(parents=True, exist_ok=True)
  made.save(str(folder / "tokenizer.json"))
  config = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
  (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
  return tokenizer(folder)


def _word(told: Any) -> str | None:
  """A special token as the config writes it: a word, or an object with its content."""
  return told.get("content") if isinstance(told, dict) else told


def _rendered(template: Any, messages: Sequence[Message], answer: bool, words: Mapping[str, str]) -> str:
  with needed("chat"):
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

  def refuse(message: str):
    raise TemplateError(message)

  if isinstance(template, list):  # several by name
    template = next((t["template"] for t in template if t.get("name") == "default"), template[0]["template"])
  place = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
  place.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
  try:
    return place.from_string(template).render(messages=list(messages), add_generation_prompt=answer, **words)
  except TemplateError as error:
    raise UsageError(f"messages: the chat template refuses them ({' '.join(str(error).split())[:120]})") from None


def answered(tokens: Tokenizer, prompt: str, answer: str, end: bool = True) -> tuple[list[int], list[bool]]:
  """``(ids, learned)`` of a prompt and its answer, made tokens together: learned is each token that reaches into the
  answer, and with ``end`` the end token behind it.

  Tokens of the two by themselves are often others: a space that begins an answer belongs to its first word. Raises
  UsageError for an empty answer, and with ``end`` for a tokenizer without an end token.
  """
  if not answer:
    raise UsageError("answer: is empty; nothing would be learned")
  ids, spans = tokens.encode(prompt + answer), tokens.spans(prompt + answer)
  learned = [end_ > len(prompt) for _, end_ in spans]
  if end:
    if tokens.end is None:
      raise UsageError("end: the tokenizer has no end token")
    ids, learned = [*ids, tokens.end], [*learned, True]
  return ids, learned


def conversation(tokens: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
  """``(ids, learned)`` of a conversation in the chat template: learned are the assistant's turns with the end of each.

  Where a turn begins is where the template, asked for an answer, ends; that this is a beginning of the whole is
  checked, in tokens. The end of a turn is learned by its place, though it may be the token that pads. Raises UsageError
  where the template writes something else in front of a turn, and for a conversation without one of the assistant.
  """
  ids = tokens.encode(tokens.chat(messages))
  learned = [False] * len(ids)
  for i, message in enumerate(messages):
    if message.get("role") != "assistant":
      continue
    before, upto = tokens.encode(tokens.chat(messages[:i], answer=True)), tokens.encode(tokens.chat(messages[: i + 1]))
    if ids[: len(before)] != before or ids[: len(upto)] != upto:
      raise UsageError(f"messages: what the template writes in front of turn {i} is no beginning of the whole")
    turn = upto[len(before) :]
    size = (
      len(turn) - turn[::-1].index(tokens.end) if tokens.end in turn else len(turn)
    )  # what follows is no part of it
    learned[len(before) : len(before) + size] = [True] * size
  if not any(learned):
    raise UsageError("messages: there is no turn of the assistant; nothing would be learned")
  return ids, learned
