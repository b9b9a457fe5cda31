"""A request becomes a task for the engine, and its result an answer."""
