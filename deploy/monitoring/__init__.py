"""Prometheus rules, alerts and dashboards of a fleet, and what makes and checks them."""
