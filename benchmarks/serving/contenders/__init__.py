"""The peers, as services of their own: what somebody would write who serves the same model without this project."""
