"""What is fitted on clean images before serving."""
