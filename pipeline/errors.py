"""The errors of the pipeline's programs and steps."""


class PipelineError(Exception):
    """The base of all errors here; the text is one line for the user."""


class EvaluationError(PipelineError):
    """held-out.json is invalid, or a model could not be loaded, did not respond, or returned invalid predictions."""


class StepError(SystemExit, PipelineError):
    """A step failed. As a SystemExit it ends the step's process with this text and no traceback."""
