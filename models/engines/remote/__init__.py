"""Classifiers behind a model server: the Open Inference Protocol v2 and TensorFlow Serving's REST interface, over HTTP."""
