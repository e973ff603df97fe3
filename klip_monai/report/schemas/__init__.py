"""Published JSON Schemas of summaries, and what writes them."""
