"""Tables, plots and the page, from result rows and the study; no TensorFlow."""
