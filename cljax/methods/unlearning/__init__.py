"""Methods that answer Forget events."""
