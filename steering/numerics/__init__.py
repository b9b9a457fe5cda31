"""Numbers whose bits depend on nothing beside their own row: noise, tiles of products, weights."""
