"""The runtime: networks, the engine that packs rows, replicas, and the gRPC front before them."""
