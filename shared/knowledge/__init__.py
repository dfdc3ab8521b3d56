"""Documents to searchable chunks: parse, chunk, index, retrieve."""
