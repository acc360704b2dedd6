"""The readers under test: one module each, with one ``TARGET``."""
