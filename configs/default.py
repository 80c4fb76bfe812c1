"""Every field of a run, with its default, unit and meaning; recipes change values and never add a field.

Two places are open, because their fields belong to the class that is named beside them: `model.fields` goes to the
network, `model.norm.fields` to the normalization; a name that the class does not have fails, with a suggestion.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The locked defaults. Take a copy by calling, change values, return it."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_epochs = 90.0  # passes over the training split; num_steps, where given, wins
    config.num_steps = 0  # optimiser updates in all; 0 derives it from num_epochs
    config.global_batch_size = 256  # examples an update, over all devices, hosts and micro-batches
    config.eval_batch_size = 0  # an evaluation step, over all devices; 0: global_batch_size / num_micro_batches
    # Of batch norms in evaluation: running, last_batch, last_batch_averaged, precise; see arch/training/statistics.py.
    config.eval_statistics = "running"
    config.precise_batches = 32  # of precise: so many training batches, the last ones
    config.num_micro_batches = 1  # a device's batch is split into so many, one after the other (gradient accumulation)
    config.label_smoothing = 0.0  # in [0, 1): the share of the target spread evenly over all classes
    config.measure_noise = False  # logs the gradient noise scale, in examples; needs two devices or micro-batches
    config.ema_decay = 0.0  # of the parameters, per step; 0 keeps no average
    config.init_from = ""  # weights to start from: our .safetensors, or torchvision's or timm's .pth or .safetensors
    config.raise_on_nan = True  # a non-finite loss or gradient freezes the state on the device and ends the run

    config.model = ml_collections.ConfigDict()
    config.model.name = "shufflenet_v2_x1_0"  # a key of arch.models.MODELS
    config.model.dtype = "float32"  # of the computation: bfloat16, float32, float64; parameters are at least float32
    config.model.fields = ml_collections.ConfigDict()  # fields of that network
    config.model.conv = ml_collections.ConfigDict()
    config.model.conv.name = "conv"  # a key of arch.norm.weight.CONVS: conv, weight_norm, weight_standardization
    config.model.conv.data_dependent_init = False  # of weight_norm: the first batch sets lengths and biases
    config.model.norm = ml_collections.ConfigDict()
    config.model.norm.name = "batch_norm"  # a key of arch.norm.NORMS: batch_norm (per replica), sync_batch_norm, ...
    config.model.norm.fields = ml_collections.ConfigDict()  # fields of that normalization

    config.data = ml_collections.ConfigDict()
    config.data.name = "digits"  # digits (embedded), synthetic, folder (train/CLASS/*.jpg), or a TFDS name
    config.data.dir = ""  # where TFDS, or the folder, lies; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.data.train_split = "train"  # TFDS slices; of a folder: train, val
    config.data.val_split = ""  # chooses the best checkpoint; "" chooses none
    config.data.test_split = "test"  # reported, never used to choose; "" reports none
    config.data.image_size = 224  # pixels, height and width of what the network sees
    config.data.num_channels = 3  # 1 or 3; images of the other kind are converted
    config.data.mean = (0.485, 0.456, 0.406)  # per channel, of values in [0, 1]
    config.data.std = (0.229, 0.224, 0.225)
    config.data.crop = "none"  # of training images: none, pad (pad, then crop), random_resized
    config.data.crop_padding = 4  # pixels, of crop=pad
    config.data.crop_area = (0.08, 1.0)  # share of the image's area, of crop=random_resized
    config.data.crop_aspect = (3 / 4, 4 / 3)  # width / height, of crop=random_resized
    config.data.flip = False  # training images are mirrored left-right with probability 1/2
    config.data.color_jitter = 0.0  # brightness, contrast and saturation factors in [1 - x, 1 + x], in random order
    config.data.eval_crop_ratio = 0.875  # the shorter side is resized to image_size / this, then the centre cropped
    config.data.in_memory = "auto"  # auto, yes, no: decode once, keep all examples, augment on the device
    config.data.memory_limit_bytes = 2 * 1024**3  # in_memory=auto keeps data sets up to this size
    config.data.cache_dir = "~/.cache/arch/data"  # keeps what was decoded into memory for the next run; "" keeps none
    config.data.num_workers = 0  # decoding processes a host; 0 decodes in threads (enough on few cores)
    config.data.num_threads = 16  # decoding threads a process
    config.data.max_bad_records = 0  # that cannot be decoded; one more, on a host since its start, stops the run

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "momentum"  # momentum, lars, rmsprop_warmup
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 4e-5
    # coupled: part of the gradient, so multiplied by the learning rate; decoupled: the share of a weight that an update
    # takes at schedule.base_learning_rate, and in proportion at other rates.
    config.optimizer.decay_form = "coupled"
    # Leaves of fewer dimensions (biases, scales of norms) do not decay; 0 decays all, as lars slide and optax do.
    config.optimizer.decay_min_ndim = 2
    config.optimizer.grad_clip_norm = 0.0  # largest global norm of the gradient; 0 does not clip
    config.optimizer.momentum_form = 9  # of momentum: 9 has the learning rate outside the buffer, 10 inside
    config.optimizer.momentum_correction = True  # of form 10, where a rate above 0 changes: as form 9
    config.optimizer.lars_variant = "lecture"  # lecture, slide, optax, tpu; see arch/optim/lars.py
    config.optimizer.lars_trust_coefficient = 0.001  # eta; the slide has none
    config.optimizer.rmsprop_rate = 3e-4  # of rmsprop_warmup, which begins as RMSprop and becomes momentum
    config.optimizer.rmsprop_decay = 0.99  # of its averages of squared gradients
    config.optimizer.transition_center_epochs = 10.0  # where both have half of the step
    config.optimizer.transition_period_epochs = 5.0
    config.optimizer.transition_form = "continuous"  # continuous, as_printed; see arch/optim/rmsprop_warmup.py

    config.schedule = ml_collections.ConfigDict()
    config.schedule.name = "linear"  # linear, cosine, polynomial, step, slow_start (stretched to the run), constant
    config.schedule.base_learning_rate = 0.5  # at base_batch_size
    config.schedule.base_batch_size = 0  # linear scaling: peak = base_learning_rate * global_batch_size / this; 0: none
    config.schedule.warmup_name = "gradual"  # gradual: linear per step, to the peak; constant: then a jump to it
    config.schedule.warmup_epochs = 0.0
    config.schedule.warmup_learning_rate = -1.0  # where warmup starts; negative: base_learning_rate
    config.schedule.end_learning_rate = 0.0  # at the last step + 1, of linear, cosine and polynomial
    config.schedule.power = 2.0  # of polynomial
    config.schedule.step_epochs = (30.0, 60.0, 80.0)  # of step, counted from the start of training
    config.schedule.step_factor = 0.1
    # Of step: where the rate would fall, the batch grows instead, by accumulation, until this size; 0: it stays.
    config.schedule.max_batch_size = 0

    config.log_every_steps = 100  # a row of metrics.jsonl
    config.eval_every_epochs = 1.0  # 0 evaluates at the end only
    config.checkpoint_every_steps = 0  # 0 saves at every evaluation; the end and SIGTERM always save
    config.progress_every_seconds = 10.0  # a progress line where there is no terminal
    config.compilation_cache_dir = "~/.cache/arch/jax"  # "" keeps none
    config.profile_steps = 0  # so many steps, from the tenth of this run on, are traced into workdir/profile; 0: none
    return config.lock()
