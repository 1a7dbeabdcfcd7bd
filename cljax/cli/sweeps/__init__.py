"""Planning the units of a sweep and running them: here, in worker processes, on a cluster."""
