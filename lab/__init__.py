"""The robustness lab: bring a classifier, see what breaks it and what helps, and take a defended bundle away (`hauberk lab`)."""
