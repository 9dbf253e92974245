"""Images: where they come from, the shards they lie in, and the batches drawn from them."""
