"""Deployment of the image to Google Kubernetes Engine: `python -m deploy.gke`, used by make deploy-gke."""
