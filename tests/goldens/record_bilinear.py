"""Records bilinear.npz: outputs of MPN-COV and iSQRT-COV on torchvision's ResNet, in float64.

    pip install torch==2.14.1 torchvision==0.29.1
    python tests/goldens/record_bilinear.py

The networks are `mpn_cov`, whose covariance goes through torch.linalg.eigh, and `isqrt_cov`, through five steps of
Newton and Schulz, both by their formulas and with torch's derivatives. Of the ResNet the first two stages are left, of
one unit each, the second at stride 1; 16 channels are pooled. The names of the layers behind it are those of the
authors (github.com/jiangtaoxie/fast-MPN-COV). See fill.py.
"""

import pathlib

import numpy as np
from fill import NUM_CLASSES, record

CHANNELS = 16


def main() -> None:
    """Runs both networks and writes the file beside this one."""
    import torch
    import torchvision
    from torchvision.models import resnet

    def power(covariance: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(covariance)
        return (vectors * values.clamp(min=0).sqrt().unsqueeze(1)) @ vectors.mT

    def newton_schulz(covariance: torch.Tensor) -> torch.Tensor:
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        identity = torch.eye(CHANNELS, dtype=covariance.dtype).expand_as(covariance)
        y, z = covariance / trace, identity
        for _ in range(5):
            t = (3 * identity - z @ y) / 2
            y, z = y @ t, t @ z
        return y * trace.sqrt()

    class Network(resnet.ResNet):
        def __init__(self, root) -> None:
            super().__init__(resnet.Bottleneck, [1, 1, 1, 1])
            self.layer2[0].conv2.stride = self.layer2[0].downsample[0].stride = (1, 1)
            self.layer3 = self.layer4 = torch.nn.Identity()
            self.layer_reduce = torch.nn.Conv2d(512, CHANNELS, 1, bias=False)
            self.layer_reduce_bn = torch.nn.BatchNorm2d(CHANNELS)
            self.fc = torch.nn.Linear(CHANNELS * (CHANNELS + 1) // 2, NUM_CLASSES)
            self.root = root

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer2(self.layer1(x))
            x = torch.relu(self.layer_reduce_bn(self.layer_reduce(x))).flatten(2)
            x = x - x.mean(2, keepdim=True)
            root = self.root(x @ x.mT / x.shape[2])
            rows, columns = torch.triu_indices(CHANNELS, CHANNELS)
            return self.fc(root[:, rows, columns])

    recorded = {"versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    for name, root in {"mpn_cov": power, "isqrt_cov": newton_schulz}.items():
        record(name, Network(root), 32, recorded)
    np.savez_compressed(pathlib.Path(__file__).with_name("bilinear.npz"), **recorded)


if __name__ == "__main__":
    main()
