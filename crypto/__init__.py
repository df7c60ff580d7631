"""Keys, ciphertext, certificates and the hash tree: the only package that touches primitives."""
