"""Images and labels for training and evaluation: TFDS data sets and folders in, batches of arrays out.

`create(config.data, ...)` gives a `Pipeline`: `train(start_step)` and `evaluation(split)` iterate over this host's
batches, `preprocess(train)` is the part that runs on the device.
"""

from input_pipeline.pipeline import Info, Pipeline, create

__all__ = ["Info", "Pipeline", "create"]
