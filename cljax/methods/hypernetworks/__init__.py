"""Methods that make the weights of each task from an embedding of it."""
