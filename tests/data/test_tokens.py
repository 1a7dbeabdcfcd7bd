"""Tokenizers of folders: what they add, cut and pad; chat templates; which tokens of an answer are learned."""

import json

import pytest

from cljax import data
from cljax.core.types import UsageError

TEMPLATE = (
  "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|start|>system\nBe good<|end|>\n{% endif %}"
  "<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TEXT = "the cat sat on the mat. Rome is the capital of Italy. " * 3
START, END = 0, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A byte-level BPE whose file begins every text with a token, cuts it at 4 and pads it to 8."""
  from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

  made = Tokenizer(models.BPE())
  made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  special = [AddedToken(t, special=True) for t in ("<|start|>", "<|end|>")]
  made.train_from_iterator([TEXT], trainers.BpeTrainer(
    vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
  ))  # fmt: skip
  made.post_processor = processors.TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", START)])
  made.enable_truncation(4)
  made.enable_padding(length=8)
  path = tmp_path_factory.mktemp("tokens")
  made.save(str(path / "tokenizer.json"))
  config = {
    "bos_token": "<|start|>",
    "eos_token": {"content": "<|end|>"},
    "pad_token": "<|end|>",
    "chat_template": TEMPLATE,
  }
  (path / "tokenizer_config.json").write_text(json.dumps(config))
  return path


def test_a_text_becomes_all_of_its_tokens_and_nothing_else(folder):
  """Neither cut nor padded nor begun, whatever the file asks for; another alphabet comes back too."""
  tokens = data.tokenizer(folder)
  ids = tokens.encode(TEXT)
  assert tokens.decode(ids) == TEXT
  assert len(ids) > 8
  assert START not in ids
  assert "".join(TEXT[a:b] for a, b in tokens.spans(TEXT)) == TEXT
  assert tokens.decode(tokens.encode("naïve 日本 ё")) == "naïve 日本 ё"
  assert (tokens.begin, tokens.end, tokens.pad) == (START, END, END)
  assert (
    max(ids)
    < tokens.vocabulary
    == 1 + max(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].values())
  )
  assert tokens.encode("<|end|>x")[0] == END
  assert tokens.decode([END, *tokens.encode("x")]) == "x"
  assert tokens.decode([END, *tokens.encode("x")], special=True) == "<|end|>x"


def test_a_template_writes_its_own_beginning_once(folder):
  tokens = data.tokenizer(folder)
  asked = [{"role": "user", "content": "Where?"}]
  said = tokens.chat(asked, answer=True)
  assert said == "<|start|>system\nBe good<|end|>\n<|start|>user\nWhere?<|end|>\n<|start|>assistant\n"
  assert tokens.chat([{"role": "system", "content": "No"}]) == "<|start|>system\nNo<|end|>\n"
  ids = tokens.encode(said)
  assert ids.count(START) == 3
  assert ids[:2] != [START, START]


def test_the_assistant_s_turns_are_learned_with_their_ends(folder):
  """The end token pads too, and is learned by its place; the default system prompt is not."""
  tokens = data.tokenizer(folder)
  turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "On the mat."},
           {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "the cat"}]  # fmt: skip
  ids, learned = data.conversation(tokens, turns)
  assert ids == tokens.encode(tokens.chat(turns))
  runs, open_ = [], False
  for i, there in zip(ids, learned, strict=True):
    if there and not open_:
      runs.append([])
    if there:
      runs[-1].append(i)
    open_ = there
  assert [tokens.decode(r, special=True) for r in runs] == ["On the mat.<|end|>", "the cat<|end|>"]
  with pytest.raises(UsageError, match="there is no turn of the assistant"):
    data.conversation(tokens, turns[:1])


def test_an_answer_is_made_tokens_with_its_prompt(folder):
  """A space that begins the answer belongs to its first word: tokens of both, where two lists would be others."""
  tokens = data.tokenizer(folder)
  ids, learned = data.answered(tokens, "the cat sat on", " the mat.", end=False)
  assert ids == tokens.encode("the cat sat on the mat.")
  assert tokens.decode([i for i, there in zip(ids, learned, strict=True) if there]) == " the mat."
  split, mine = data.answered(tokens, "the cat sat on ", "the mat.", end=False)
  assert split == ids != tokens.encode("the cat sat on ") + tokens.encode("the mat.")
  assert mine == learned, "the token of the border reaches into the answer"
  ended, there = data.answered(tokens, "the cat", " sat")
  assert (ended[-1], there[-1]) == (END, True)
  with pytest.raises(UsageError, match="answer: is empty"):
    data.answered(tokens, "the cat", "")
  with pytest.raises(UsageError, match="end: the tokenizer has no end token"):
    data.answered(tokens._replace(end=None), "the", " cat")


def test_folders_without_a_tokenizer_are_refused(folder, tmp_path, monkeypatch):
  def refused(said):
    with pytest.raises(UsageError, match=said) as error:
      data.tokenizer(tmp_path)
    assert "\n" not in str(error.value)

  refused("has no tokenizer.json; expected a Hugging Face folder with one")
  (tmp_path / "tokenizer.json").write_text("{}")
  refused("tokenizer.json cannot be read")
  (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
  bare = data.tokenizer(tmp_path)
  assert (bare.begin, bare.end, bare.pad) == (None, None, None)
  with pytest.raises(UsageError, match="has no chat template"):
    bare.chat([])
  (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no\ntools') }}")
  with pytest.raises(UsageError, match=r"messages: the chat template refuses them \(no tools\)"):
    data.tokenizer(tmp_path).chat([])
  several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
  assert data.tokenizer(tmp_path).chat([]) == "d"
  (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ ''.__class__.__mro__ }}"}))
  with pytest.raises(UsageError, match="messages: the chat template refuses them"):
    data.tokenizer(tmp_path).chat([])
  (tmp_path / "tokenizer_config.json").write_text("[")
  refused("tokenizer_config.json cannot be read")
  monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
  refused(r"tokenizer: needs tokenizers, which is not installed; pip install 'cljax\[pretrained\]'")
