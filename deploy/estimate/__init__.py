"""What a traffic costs, and how many replicas it takes: python -m deploy estimate --help. Pure but for files.

curve.py (requests that come) → waiting.py (a queue before replicas, replica.py, as measured.py has them)
→ scaler.py (how many there are) → simulate.py → bill.py → report.py. products.py holds what differs between
Vertex AI, GKE, Cloud Run and Cloud Functions. docs/scale.md says where each number comes from.
"""
