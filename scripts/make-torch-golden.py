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
# What stands beside tensors and is none, under keys of all kinds.
save("beside", {"count": collections.Counter([3, 3, 5]), "bytes": b"ab", "set": {1, 2}, "complex": 1j, "long": 2**4000, 1.5: 1, (1, 2): "x", None: [True], "w": torch.arange(6.0).reshape(2, 3)})
save("protocol5", {"set": {1, 2}, "frozen": frozenset([1]), "bytes": b"ab", "w": torch.arange(6.0).reshape(2, 3)}, pickle_protocol=5)
# Tensors whose storages do not hold their values, and tensors where none are expected.
torch.save({"n": torch._neg_view(torch.ones(2, 3)), "c": torch.zeros(2, 2, dtype=torch.complex64).conj(), "w": torch.ones(2, 2)}, HERE / "lazy.pt")
torch.save({"w": torch.ones(2, 2), "s": {"u": torch.ones(2, 2).untyped_storage()}}, HERE / "storage.pt")
torch.save({1.5: torch.ones(2, 2)}, HERE / "key.pt")
with_attribute = torch.nn.Parameter(torch.ones(2, 2))
with_attribute.scale = torch.ones(3, 3)
torch.save({"w": with_attribute}, HERE / "attribute.pt")
ordered = collections.OrderedDict(w=torch.ones(2, 2))
ordered.extra = torch.ones(3, 3)
torch.save(ordered, HERE / "ordered-attribute.pt")
torch.save({"w": torch.ones(2, 2)}, HERE / "legacy4.pt", _use_new_zipfile_serialization=False, pickle_protocol=4)
# Every code of the types that torch has and that are of no other test, and what torch makes of them.
codes = {kind: torch.arange(256, dtype=torch.uint8).view(getattr(torch, kind)).reshape(8, 32) for kind in ["float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]}
wide = {f"{kind}-wide": torch.where(x.float().isnan(), torch.nan, x.float()) for kind, x in codes.items()}
save("small", codes | wide | {f"{kind}-turned": x.t() for kind, x in codes.items()})
