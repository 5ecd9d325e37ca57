"""Other servers of the same model, each as its own documentation would have it.

Every one of them imports the model, the decoder and the engine out of the same archive that
TorchServe serves here, so that what differs is the server. They run in an environment of their
own (requirements/bench.lock): nothing of this is a dependency of the product.
"""
