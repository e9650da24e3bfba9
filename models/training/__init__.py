"""Training of networks: reference classifiers, fine-tuning, adversarial training, distillation, binary networks."""
