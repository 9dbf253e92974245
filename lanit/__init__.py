"""LANIT: language-driven image-to-image translation for unlabelled data, as a checkable experiment pipeline."""

__version__ = "0.1.0"
