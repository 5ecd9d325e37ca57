"""The same image on Google Kubernetes Engine: `python -m deploy.gke`, behind make deploy-gke."""
