"""Training of evasion detectors, and the adversarial examples they are trained on."""
