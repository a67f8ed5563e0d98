"""Predictions with ids, confusion matrix, classification report."""
