"""Records activation.npz: activations and their derivatives by torch, of its own and written in its functions.

    pip install torch==2.14.1
    python tests/goldens/record_activation.py

float64, at random numbers, near 0, near the ends of the pieces and far out. The derivatives are those of autograd; near
0 that of sin(x) / x loses digits, because torch takes the difference of two quotients.
"""

import pathlib

import numpy as np

BETAS = (-1.5, 0.0, 0.3, 1.0, 7.0)


def main() -> None:
    """Evaluates the functions and writes the file beside this one."""
    import torch
    from torch.nn import functional

    torch.set_default_dtype(torch.float64)
    random = np.random.RandomState(0).standard_normal(60) * 4.0
    edges = np.array([1e-12, -1e-12, 1e-4, -1e-4, 0.3, 0.499, 0.501, 0.659, 0.6591, 1.0, -1.0, 2.9, -2.9, 5.9, 6.1])
    far = np.array([30.0, -30.0, 1e4, -1e4, 1e20, -1e20])
    x = np.concatenate([random, edges, far])
    functions = {
        "relu": functional.relu,
        "swish": functional.silu,
        "max_sigmoid": lambda x: torch.maximum(x, torch.sigmoid(x)),
        "cos_minus": lambda x: torch.cos(x) - x,
        "min_sin": lambda x: torch.minimum(x, torch.sin(x)),
        "atan_squared_minus": lambda x: torch.atan(x) ** 2 - x,
        "max_tanh": lambda x: torch.maximum(x, torch.tanh(x)),
        "sinc_plus": lambda x: torch.sinc(x / torch.pi) + x,
        "asinh_squared": lambda x: x * torch.asinh(x) ** 2,
        "relu6": functional.relu6,
        "hard_sigmoid": functional.hardsigmoid,
        "hard_swish": functional.hardswish,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    recorded = {"versions": f"torch {torch.__version__}", "x": x}
    for name, function in functions.items():
        inputs = torch.tensor(x, requires_grad=True)
        out = function(inputs)
        out.sum().backward()
        recorded |= {f"{name}/out": out.detach().numpy(), f"{name}/grad": inputs.grad.numpy()}
    maps, beta = torch.tensor(x[:60].reshape(4, 3, 1, 5), requires_grad=True), torch.tensor(BETAS, requires_grad=True)
    out = maps * torch.sigmoid(beta * maps)
    out.sum().backward()
    recorded |= {"beta/out": out.detach().numpy(), "beta/grad_x": maps.grad.numpy(), "beta/grad": beta.grad.numpy()}
    np.savez_compressed(pathlib.Path(__file__).with_name("activation.npz"), **recorded)


if __name__ == "__main__":
    main()
