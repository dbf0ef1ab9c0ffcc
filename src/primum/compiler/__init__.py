"""From a model to a program: a PyTorch module or an ONNX file in, a list of ring operations and ring weights out.

What comes in: a module (through torch.export) or an ONNX file (opset 13 to the newest), for images [channels, height,
width] in [0, 1]. What goes out: `Compiled`, with a `primum.mpc.program.Program`, which is public, and its weights,
which stay with the model owner. All layers that cannot be computed under encryption are named in one error, a layer
whose range does not fit is named, and a model that does not agree with itself in fixed point is refused: all before
anything is sent. Read first: `graph.py` (the float model), then `lower.py` (each node's ring operations).

| file | what |
|---|---|
| graph.py | nodes, values and shapes of a float model |
| recorder.py, arranger.py, builder.py, windows.py | what both readers write a graph with: nodes and shapes, movements, layers |
| rules.py, refusal.py | the table of a reader's operators and the shapes that they take; what is refused, all at once |
| from_torch.py, torch_operators.py | modules through torch.export, and ATen's operators |
| from_onnx.py, onnx_rules.py | ONNX files; the table of their operators |
| onnx_operators.py, onnx_movements.py, onnx_ml_operators.py | the rules: what computes, what moves elements, scikit-learn's |
| onnx_heads.py | how a file takes an image (channels last, a row of pixels), which of its outputs is the answer |
| simplify.py, movements.py | folding and reordering, exact in real numbers; movements that follow each other as one |
| equalise.py | the channels of a layer near one magnitude: the same function, exactly |
| curves.py | sigmoid, tanh, erf, SiLU and GELU as splines with a stated error |
| evaluate.py, ranges.py | the model in clear; how large its values get |
| original.py, onnx_twins.py | what was read against the module or the file itself |
| precision.py | where the binary point of every value stands |
| emitter.py, lower.py | from nodes to ring operations |
| linear.py | the program of a fixed feature map and a linear layer, its precision proven |
| simulate.py | the program on plain integers, the twin of the protocol |
| compiled.py | all of it, and the proof that model and program agree |

Notation: magnitude m with abs(x) < 2^m; f fractional bits; t bits of a ring in which values are compared; F fractional
bits of a sum of products (`precision.py`). Batch norm folding: Jacob et al., CVPR 2018; truncated powers: de Boor, A
Practical Guide to Splines.
"""

from primum.compiler.compiled import Agreement, Compiled, Wish, compile_graph, compile_module, compile_onnx
from primum.compiler.ranges import drawn_images
from primum.compiler.simulate import simulate

__all__ = [
    "Agreement",
    "Compiled",
    "Wish",
    "compile_graph",
    "compile_module",
    "compile_onnx",
    "drawn_images",
    "simulate",
]
