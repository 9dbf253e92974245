"""What a user may set of each method, in dataclasses that need no torch."""
