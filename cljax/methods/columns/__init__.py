"""Methods that give each task a column of its own, which reads those of earlier tasks."""
