"""Deployment of the gateway: container, Prometheus, Grafana, Kubernetes."""
