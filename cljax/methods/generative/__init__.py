"""Methods that replay what a generator makes up, in place of stored rows."""
