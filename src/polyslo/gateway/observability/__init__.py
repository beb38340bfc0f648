"""What is told to monitoring: metrics, dashboards, traces, log lines."""
