"""One module per protocol: bodies in, bodies out, errors; pure functions of data, no I/O."""
