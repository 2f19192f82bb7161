"""Which rows are in which batch, and the loader that makes the batches."""
