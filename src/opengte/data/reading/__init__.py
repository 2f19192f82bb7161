"""Reading of source files: formats, columns, and the files that are written back."""
