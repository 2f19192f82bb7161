"""Options, inputs, output and errors that several commands share."""
