"""A small ShuffleNet v2 on the digits: seconds to compile, for tests of train.py."""

from configs import common, default


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, dtype="float32", norm="sync_batch_norm", width=0.5)
    config = default.get_config()
    config.num_steps = 12
    config.global_batch_size = 32
    config.ema_decay = 0.9
    config.label_smoothing = 0.1
    config.model.name = "shufflenet_v2_x0_5"
    config.model.dtype = args["dtype"]
    config.model.norm.name = args["norm"]
    fields = {"stem": "small", "stage_sizes": (1, 1, 1), "stage_features": (8, 16, 32), "head_features": 32}
    config.model.fields = type(config)({**fields, "stem_features": 4, "dropout_rate": 0.2})
    config.data.train_split, config.data.val_split = "train[:80%]", "train[80%:]"
    config.data.image_size, config.data.num_channels = 8, 1
    config.data.mean = config.data.std = (0.5,)
    config.data.crop, config.data.crop_padding, config.data.color_jitter = "pad", 1, 0.2
    config.data.eval_crop_ratio = 1.0
    config.schedule.name, config.schedule.base_learning_rate = "cosine", 0.2
    config.log_every_steps, config.eval_every_epochs, config.checkpoint_every_steps = 3, 0.2, 2
    config.eval_batch_size = 128
    return config
