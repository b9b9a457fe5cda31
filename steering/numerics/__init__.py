"""Numbers whose bits depend only on their own row: noise, tiles of products, weights."""
