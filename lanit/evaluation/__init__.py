"""Protocols, translations, features and scores; a method is seen through its protocol alone."""
