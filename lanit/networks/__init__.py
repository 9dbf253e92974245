"""Network definitions; they know nothing of losses, data or training."""
