"""Who may do what: certificates, tokens, rights by group of methods and by model, and limits. Fronts and replicas."""
