"""What runs the gateway: container, Prometheus, Grafana, Kubernetes."""
