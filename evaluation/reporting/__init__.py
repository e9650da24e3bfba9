"""An evaluation as JSON, plots and a page."""
