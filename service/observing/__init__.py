"""What is told about requests: metrics, logs, the audit log, spans."""
