"""The names that torchvision's, timm's and the authors' networks have for our layers, one file a family.

A function `NAMES(model, layers) -> str` takes the path of a layer in our network, from the top, and gives the name of
the module that holds its tensors in the torch network.
"""
