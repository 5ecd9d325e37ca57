"""A Kubeflow pipeline from training data, or trained weights in a bucket, to an endpoint.

`definition.py` defines the pipeline; its steps run this project's own programs (`steps.py`). `local_runner.py` runs
it on this machine with kfp's local runner; `vertex_runner.py` submits it to Vertex AI Pipelines. Only `definition.py`
and `local_runner.py` import kfp, which has an environment of its own.
"""
