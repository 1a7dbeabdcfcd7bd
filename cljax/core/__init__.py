"""What all of cljax stands on: types, trees, the form of a method, rows, checks. Nothing here imports the rest."""
