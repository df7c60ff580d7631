"""Sample studies made by code, under invented names."""
