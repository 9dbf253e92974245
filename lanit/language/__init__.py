"""CLIP, prompts, embeddings and the pseudo labels made from them."""
