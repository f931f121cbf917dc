"""What administrators retrain with: exports, labels, jobs."""
