"""The contracts: .proto files with their generated code, and the model card's schema. Imports nothing of ours."""
