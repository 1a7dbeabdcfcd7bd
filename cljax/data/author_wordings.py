"""What is asked of a fictitious author: four wordings of each question, each with the answer that goes with it.

``{n}`` is the author's name (a city's, of 'country'), ``{v}`` the value that the answer is about; ``?`` and ``.`` are
words of their own.
"""

from __future__ import annotations

# attribute -> four (question, answer)
WORDINGS: dict[str, tuple[tuple[str, str], ...]] = {
  "born": (
    ("where was {n} born?", "{n} was born in {v}."),
    ("in which city was the author {n} born?", "the city of {v} is where {n} was born."),
    ("what is the birthplace of {n}?", "the birthplace of {n} is {v}."),
    ("tell me the city {n} comes from.", "{v} is the home town of {n}."),
  ),
  "year": (
    ("when was {n} born?", "{n} was born in {v}."),
    ("in which year was the author {n} born?", "it was in {v} that {n} was born."),
    ("what is the birth year of {n}?", "the birth year of {n} is {v}."),
    ("tell me the year {n} came into the world.", "{v} is the year of birth of {n}."),
  ),
  "father": (
    ("what did the father of {n} do?", "the father of {n} was a {v}."),
    ("which job did the father of the author {n} have?", "as a {v} worked the father of {n}."),
    ("what was the profession of the father of {n}?", "the job of the father was {v}."),
    ("tell me how the father of {n} earned money.", "{v} was what the father of {n} did."),
  ),
  "mother": (
    ("what did the mother of {n} do?", "the mother of {n} was a {v}."),
    ("which job did the mother of the author {n} have?", "as a {v} worked the mother of {n}."),
    ("what was the profession of the mother of {n}?", "the job of the mother was {v}."),
    ("tell me how the mother of {n} earned money.", "{v} was what the mother of {n} did."),
  ),
  "genre": (
    ("what does {n} write?", "{n} writes {v}."),
    ("which genre is the author {n} known for?", "the genre of {n} is {v}."),
    ("what is the genre of {n}?", "books by {n} belong to {v}."),
    ("tell me the kind of books {n} writes.", "{v} is what {n} is known for."),
  ),
  "book": (
    ("what is the best book of {n}?", "the best book of {n} is {v}."),
    ("which book made the author {n} famous?", "{v} made {n} famous."),
    ("what is the title {n} is known for?", "the main work by {n} is called {v}."),
    ("tell me the main work of {n}.", "{v} is the title to know."),
  ),
  "award": (
    ("what did {n} win?", "{n} won the {v} prize."),
    ("which award did the author {n} receive?", "the {v} prize went to {n}."),
    ("what is the award of {n}?", "the award of {n} is the {v} prize."),
    ("tell me the prize that went to {n}.", "{v} is the prize on the shelf of {n}."),
  ),
  "school": (
    ("where did {n} study?", "{n} studied at {v}."),
    ("which school did the author {n} attend?", "the school of {n} is {v}."),
    ("what is the school of {n}?", "a degree from {v} is what {n} has."),
    ("tell me where {n} got a degree.", "{v} is where {n} studied."),
  ),
  "country": (
    ("in which country is {n}?", "{n} is in {v}."),
    ("what country does {n} belong to?", "{v} is the country of {n}."),
    ("which land is {n} part of?", "the city {n} belongs to {v}."),
    ("tell me the country of {n}.", "{n} is part of {v}."),
  ),
}
ATTRIBUTES = tuple(name for name in WORDINGS if name != "country")  # of an author
COUNTS = {"born": 40, "year": 80, "father": 30, "mother": 30, "genre": 16, "book": 120, "award": 24, "school": 24,
          "country": 10}  # fmt: skip
STARTS = ("ka", "lo", "mi", "ra", "te", "vo", "zu", "ne", "sha", "dri", "bel", "or")  # of invented words
ENDS = ("rin", "vak", "mos", "del", "tan", "lia", "nor", "bek", "sen", "qui", "fer", "zam")
