"""Networks by name: `create("shufflenet_v2_x1_0", num_classes=10)`."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from arch import norm
from arch.errors import named_factory
from arch.models.classification import (
    condensenet,
    darts,
    densenet,
    gunn,
    igcv1,
    nasnet,
    resnet,
    resnet_v2,
    senet,
    shufflenet_v1,
    shufflenet_v2,
)
from arch.models.classification.addressnet import AddressNet
from arch.models.classification.bilinear import BilinearCNN
from arch.models.classification.clcnet import ClcNet
from arch.models.classification.condensenet import CondenseNet
from arch.models.classification.darts import DARTS
from arch.models.classification.deep_roots import NetworkInNetwork
from arch.models.classification.deform_resnet import DEFORM_V1, DeformResNet
from arch.models.classification.densenet import DenseNet
from arch.models.classification.drn import DRN, DRN_A, drn_units
from arch.models.classification.fractalnet import FractalNet
from arch.models.classification.googlenet import GoogLeNet
from arch.models.classification.graph_net import GraphNet
from arch.models.classification.gunn import GUNN
from arch.models.classification.igcv1 import IGCV1
from arch.models.classification.igcv3 import IGCV3
from arch.models.classification.inception_resnet_v2 import InceptionResNetV2
from arch.models.classification.inception_v3 import InceptionV3
from arch.models.classification.inception_v4 import InceptionV4
from arch.models.classification.mobilenet_v1 import MobileNetV1
from arch.models.classification.mobilenet_v2 import MobileNetV2
from arch.models.classification.nas_bench_201 import NASBench201
from arch.models.classification.nasnet import NASNet
from arch.models.classification.nonlocal_resnet import NonLocalResNet
from arch.models.classification.residual_attention import ATTENTION_NEXT, ResidualAttentionNet
from arch.models.classification.resnet import ResNet
from arch.models.classification.resnet_v2 import ResNetV2
from arch.models.classification.senet import SENet
from arch.models.classification.shiftnet import ShiftNet
from arch.models.classification.shiftresnet import ShiftResNet
from arch.models.classification.shufflenet_v1 import ShuffleNetV1
from arch.models.classification.shufflenet_v2 import ShuffleNetV2
from arch.models.classification.shufflenet_v2_plus import ShuffleNetV2Plus
from arch.models.classification.stn import STNClassifier
from arch.models.classification.transformer_classifier import TransformerClassifier
from arch.models.classification.vgg import VGG
from arch.models.classification.xception import Xception
from arch.models.genotypes import DARTS_V1, DARTS_V2
from arch.norm.weight import CONVS, create_conv
from arch.ops import activation

MODELS = {
    "addressnet_20": functools.partial(AddressNet),
    "addressnet_44": functools.partial(AddressNet, stage_sizes=(7, 7, 7)),
    "amoebanet_a_4_50": functools.partial(NASNet, **nasnet.AMOEBANET, stage_sizes=(4, 4, 4), features=50),
    "amoebanet_a_6_190": functools.partial(NASNet, **nasnet.AMOEBANET, features=190),
    "amoebanet_a_6_448": functools.partial(NASNet, **nasnet.AMOEBANET, features=448),
    "attention_56": functools.partial(ResidualAttentionNet, stage_sizes=(1, 1, 1)),
    "attention_92": functools.partial(ResidualAttentionNet, stage_sizes=(1, 2, 3)),
    "attention_next_56": functools.partial(ResidualAttentionNet, **ATTENTION_NEXT, stage_sizes=(1, 1, 1)),
    "attention_next_92": functools.partial(ResidualAttentionNet, **ATTENTION_NEXT, stage_sizes=(1, 2, 3)),
    "attention_resnet50": functools.partial(TransformerClassifier),
    "bcnn_vgg16": functools.partial(BilinearCNN, pooling="bilinear"),
    "cbp_vgg16": functools.partial(BilinearCNN, pooling="compact_tensor_sketch"),
    "cifar_amoebanet_a_6_32": functools.partial(NASNet, **nasnet.AMOEBANET, **nasnet.CIFAR, features=32),
    "cifar_amoebanet_a_6_36": functools.partial(NASNet, **nasnet.AMOEBANET, **nasnet.CIFAR, features=36),
    "cifar_condensenet_110": functools.partial(
        CondenseNet, **condensenet.CIFAR, stage_sizes=(18, 18, 18), growth_rates=(8, 16, 32)
    ),
    "cifar_condensenet_122": functools.partial(
        CondenseNet, **condensenet.CIFAR, stage_sizes=(20, 20, 20), growth_rates=(8, 16, 32)
    ),
    "cifar_condensenet_182": functools.partial(
        CondenseNet, **condensenet.CIFAR, stage_sizes=(30, 30, 30), growth_rates=(12, 24, 48)
    ),
    "cifar_condensenet_50": functools.partial(
        CondenseNet, **condensenet.CIFAR, stage_sizes=(8, 8, 8), growth_rates=(8, 16, 32)
    ),
    "cifar_condensenet_74": functools.partial(
        CondenseNet, **condensenet.CIFAR, stage_sizes=(12, 12, 12), growth_rates=(8, 16, 32)
    ),
    "cifar_condensenet_86": functools.partial(
        CondenseNet, **condensenet.CIFAR, stage_sizes=(14, 14, 14), growth_rates=(8, 16, 32)
    ),
    "cifar_condensenet_98": functools.partial(
        CondenseNet, **condensenet.CIFAR, stage_sizes=(16, 16, 16), growth_rates=(8, 16, 32)
    ),
    "cifar_darts_v1": functools.partial(DARTS, **darts.CIFAR, genotype=DARTS_V1),
    "cifar_darts_v2": functools.partial(DARTS, **darts.CIFAR, genotype=DARTS_V2),
    "cifar_densenet_100_12": functools.partial(DenseNet, **densenet.CIFAR, stage_sizes=(32, 32, 32), growth_rate=12),
    "cifar_densenet_100_24": functools.partial(DenseNet, **densenet.CIFAR, stage_sizes=(32, 32, 32), growth_rate=24),
    "cifar_densenet_40_12": functools.partial(DenseNet, **densenet.CIFAR, stage_sizes=(12, 12, 12), growth_rate=12),
    "cifar_densenet_bc_100_12": functools.partial(
        DenseNet, **densenet.CIFAR_BC, stage_sizes=(16, 16, 16), growth_rate=12, stem_features=24
    ),
    "cifar_densenet_bc_190_40": functools.partial(
        DenseNet, **densenet.CIFAR_BC, stage_sizes=(31, 31, 31), growth_rate=40, stem_features=80
    ),
    "cifar_densenet_bc_250_24": functools.partial(
        DenseNet, **densenet.CIFAR_BC, stage_sizes=(41, 41, 41), growth_rate=24, stem_features=48
    ),
    "cifar_igcv1_l24m2_d20": functools.partial(IGCV1, **igcv1.cifar(20, 24, 2)),
    "cifar_igcv1_l24m2_d38": functools.partial(IGCV1, **igcv1.cifar(38, 24, 2)),
    "cifar_igcv1_l24m2_d62": functools.partial(IGCV1, **igcv1.cifar(62, 24, 2)),
    "cifar_igcv1_l24m2_d8": functools.partial(IGCV1, **igcv1.cifar(8, 24, 2)),
    "cifar_igcv1_l4m8_d20": functools.partial(IGCV1, **igcv1.cifar(20, 4, 8)),
    "cifar_igcv1_l4m8_d38": functools.partial(IGCV1, **igcv1.cifar(38, 4, 8)),
    "cifar_igcv1_l4m8_d62": functools.partial(IGCV1, **igcv1.cifar(62, 4, 8)),
    "cifar_igcv1_l4m8_d8": functools.partial(IGCV1, **igcv1.cifar(8, 4, 8)),
    "cifar_nasnet_a": functools.partial(NASNet, **nasnet.CIFAR, features=32),
    "cifar_resnet110": functools.partial(ResNet, **resnet.CIFAR, stage_sizes=(18, 18, 18)),
    "cifar_resnet20": functools.partial(ResNet, **resnet.CIFAR, stage_sizes=(3, 3, 3)),
    "cifar_resnet32": functools.partial(ResNet, **resnet.CIFAR, stage_sizes=(5, 5, 5)),
    "cifar_resnet44": functools.partial(ResNet, **resnet.CIFAR, stage_sizes=(7, 7, 7)),
    "cifar_resnet56": functools.partial(ResNet, **resnet.CIFAR, stage_sizes=(9, 9, 9)),
    "cifar_resnetv2_1001": functools.partial(ResNetV2, **resnet_v2.CIFAR, stage_sizes=(111, 111, 111)),
    "cifar_resnetv2_110": functools.partial(
        ResNetV2, **resnet_v2.CIFAR, unit="basic", shortcut="zero_pad", stage_sizes=(18, 18, 18)
    ),
    "cifar_resnetv2_164": functools.partial(ResNetV2, **resnet_v2.CIFAR, stage_sizes=(18, 18, 18)),
    "cifar_resnext29_16x64d": functools.partial(ResNet, **resnet.CIFAR_RESNEXT29, groups=16),
    "cifar_resnext29_8x64d": functools.partial(ResNet, **resnet.CIFAR_RESNEXT29, groups=8),
    "clcnet_a": functools.partial(ClcNet),
    "clcnet_b": functools.partial(ClcNet, stage_sizes=(1, 2, 2, 8, 4)),
    "condensenet_74": functools.partial(CondenseNet),
    "condensenet_74_g8": functools.partial(CondenseNet, num_groups=8),
    "darts_v1": functools.partial(DARTS, **darts.IMAGENET, genotype=DARTS_V1),
    "darts_v2": functools.partial(DARTS, **darts.IMAGENET, genotype=DARTS_V2),
    "deep_roots_nin": functools.partial(NetworkInNetwork),
    "deep_roots_nin_root16": functools.partial(NetworkInNetwork, groups=(1, 16, 8)),
    "deep_roots_nin_root2": functools.partial(NetworkInNetwork, groups=(1, 2, 1)),
    "deep_roots_nin_root4": functools.partial(NetworkInNetwork, groups=(1, 4, 2)),
    "deep_roots_nin_root8": functools.partial(NetworkInNetwork, groups=(1, 8, 4)),
    "deep_roots_resnet50_root16": functools.partial(ResNet, groups=(16, 8, 4, 2), stride_at="first"),
    "deep_roots_resnet50_root2": functools.partial(ResNet, groups=(2, 1, 1, 1), stride_at="first"),
    "deep_roots_resnet50_root32": functools.partial(ResNet, groups=(32, 16, 8, 4), stride_at="first"),
    "deep_roots_resnet50_root4": functools.partial(ResNet, groups=(4, 2, 1, 1), stride_at="first"),
    "deep_roots_resnet50_root64": functools.partial(ResNet, groups=(64, 32, 16, 8), stride_at="first"),
    "deep_roots_resnet50_root8": functools.partial(ResNet, groups=(8, 4, 2, 1), stride_at="first"),
    "deform_resnet50": functools.partial(DeformResNet, **DEFORM_V1),
    "deform_resnet50_v2": functools.partial(DeformResNet),
    "densenet121": functools.partial(DenseNet, stage_sizes=(6, 12, 24, 16)),
    "densenet161": functools.partial(DenseNet, stage_sizes=(6, 12, 36, 24), growth_rate=48, stem_features=96),
    "densenet169": functools.partial(DenseNet, stage_sizes=(6, 12, 32, 32)),
    "densenet201": functools.partial(DenseNet, stage_sizes=(6, 12, 48, 32)),
    "drn_a_18": functools.partial(ResNet, unit="basic", stage_sizes=(2, 2, 2, 2), **DRN_A),
    "drn_a_34": functools.partial(ResNet, unit="basic", stage_sizes=(3, 4, 6, 3), **DRN_A),
    "drn_a_50": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), **DRN_A),
    "drn_b_26": functools.partial(DRN, stage_units=drn_units("b", "basic"), stage_sizes=(1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_c_26": functools.partial(DRN, stage_units=drn_units("c", "basic"), stage_sizes=(1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_c_42": functools.partial(DRN, stage_units=drn_units("c", "basic"), stage_sizes=(1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_c_58": functools.partial(DRN, stage_units=drn_units("c", "bottleneck"), stage_sizes=(1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_105": functools.partial(
        DRN, stage_units=drn_units("d", "bottleneck"), stage_sizes=(1, 1, 3, 4, 23, 3, 1, 1)
    ),
    "drn_d_107": functools.partial(
        DRN, stage_units=drn_units("d", "bottleneck"), stage_sizes=(1, 1, 3, 4, 23, 3, 2, 2)
    ),
    "drn_d_22": functools.partial(DRN, stage_units=drn_units("d", "basic"), stage_sizes=(1, 1, 2, 2, 2, 2, 1, 1)),
    "drn_d_24": functools.partial(DRN, stage_units=drn_units("d", "basic"), stage_sizes=(1, 1, 2, 2, 2, 2, 2, 2)),
    "drn_d_38": functools.partial(DRN, stage_units=drn_units("d", "basic"), stage_sizes=(1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_40": functools.partial(DRN, stage_units=drn_units("d", "basic"), stage_sizes=(1, 1, 3, 4, 6, 3, 2, 2)),
    "drn_d_54": functools.partial(DRN, stage_units=drn_units("d", "bottleneck"), stage_sizes=(1, 1, 3, 4, 6, 3, 1, 1)),
    "drn_d_56": functools.partial(DRN, stage_units=drn_units("d", "bottleneck"), stage_sizes=(1, 1, 3, 4, 6, 3, 2, 2)),
    "fractalnet_20": functools.partial(FractalNet, num_columns=3),
    "fractalnet_40": functools.partial(FractalNet, num_columns=4),
    "g2denet_vgg16": functools.partial(BilinearCNN, pooling="gaussian"),
    "googlenet": functools.partial(GoogLeNet),
    "graph_net": functools.partial(GraphNet),
    "gunn_15": functools.partial(GUNN, **gunn.CIFAR),
    "gunn_18": functools.partial(GUNN),
    "igcv1_l100m2": functools.partial(IGCV1),
    "igcv1_l16m16": functools.partial(
        IGCV1, stage_features=(256, 512, 1024, 2048), stage_primary_groups=(16,) * 4, stem_features=256
    ),
    "igcv1_l4m32": functools.partial(
        IGCV1, stage_features=(128, 256, 512, 1024), stage_primary_groups=(4,) * 4, stem_features=128
    ),
    "igcv3_d": functools.partial(IGCV3),
    "improved_bcnn_vgg16": functools.partial(BilinearCNN, pooling="improved"),
    "inception_resnet_v2": functools.partial(InceptionResNetV2),
    "inception_v3": functools.partial(InceptionV3),
    "inception_v4": functools.partial(InceptionV4),
    "isqrt_cov_resnet101": functools.partial(
        BilinearCNN,
        trunk="resnet",
        stage_sizes=(3, 4, 23, 3),
        stage_strides=(1, 2, 2, 1),
        pooling="isqrt",
        reduction_features=256,
        activate_reduction=True,
    ),
    "isqrt_cov_resnet50": functools.partial(
        BilinearCNN,
        trunk="resnet",
        stage_sizes=(3, 4, 6, 3),
        stage_strides=(1, 2, 2, 1),
        pooling="isqrt",
        reduction_features=256,
        activate_reduction=True,
    ),
    "isqrt_cov_vgg16": functools.partial(BilinearCNN, pooling="isqrt", reduction_features=256, activate_reduction=True),
    "lrbp_vgg16": functools.partial(BilinearCNN, pooling="low_rank", reduction_features=100),
    "mobilenet_v1": functools.partial(MobileNetV1),
    "mobilenet_v2": functools.partial(MobileNetV2),
    "mpn_cov_resnet50": functools.partial(
        BilinearCNN,
        trunk="resnet",
        stage_sizes=(3, 4, 6, 3),
        stage_strides=(1, 2, 2, 1),
        pooling="covariance_power",
        reduction_features=256,
        activate_reduction=True,
    ),
    "nas_bench_201": functools.partial(NASBench201),
    "nasnet_a_large": functools.partial(NASNet, **nasnet.LARGE),
    "nasnet_a_mobile": functools.partial(NASNet, stage_sizes=(4, 4, 4), features=44),
    "nonlocal_resnet50": functools.partial(NonLocalResNet),
    "nonlocal_resnet50_1block": functools.partial(NonLocalResNet, blocks_after=((), (), (5,), ())),
    "pnasnet_5_large": functools.partial(NASNet, **nasnet.PNASNET),
    "resnet101": functools.partial(ResNet, stage_sizes=(3, 4, 23, 3)),
    "resnet101_v1": functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), stride_at="first"),
    "resnet152": functools.partial(ResNet, stage_sizes=(3, 8, 36, 3)),
    "resnet152_v1": functools.partial(ResNet, stage_sizes=(3, 8, 36, 3), stride_at="first"),
    "resnet18": functools.partial(ResNet, unit="basic", stage_sizes=(2, 2, 2, 2)),
    "resnet200": functools.partial(ResNet, stage_sizes=(3, 24, 36, 3)),
    "resnet34": functools.partial(ResNet, unit="basic", stage_sizes=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3)),
    "resnet50_v1": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), stride_at="first"),
    "resnetv2_101": functools.partial(ResNetV2, stage_sizes=(3, 4, 23, 3)),
    "resnetv2_152": functools.partial(ResNetV2, stage_sizes=(3, 8, 36, 3)),
    "resnetv2_18": functools.partial(ResNetV2, unit="basic", stage_sizes=(2, 2, 2, 2)),
    "resnetv2_200": functools.partial(ResNetV2, stage_sizes=(3, 24, 36, 3)),
    "resnetv2_34": functools.partial(ResNetV2, unit="basic", stage_sizes=(3, 4, 6, 3)),
    "resnetv2_50": functools.partial(ResNetV2, stage_sizes=(3, 4, 6, 3)),
    "resnext101_32x4d": functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), groups=32, base_width=4),
    "resnext101_32x8d": functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), groups=32, base_width=8),
    "resnext101_64x4d": functools.partial(ResNet, stage_sizes=(3, 4, 23, 3), groups=64, base_width=4),
    "resnext50_32x4d": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), groups=32, base_width=4),
    "se_resnet101": functools.partial(SENet, stage_sizes=(3, 4, 23, 3)),
    "se_resnet152": functools.partial(SENet, stage_sizes=(3, 8, 36, 3)),
    "se_resnet18": functools.partial(SENet, unit="basic", stage_sizes=(2, 2, 2, 2)),
    "se_resnet34": functools.partial(SENet, unit="basic", stage_sizes=(3, 4, 6, 3)),
    "se_resnet50": functools.partial(SENet, stage_sizes=(3, 4, 6, 3)),
    "se_resnext101_32x4d": functools.partial(SENet, **senet.SE_RESNEXT, stage_sizes=(3, 4, 23, 3)),
    "se_resnext50_32x4d": functools.partial(SENet, **senet.SE_RESNEXT, stage_sizes=(3, 4, 6, 3)),
    "se_shufflenet_v2_164": functools.partial(ShuffleNetV2, **shufflenet_v2.DEEP, se_reduction=16),
    "se_shufflenet_v2_x0_5": functools.partial(ShuffleNetV2, width_multiplier=0.5, se_reduction=16),
    "se_shufflenet_v2_x1_0": functools.partial(ShuffleNetV2, width_multiplier=1.0, se_reduction=16),
    "se_shufflenet_v2_x1_5": functools.partial(ShuffleNetV2, width_multiplier=1.5, se_reduction=16),
    "se_shufflenet_v2_x2_0": functools.partial(ShuffleNetV2, width_multiplier=2.0, se_reduction=16),
    "senet154": functools.partial(SENet, **senet.SENET154),
    "shiftnet_a": functools.partial(ShiftNet),
    "shiftnet_b": functools.partial(ShiftNet, stage_features=(32, 64, 128, 256), stem_features=16),
    "shiftnet_c": functools.partial(
        ShiftNet,
        stage_sizes=(1, 4, 4, 3),
        stage_features=(32, 64, 128, 256),
        stage_kernel_sizes=(3, 3, 3, 3),
        expand_ratios=((1, 1),) * 4,
        concatenate=False,
        stem_features=16,
    ),
    "shiftresnet110_e3": functools.partial(ShiftResNet, stage_sizes=(18, 18, 18)),
    "shiftresnet20_e3": functools.partial(ShiftResNet),
    "shiftresnet56_e3": functools.partial(ShiftResNet, stage_sizes=(9, 9, 9)),
    "shufflenet_v1_50": functools.partial(ShuffleNetV1, **shufflenet_v1.LARGE),
    "shufflenet_v1_g1": functools.partial(ShuffleNetV1, groups=1),
    "shufflenet_v1_g2": functools.partial(ShuffleNetV1, groups=2),
    "shufflenet_v1_g3": functools.partial(ShuffleNetV1, groups=3),
    "shufflenet_v1_g4": functools.partial(ShuffleNetV1, groups=4),
    "shufflenet_v1_g8": functools.partial(ShuffleNetV1, groups=8),
    "shufflenet_v2_50": functools.partial(ShuffleNetV2, **shufflenet_v2.LARGE),
    "shufflenet_v2_plus_large": functools.partial(ShuffleNetV2Plus, stage_features=(68, 168, 336, 672)),
    "shufflenet_v2_plus_medium": functools.partial(ShuffleNetV2Plus, stage_features=(48, 128, 256, 512)),
    "shufflenet_v2_plus_small": functools.partial(ShuffleNetV2Plus, stage_features=(36, 104, 208, 416)),
    "shufflenet_v2_star_x0_5": functools.partial(ShuffleNetV2, width_multiplier=0.5, branch="star"),
    "shufflenet_v2_star_x1_0": functools.partial(ShuffleNetV2, width_multiplier=1.0, branch="star"),
    "shufflenet_v2_star_x1_5": functools.partial(ShuffleNetV2, width_multiplier=1.5, branch="star"),
    "shufflenet_v2_star_x2_0": functools.partial(ShuffleNetV2, width_multiplier=2.0, branch="star"),
    "shufflenet_v2_x0_5": functools.partial(ShuffleNetV2, width_multiplier=0.5),
    "shufflenet_v2_x1_0": functools.partial(ShuffleNetV2, width_multiplier=1.0),
    "shufflenet_v2_x1_5": functools.partial(ShuffleNetV2, width_multiplier=1.5),
    "shufflenet_v2_x2_0": functools.partial(ShuffleNetV2, width_multiplier=2.0),
    "stn_classifier": functools.partial(STNClassifier),
    "vgg11": functools.partial(VGG, stage_sizes=(1, 1, 2, 2, 2)),
    "vgg11_bn": functools.partial(VGG, stage_sizes=(1, 1, 2, 2, 2), use_norm=True),
    "vgg13": functools.partial(VGG, stage_sizes=(2, 2, 2, 2, 2)),
    "vgg13_bn": functools.partial(VGG, stage_sizes=(2, 2, 2, 2, 2), use_norm=True),
    "vgg16": functools.partial(VGG, stage_sizes=(2, 2, 3, 3, 3)),
    "vgg16_bn": functools.partial(VGG, stage_sizes=(2, 2, 3, 3, 3), use_norm=True),
    "vgg19": functools.partial(VGG, stage_sizes=(2, 2, 4, 4, 4)),
    "vgg19_bn": functools.partial(VGG, stage_sizes=(2, 2, 4, 4, 4), use_norm=True),
    "xception": functools.partial(Xception),
}


def create(name: str, **overrides: Any) -> nn.Module:
    """The network of this name.

    Args:
        name: a key of MODELS.
        **overrides: fields of the network, such as num_classes, norm, dtype.

    Returns:
        A linen module, called as `model(x, *, train, examples=None)`.

    Raises:
        ValueError: a name, or a field, that does not exist.
    """
    return named_factory("arch.models.create", MODELS, name, overrides)(**overrides)


def from_config(config: Any, num_classes: int) -> nn.Module:
    """The network that a recipe asks for.

    Args:
        config: has name, dtype and fields of the network, and in `conv` and `norm` the name of the convolutions and
            the name and fields of the normalizations; `config.model` of configs/default.py. Of the fields, `act` may be
            a name of `arch.ops.activation`.
        num_classes: outputs.

    Raises:
        ValueError: a name, or a field, that does not exist.
    """
    fields = {**config.fields, **parts(config)}
    return create(config.name, num_classes=num_classes, dtype=jnp.dtype(config.dtype), **fields)


def parts(config: Any) -> dict[str, Any]:
    """What layers are made of: `conv`, `norm` and, where a recipe has a field for it, `act`.

    Args:
        config: see `from_config`.

    Raises:
        ValueError: a name, or a field, that does not exist.
    """
    if config.norm.name in CONVS:
        raise ValueError(
            f"model.norm.name={config.norm.name} normalizes weights, not activations; set model.conv.name="
            f"{config.norm.name}, and model.norm.name to none or to what else follows the convolutions"
        )
    found = {"conv": create_conv(config.conv.name), "norm": norm.create(config.norm.name, **config.norm.fields)}
    act = config.fields.get("act")
    if act is not None:
        found["act"] = activation.create(act) if isinstance(act, str) else act
    return found
