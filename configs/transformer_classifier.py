"""ResNet with a Transformer encoder (Vaswani et al., NIPS 2017, arXiv:1706.03762) in place of its last stage.

    python train.py --config=configs/transformer_classifier.py                   a small one, the digits
    python train.py --config=configs/transformer_classifier.py:fashion_mnist     the same, Fashion-MNIST
    python train.py --config=configs/transformer_classifier.py:imagenet          attention_resnet50, ImageNet
    python train.py --config=configs/transformer_classifier.py:smoke             a few steps on synthetic images

The paper translates sentences. ImageNet is ResNet's recipe (arXiv:1512.03385, section 3.4: batches of 256, rate 0.1,
weight decay 1e-4), of 90 epochs, with five epochs of warmup, a cosine in place of steps, and gradients clipped at a
norm of 1, because of the attention. Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = ("attention_resnet50",)
SMALL = {
    "stage_sizes": (1, 2),
    "stage_features": (16, 32),
    "stem_features": 32,
    "token_features": 96,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe(
        "configs/transformer_classifier.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.optimizer.grad_clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.1
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_learning_rate = 0.0
