"""Helpers of cljax.methods; its records stand in the other modules, by family."""

from records.form import Record

KIND = "method"
HELPERS = {
  "METHODS": "the registry",
  "Entry": "a row of the registry",
  "Paper": "a row of the table of papers",
  "Option": "a hyper-parameter",
  "Plan": "checked methods and options",
  "check_options": "checks options",
  "lookup": "looks up a name",
  "make": "makes a method by name",
  "of_one_model": "makes parts on one model",
  "plan": "checks sections",
  "register": "adds a name",
}
RECORDS: dict[str, Record] = {}
