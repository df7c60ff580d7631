"""Reports: written, signed, made into documents, delivered."""
