"""Translation methods: each is one class with networks, losses, a step and a way to translate."""
