"""An HTTP endpoint that speaks OpenAI's images API: a client of the gRPC port with its callers' own credentials."""
