"""Writes tests/golden/torch/: files of torch.save, and beside each what is in it, as torch itself
has it: an .npz of the bytes of every tensor in C order, by name, dtype and shape.

    python scripts/make-torch-golden.py        (torch 2.15.0, NumPy 2.4)
"""

import collections
import pathlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent.parent / "tests/golden/torch"
torch.manual_seed(1)


def leaves(value, keys=()):
    if isinstance(value, torch.Tensor):
        yield ".".join(keys), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*keys, str(key)))
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from leaves(item, (*keys, str(at)))


def save(name, value, **options):
    torch.save(value, HERE / f"{name}.pt", **options)
    found = {}
    for key, tensor in leaves(value):
        plain = tensor.detach().contiguous().clone()
        raw = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0, "u1")
        shape = "x".join(map(str, plain.shape))
        found[f"{key or name}|{str(plain.dtype).removeprefix('torch.')}|{shape}"] = raw
    np.savez(HERE / f"{name}.npz", **found)


base = torch.randn(6, 5, 4)
model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 2))
save("state_dict", model.state_dict())
save("nested", {"layers": [{"attn": base[0], "step": 3}, {"attn": base[1]}], "loss": 0.5, "name": "x", 7: base[2]})
save("list", [base[0], (base[1], base[2]), None, True])
save("bare", base)
save("transposed", {"t": base.transpose(0, 2), "p": base.permute(1, 0, 2), "m": base[0].t()})
save("views", {"tail": base[2:], "step": base[::2, 1:, ::3], "column": base[..., 1], "flip": base.flip(1)})
save("expanded", {"e": torch.arange(4.0).expand(3, 5, 4), "one": torch.ones(1).expand(2, 2), "rows": torch.arange(10.0).as_strided((4, 4), (2, 1))})
save("parameters", {"w": torch.nn.Parameter(base[0].clone()), "r": base[1].clone().requires_grad_()})
save("shared", {"a": base, "b": base, "c": base[1]})
kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]
save("dtypes", {kind: torch.randint(0, 100, (2, 3)).to(getattr(torch, kind)) for kind in kinds} | {"bool": torch.tensor([[True, False], [False, True]])})
save("odd", {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "none": torch.empty(2, 0), "one": torch.ones(1, 1, 1, 1)})
save("ordered", collections.OrderedDict([("z", base[0]), ("a", base[1]), ("size", base.shape), ("device", torch.device("cpu"))]))
torch.save({"x": base[0]}, HERE / "protocol4.pt", pickle_protocol=4)
torch.save({"c": torch.zeros(2, 2, dtype=torch.complex64), "x": base[0]}, HERE / "complex.pt")
torch.save({"x": base[0]}, HERE / "legacy.pt", _use_new_zipfile_serialization=False)
torch.save(model, HERE / "module.pt")
torch.save({"x": base[0], "when": np.float64(3)}, HERE / "numpy.pt")
