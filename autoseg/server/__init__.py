"""Prediction as a service: jobs, the process with the models, files that come and go; `http` speaks to clients."""
