"""From data, or trained weights in a bucket, to an endpoint in one command: a Kubeflow pipeline.

`story.py` is the pipeline; its steps run the project's own programs (`steps.py`). `here.py` runs it
on this machine by kfp's own local runner; `cloud.py` has Vertex AI Pipelines run it. `story.py` and
`here.py` alone know kfp, which lives in an environment of its own.
"""
