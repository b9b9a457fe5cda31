"""What requests for pictures take beside a sampler: prompts are read and encoded, pictures encoded and decoded."""
