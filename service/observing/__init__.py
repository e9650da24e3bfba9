"""Records of requests: metrics, logs, the audit log, spans."""
