"""Office documents and e-books: what their packages of XML say, in order."""
