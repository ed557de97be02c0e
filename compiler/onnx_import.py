"""ONNX model → integer network: QDQ models as ONNX Runtime writes them, and QONNX ``Quant`` nodes. Needs the ``onnx`` extra.

What the quantisers become, and what is promised about equality: ``docs/frontends.md``.
"""

__all__ = ["OPSETS", "import_onnx"]

import inspect
from dataclasses import dataclass, replace

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from neuroflex.compiler.assemble import Assembler, Image, ImportRefused, Sum, Tensor, positive
from neuroflex.compiler.fit import FLOOR, HALF_EVEN
from neuroflex.formats import MAX_LEVEL
from neuroflex.sim.network import evaluate

OPSETS = range(10, 25)        # of ai.onnx: QuantizeLinear exists since 10
_DOMAINS = {"": "ai.onnx", "ai.onnx": "ai.onnx", "com.microsoft": "com.microsoft"} | dict.fromkeys(
    ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"), "qonnx")
_CODES = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255), TensorProto.INT16: (-32768, 32767),
          TensorProto.UINT16: (0, 65535), TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15),
          TensorProto.INT32: (-2**31, 2**31 - 1)}
_PASSING = {"QuantizeLinear", "DequantizeLinear", "Quant", "IntQuant", "Flatten", "Reshape", "Identity", "Dropout", "Relu", "Clip", "Cast"}

_RANKS = dict.fromkeys(("Conv", "MaxPool", "AveragePool", "GlobalAveragePool"), 4) | dict.fromkeys(("Flatten", "Reshape", "Gemm", "MatMul"), 2)

_ATTRIBUTES = (dict.fromkeys(("pads", "strides", "dilations", "kernel_shape", "axes"), AttributeProto.INTS)
               | dict.fromkeys(("group", "axis", "transA", "transB", "ceil_mode", "count_include_pad", "keepdims", "training_mode", "output_dtype",
                                "block_size", "signed", "narrow"), AttributeProto.INT)
               | dict.fromkeys(("alpha", "beta", "epsilon", "min", "max"), AttributeProto.FLOAT)
               | dict.fromkeys(("auto_pad", "rounding_mode"), AttributeProto.STRING))


@dataclass(frozen=True)
class _Coding:
    """Codes of a quantiser: real value ``scale · (code − zero)``, codes ``low … high`` relative to the zero point."""

    scale: float
    low: int
    high: int
    rounding: object = HALF_EVEN

    def highest(self, value):
        """Code of the largest ``value`` that comes, divided in single precision as models do."""
        with np.errstate(over="ignore"):
            code = min(np.float32(value) / np.float32(self.scale), 1e9)
        return min(self.high, int(np.rint(code) if self.rounding.ties_even else np.floor(code + self.rounding.share)))


@dataclass(frozen=True, eq=False)
class _Coded:
    """Output of a quantiser: ``value`` is a stored tensor, or a signed sum that no layer holds yet."""

    value: object
    coding: _Coding


def import_onnx(model, *, name, image_shape=None, pixel_scale=1.0, levels=None, calibration=None, metadata=None, examples=None):
    """Import an ONNX model as an integer network.

    Parameters
    ----------
    model : path or onnx.ModelProto
    name : str
    image_shape : (C, H, W), optional
        Needed when the model takes flat vectors or leaves sizes open.
    pixel_scale : float
        What one unit of a raw pixel is to the model (1/255 for bytes that it wants as 0 … 1). A model whose input are codes, which it
        dequantises itself, takes pixels as these codes: only 1 is right there.
    levels : int, optional
        Most levels of a tensor, 1 … 127: finer quantisers are made coarser over the same range, which changes the numbers.
        Without it, a quantiser that needs more than 127 is refused.
    calibration : array (B, C, H, W), optional
        Raw images: they set the range of logits that no quantiser closes, and check the range of those that one does.
    metadata : dict, optional
    examples : neuroflex.compiler.network.Examples, optional

    Returns
    -------
    neuroflex.compiler.network.Network
        ``metadata["import"]`` says per layer how far its levels can be from the model's on equal inputs, and what was noted.

    Raises
    ------
    ImportRefused
        What cannot be represented, with the node's name.
    NetworkError
        An accumulator that could overflow.
    """
    model = _load(model)
    builder = _Builder(model, image_shape, pixel_scale, levels)
    builder.run(calibration)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    about = {"format": "onnx", "producer": model.producer_name, "opset": opset,
             "rounding": "half up; the model rounds half to even: sums exactly half way to an odd level differ by one"}
    return builder.assembler.network(name=name, metadata=metadata, examples=examples, about=about)


def _load(model):
    if isinstance(model, onnx.ModelProto):
        origin = "ONNX model"
    else:
        origin = str(model)
        try:
            model = onnx.load(origin)
        except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
            raise ImportRefused(f"{origin}: not an ONNX file, or cut short: {error}") from error
    if not model.HasField("graph") or not model.graph.node or not model.graph.output:
        raise ImportRefused(f"{origin}: holds no graph with nodes and outputs; it may be cut short")
    used = {node.domain for node in model.graph.node}
    versions = {o.domain: o.version for o in model.opset_import}
    for domain in used:
        if domain not in _DOMAINS:
            node = next(node for node in model.graph.node if node.domain == domain)
            raise ImportRefused(f"{_place(node)}: its operator set {domain!r} is not known; known are "
                                + ", ".join(repr(d) for d in _DOMAINS if d))
    for texts in ([node.op_type, node.name, *node.input, *node.output] for node in model.graph.node):
        broken = next((text for text in texts if isinstance(text, bytes)), None)       # what the decoder makes of text that is not UTF-8
        if broken is not None:
            raise ImportRefused(f"{origin}: the name {broken!r} in it is not UTF-8 text; the file may be damaged")
    opset = versions.get("", versions.get("ai.onnx"))
    if opset not in OPSETS:
        raise ImportRefused(f"{origin}: operator set {opset} of ai.onnx is not known; known are {OPSETS[0]} to {OPSETS[-1]}: convert it "
                            "with onnx.version_converter")
    return model


def _place(node):
    return f"node {node.name or next(iter(node.output), '')!r} ({node.op_type})"


class _Builder:
    """Walks the graph, which ONNX keeps in order, and calls the assembler's operations."""

    def __init__(self, model, image_shape, pixel_scale, levels):
        if levels is not None and (isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= MAX_LEVEL):
            raise ImportRefused(f"levels must be an integer in 1 … {MAX_LEVEL}, not {levels!r}")
        positive("pixel_scale", pixel_scale)
        self.graph = model.graph
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.image_shape = image_shape
        self.pixel_scale = pixel_scale
        self.levels = levels
        self.assembler = Assembler(closer="a QuantizeLinear")
        self.refuse = self.assembler.refuse
        self.values = {}
        self.node = None
        self.readers = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.maker = {name: node for node in self.graph.node for name in node.output}
        self.handlers = {
            "QuantizeLinear": self.quantise, "DequantizeLinear": self.dequantise, "Quant": self.quant, "IntQuant": self.quant,
            "Conv": self.conv, "Gemm": self.gemm, "MatMul": self.matmul, "Add": self.add, "Mul": self.mul, "Div": self.div,
            "BatchNormalization": self.batch_norm, "Relu": self.relu, "Clip": self.clip, "MaxPool": self.max_pool,
            "AveragePool": self.average_pool, "GlobalAveragePool": self.global_average_pool, "ReduceMean": self.reduce_mean,
            "Flatten": self.flatten, "Reshape": self.reshape, "Concat": self.concat, "Identity": lambda x, *_: x,
            "Dropout": self.dropout, "Softmax": self.softmax, "Constant": self.constant,
        }

    # -- the walk ---------------------------------------------------------------------------------------------------

    def run(self, calibration):
        for tensor in self.graph.initializer:
            self.assembler.place = f"initialiser {tensor.name!r}"
            self.values[tensor.name] = self.array(tensor)
        inputs = [value for value in self.graph.input if value.name not in self.values]
        if len(inputs) != 1:
            raise ImportRefused(f"the model has {len(inputs)} inputs ({', '.join(repr(i.name) for i in inputs)}); one is needed")
        image = self.values[inputs[0].name] = self.image(inputs[0])
        if calibration is not None:
            self.assembler.check_images(calibration, image.shape)
        for node in self.graph.node:
            self.node = node
            self.assembler.place = _place(node)
            handler = self.handlers.get(node.op_type)
            if handler is None:
                hint = ("; it is in the QOperator format: write the model as QDQ (QuantFormat.QDQ)"
                        if node.op_type.startswith("QLinear") or node.op_type.endswith("Integer") else "")
                self.refuse("this operation is not supported; supported: " + ", ".join(self.handlers) + hint)
            missing = [name for name in node.input if name and name not in self.values]
            if missing:
                self.refuse(f"its input {missing[0]!r} is made by no node before it")
            if not node.output:
                self.refuse("it has no output")
            self.attributes = {a.name: self.attribute(a) for a in node.attribute}
            operands = [self.values[name] if name else None for name in node.input]
            try:
                inspect.signature(handler).bind(*operands)
            except TypeError as error:
                self.refuse(f"it has {len(operands)} inputs: {error}")
            result = handler(*operands)
            if isinstance(result, Sum) and not result.label:
                result = replace(result, label=node.name or node.output[0])
            self.values[node.output[0]] = result
        if len(self.graph.output) != 1:
            raise ImportRefused(f"the model has {len(self.graph.output)} outputs "
                                f"({', '.join(repr(o.name) for o in self.graph.output)}); one is needed")
        name = self.graph.output[0].name
        self.assembler.place = f"output {name!r}"
        if name not in self.values:
            self.refuse("no node makes it; the file may be cut short")
        self.finish(self.values[name], calibration)

    def attribute(self, attribute):
        wanted = _ATTRIBUTES.get(attribute.name, attribute.type)
        if attribute.type != wanted or attribute.type == AttributeProto.UNDEFINED:
            self.refuse(f"its attribute {attribute.name!r} is {AttributeProto.AttributeType.Name(attribute.type)}, not "
                        f"{AttributeProto.AttributeType.Name(wanted)}")
        return helper.get_attribute_value(attribute)

    def array(self, tensor):
        try:
            value = numpy_helper.to_array(tensor)
        except Exception as error:     # the decoder raises what its bytes happen to make of it
            self.refuse(f"its data are damaged, cut short or in a file that is missing: {error}")
        return value.astype(np.int64) if tensor.data_type in _CODES else value

    def image(self, value):
        self.assembler.place = f"input {value.name!r}"
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        if self.image_shape is not None:
            wanted = tuple(self.image_shape)
            known = sizes[1:]
            fits = (len(known) == 3 and all(k in (None, 0, w) for k, w in zip(known, wanted))
                    or len(known) == 1 and known[0] in (None, 0, int(np.prod(wanted))) or not sizes)
            if not fits:
                self.refuse(f"the model takes (B, {', '.join(map(str, known))}), which images of shape {wanted} do not fit")
        elif len(sizes) == 4 and all(sizes[1:]):
            wanted = tuple(sizes[1:])
        elif len(sizes) == 2 and sizes[1]:
            wanted = (sizes[1], 1, 1)
        else:
            self.refuse(f"its shape is {tuple(sizes)}, not (B, C, H, W); give the image's shape")
        image = self.assembler.image(wanted)
        self.flat = len(sizes) == 2
        self.image_rank = len(sizes) or 4
        self.codes = value.type.tensor_type.elem_type
        self.factor = 1.0         # what the graph multiplies the image by before it quantises it
        return image

    def origin(self, name):
        """The tensor behind quantisers, flattens and the like."""
        while name in self.maker and self.maker[name].op_type in _PASSING and self.maker[name].input:
            name = self.maker[name].input[0]
        return name

    def leaves(self, name):
        """Operations, outputs included, that read a tensor or what only passes it on."""
        count = sum(output.name == name for output in self.graph.output)
        for node in self.readers.get(name, []):
            count += self.leaves(node.output[0]) if node.op_type in _PASSING else 1
        return count

    def rank(self, name):
        """Dimensions of one of the model's tensors, the batch included."""
        while name in self.maker:
            node = self.maker[name]
            if node.op_type in _RANKS:
                return _RANKS[node.op_type]
            if node.op_type == "ReduceMean":
                return 4 if all(a.i for a in node.attribute if a.name == "keepdims") else 2
            name = self.activation(node)
        return self.image_rank

    def activation(self, node):
        """Name of a node's first operand that is no constant."""
        return next(name for name in node.input if name and not isinstance(self.values[name], np.ndarray))

    def alone(self, name):
        return self.leaves(self.origin(name)) == 1

    # -- quantisers -------------------------------------------------------------------------------------------------

    def coding(self, scale, zero, kind, rounding=HALF_EVEN):
        """The coding of an activation's quantiser, with its scale and zero point checked."""
        scale, zero = self.constant_operand(scale, "scale"), self.constant_operand(zero, "zero point")
        if scale.size != 1 or zero.size != 1:
            self.refuse(f"it has {scale.size} scales; activations need one scale for the whole tensor")
        scale, zero = float(scale.reshape(-1)[0]), float(zero.reshape(-1)[0])
        if not 0 < scale < np.inf:
            self.refuse(f"its scale is {scale:g}; it must be a positive, finite number")
        low, high = kind
        if zero != int(zero) or not low <= zero <= high:
            self.refuse(f"its zero point {zero:g} is none of its codes {low} … {high}")
        return _Coding(scale, int(low - zero), int(high - zero), rounding)

    def constant_operand(self, value, what):
        if value is None:
            return np.zeros(1)
        if not isinstance(value, np.ndarray):
            self.refuse(f"its {what} must be a constant")
        if not value.size:
            self.refuse(f"its {what} is empty")
        return self.assembler.finite(f"entries of its {what}", value)

    def kind(self, name):
        """Smallest and largest code of a quantiser with this zero point."""
        if not name:
            code = self.attributes.get("output_dtype", 0) or TensorProto.UINT8
        else:
            code = next((t.data_type for t in self.graph.initializer if t.name == name), None)
            if code is None and name in self.maker and self.maker[name].op_type == "Constant":
                code = next(a.t.data_type for a in self.maker[name].attribute if a.name == "value")
        if code not in _CODES:
            self.refuse("its codes are no integers of up to 16 bits" if code else "its zero point must be a constant")
        return _CODES[code]

    def plain_blocks(self):
        if self.attributes.get("block_size", 0):
            self.refuse("blocked quantisation is not supported, only per tensor and per channel")

    def spread(self, value, against):
        """A per-channel constant, in the shape that broadcasts over ``against``."""
        if value.size == 1 or value.ndim != 1:
            return value if value.size > 1 else value.reshape(())
        axis = self.attributes.get("axis", 1)
        if not -against.ndim <= axis < against.ndim or against.shape[axis] != value.size:
            self.refuse(f"it has {value.size} scales along axis {axis} of a constant of shape {against.shape}")
        return value.reshape([-1 if i == axis % against.ndim else 1 for i in range(against.ndim)])

    def quantise(self, x, scale, zero=None):
        self.plain_blocks()
        kind = self.kind(self.node.input[2] if len(self.node.input) > 2 else "")
        if isinstance(x, np.ndarray):
            x = self.assembler.finite("weights", x)
            step, offset = self.spread(self.constant_operand(scale, "scale"), x), self.spread(self.constant_operand(zero, "zero point"), x)
            return np.asarray(np.clip(np.rint(x / step) + offset, *kind)).astype(np.int64)
        return self.close(x, self.coding(scale, zero, kind))

    def dequantise(self, x, scale, zero=None):
        self.plain_blocks()
        if isinstance(x, np.ndarray):
            step, offset = (self.constant_operand(v, w) for v, w in ((scale, "scale"), (zero, "zero point")))
            if (step <= 0).any():
                self.refuse(f"its smallest scale is {step.min():g}; scales must be positive")
            return np.asarray((x - self.spread(offset, x)) * self.spread(step, x))
        if isinstance(x, Image):
            return self.image_codes(x, scale, zero)
        coding = self.coding(scale, zero, self.kind(self.node.input[2] if len(self.node.input) > 2 else ""))
        if not isinstance(x, _Coded):
            self.refuse("its operand is no output of a QuantizeLinear")
        if (coding.scale, coding.low, coding.high) != (x.coding.scale, x.coding.low, x.coding.high):
            self.refuse("its scale or zero point is not that of the QuantizeLinear before it")
        return self.seen(x.value)

    def image_codes(self, x, scale, zero):
        """Pixels that the model takes as codes: one is one code."""
        if self.codes not in _CODES:
            self.refuse("it dequantises the image, which is no integer in this model; a QuantizeLinear is missing")
        low = _CODES[self.codes][0]
        coding = self.coding(scale, zero, _CODES[self.codes])
        if coding.low != low:
            self.refuse(f"the image is shifted by its zero point {low - coding.low}; levels count from 0: use the zero point 0, and fold the shift "
                        "into the first layer's bias")
        if self.pixel_scale != 1:
            self.refuse(f"the model takes codes, one pixel is one code: pixel_scale must be 1, not {self.pixel_scale!r}")
        self.factor *= coding.scale
        return self.close(x, coding).value

    def quant(self, x, scale, zero, bits):
        """QONNX: quantise and dequantise in one."""
        bits = self.constant_operand(bits, "bit width")
        signed, narrow = self.attributes.get("signed", 1), self.attributes.get("narrow", 0)
        mode = self.attributes.get("rounding_mode", b"ROUND").decode().upper()
        rounding = {"ROUND": HALF_EVEN, "FLOOR": FLOOR}.get(mode)
        if rounding is None:
            self.refuse(f"rounding mode {mode!r} is not supported; supported are ROUND and FLOOR")
        if bits.size != 1 or bits.reshape(-1)[0] != int(bits.reshape(-1)[0]) or not 1 <= bits.reshape(-1)[0] <= 32:
            self.refuse(f"its bit width must be one whole number in 1 … 32, not {bits.reshape(-1).tolist()}")
        top = 1 << int(bits.reshape(-1)[0]) - signed
        kind = (-top + narrow, top - 1) if signed else (0, top - 1 - narrow)
        if isinstance(x, np.ndarray):
            x = self.assembler.finite("weights", x)
            step, offset = self.constant_operand(scale, "scale"), self.constant_operand(zero, "zero point")
            if (step <= 0).any():
                self.refuse(f"its smallest scale is {step.min():g}; scales must be positive")
            codes = x / step + offset
            codes = np.clip(np.rint(codes) if rounding is HALF_EVEN else np.floor(codes), *kind)
            return np.asarray((codes - offset) * step)
        return self.seen(self.close(x, self.coding(scale, zero, kind, rounding)).value)

    def seen(self, value):
        """Notes which of the model's tensors a layer's equals, for whoever compares them."""
        if isinstance(value, Tensor) and value.name in self.assembler.report:
            self.assembler.report[value.name]["tensor"] = self.node.output[0]
        return value

    def close(self, x, coding):
        """Quantise: a layer when the result has no negative codes, a note on the sum when it has."""
        if isinstance(x, _Coded):
            self.refuse("its operand is quantised already; a DequantizeLinear is missing")
        if isinstance(x, Image):
            return _Coded(self.quantise_image(x, coding), coding)
        if isinstance(x, Tensor):
            if np.allclose(x.step, coding.scale, rtol=1e-6, atol=0) and x.levels.max() <= coding.high:
                return _Coded(x, coding)
            if self.levels is not None and x.levels.max() <= self.levels and np.isclose(
                    float(x.step[0]) * x.levels[0], coding.scale * coding.high, rtol=1e-6) and np.ptp(x.step) == 0:
                return _Coded(x, coding)        # the same range, made coarser already
        x = self.assembler.sum(x)
        if x.coding is not None and (x.coding.scale, x.coding.high) != (coding.scale, coding.high):
            x = self.uncoded(x, ceiling=x.coding.scale * x.coding.high)
        if not (x.nonnegative or coding.low == 0):
            # Negative codes: a ReLU, an add or the output decides about them; until then the sum stays in the accumulator.
            return _Coded(replace(x, coding=coding), coding)
        high = coding.highest(x.ceiling)
        if high < 1:
            self.refuse(f"all its values quantise to 0: the range of its operand ends at {x.ceiling:g}, its scale is {coding.scale:g}")
        levels, step = self.coarse(high, coding.scale)
        return _Coded(self.assembler.close(x.label or self.node.name or self.node.output[0], replace(x, coding=None), step, levels, coding.rounding), coding)

    def uncoded(self, x, ceiling=np.inf):
        """A sum whose waiting quantiser is left out: it stays exact where the model rounds."""
        if isinstance(x, _Coded):
            self.refuse("its operand is a tensor of codes; a DequantizeLinear is missing")
        if not isinstance(x, Sum) or x.coding is None:
            return x
        self.assembler.notes.append(f"{self.assembler.place}: takes {x.label!r} as it is in the accumulator, where the model rounds it to "
                                    "its own codes first; the stated levels hold unless that rounding saturates")
        share = x.coding.rounding.share
        return replace(x, slack=x.slack + x.coding.scale * max(share, 1 - share), ceiling=min(x.ceiling, ceiling), coding=None)

    def coarse(self, high, scale):
        """Levels and step of a quantiser whose highest code is ``high``."""
        most = MAX_LEVEL if self.levels is None else self.levels
        if high <= most:
            return high, scale
        if self.levels is None:
            self.refuse(f"it has {high} levels above zero, the hardware {MAX_LEVEL}: quantise with QInt8 activations and "
                        "ActivationSymmetric, or let the import make it coarser (levels=127 or less)")
        self.assembler.notes.append(f"{self.assembler.place}: {high} levels made {most} over the same range")
        return most, scale * high / most

    def quantise_image(self, x, coding):
        if self.leaves(self.origin(self.node.input[0])) and len(self.readers[self.node.input[0]]) != 1:
            self.refuse("the image is used before it is quantised")
        if coding.rounding is not HALF_EVEN:
            self.refuse("the image must be rounded to the nearest level")
        levels, step = self.coarse(coding.high, coding.scale)
        scale = self.pixel_scale * self.factor
        make = self.assembler.quantise_image(x, levels, step * levels / scale)
        if levels == coding.high:
            pixels = np.arange(256)
            model = np.clip(np.rint((pixels * scale).astype(np.float32) / np.float32(coding.scale)), 0, levels)
            ours = np.clip(np.floor(pixels * levels / self.assembler.input.full_scale + 0.5), 0, levels)
            if (model != ours).any():
                self.assembler.notes.append("bytes whose level differs from the model's, half way between two: "
                                            + ", ".join(map(str, pixels[model != ours])))
        if coding.low < 0:
            self.assembler.notes.append("the model would also take negative pixels; here they count as 0")
        return replace(make(step * levels), flat=self.flat)

    # -- linear operations ------------------------------------------------------------------------------------------

    def operand(self, x):
        """A stored tensor."""
        if isinstance(x, Sum) and x.coding is not None and not x.rectified:
            self.refuse("its operand has negative codes; levels count from 0, so that a ReLU must come before")
        if isinstance(x, _Coded):
            self.refuse("its operand is a tensor of codes; a DequantizeLinear is missing")
        return self.assembler.tensor(x, self.node.input[0])

    def weights(self, value, what="weights"):
        if not isinstance(value, np.ndarray):
            self.refuse(f"its {what} are computed by the model; they must be constants")
        return self.assembler.finite(what, value)

    def geometry(self, rank=2):
        """Stride and padding of a window operation."""
        pads, strides = self.attributes.get("pads", [0] * 2 * rank), self.attributes.get("strides", [1] * rank)
        if self.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            self.refuse(f"auto_pad {self.attributes['auto_pad'].decode()} is not supported; give the padding as numbers")
        if len(pads) != 2 * rank or len(strides) != rank or len(self.attributes.get("kernel_shape", strides)) != rank:
            self.refuse("only windows in two dimensions are supported")
        if len(set(pads[:rank])) > 1 or list(pads[:rank]) != list(pads[rank:]):
            self.refuse(f"padding {list(pads)} is not the same on all sides")
        if any(d != 1 for d in self.attributes.get("dilations", [1])):
            self.refuse(f"dilation {list(self.attributes['dilations'])} is not supported, only 1")
        return strides, pads[0]

    def kernel_shape(self):
        if "kernel_shape" not in self.attributes:
            self.refuse("it says no kernel_shape")
        return self.attributes["kernel_shape"]

    def conv(self, x, kernel, bias=None):
        x, kernel = self.assembler.grid_tensor(self.operand(x)), self.weights(kernel)
        if kernel.ndim != 4:
            self.refuse(f"its kernel has shape {kernel.shape}; only convolutions in two dimensions are supported")
        stride, padding = self.geometry()
        bias = None if bias is None else self.weights(bias, "biases")
        return self.assembler.convolution(x, kernel, bias, stride=stride, padding=padding, groups=self.attributes.get("group", 1),
                                          alone=self.alone(self.node.input[0]))

    def gemm(self, a, b, c=None):
        if self.attributes.get("transA", 0):
            self.refuse("transA is not supported")
        b = self.matrix(b) * self.attributes.get("alpha", 1.0)
        b = b if self.attributes.get("transB", 0) else b.T
        if c is not None:
            c = self.weights(c, "biases")
            if c.size != 1 and (c.size, c.shape[-1]) != (len(b), len(b)):
                self.refuse(f"it has {len(b)} columns and biases of shape {c.shape}")
            c = np.broadcast_to(c.reshape(-1) * self.attributes.get("beta", 1.0), (len(b),))
        return self.assembler.fully_connected(self.operand(a), b, c, alone=self.alone(self.node.input[0]))

    def matmul(self, a, b):
        return self.assembler.fully_connected(self.operand(a), self.matrix(b).T, None, alone=self.alone(self.node.input[0]))

    def matrix(self, value):
        value = self.weights(value)
        if value.ndim != 2:
            self.refuse(f"its weights have shape {value.shape}; a matrix is needed")
        return value

    def channels(self, value, x, what):
        """A constant that holds one number per channel, or one for all."""
        value = self.weights(value, what)
        n, rank = x.shape[0], self.rank(self.activation(self.node))
        channels = rank - 1 <= value.ndim and (value.size, value.shape[1 - rank]) == (n, n)
        if value.ndim > rank or value.size != 1 and not channels:
            self.refuse(f"its constant of shape {value.shape} does not hold one number per channel of {x.shape}: that would be shape "
                        f"{(n,) + (1,) * (rank - 2)}")
        return np.broadcast_to(value.reshape(-1), (n,))

    def add(self, a, b):
        if isinstance(a, np.ndarray):
            a, b = b, a
        if isinstance(a, Image) and isinstance(b, np.ndarray):
            self.refuse("the image is shifted before it is quantised; levels count from 0: fold the mean into the first layer's bias")
        if isinstance(b, np.ndarray):
            x = self.assembler.sum(self.uncoded(a))
            return self.assembler.affine(x, np.ones(x.shape[0]), self.channels(b, x, "biases"))
        return replace(self.assembler.add(self.uncoded(a), self.uncoded(b)), label="")

    def mul(self, a, b):
        if isinstance(a, np.ndarray):
            a, b = b, a
        if isinstance(a, Image) and isinstance(b, np.ndarray) and b.size == 1:
            self.factor *= float(self.weights(b, "factors").reshape(-1)[0])
            return a
        x = self.assembler.sum(self.uncoded(a))
        return self.assembler.affine(x, self.channels(b, x, "factors"), np.zeros(x.shape[0]))

    def div(self, a, b):
        if isinstance(b, np.ndarray) and not (b == 0).any():
            return self.mul(a, np.asarray(1 / b.astype(np.float64)))
        self.refuse("it must divide by a constant other than 0")

    def batch_norm(self, x, gain, shift, mean, variance):
        if self.attributes.get("training_mode", 0) or sum(map(bool, self.node.output)) > 1:
            self.refuse("it is in training mode, in which it takes mean and variance from the batch at hand; write the model for inference")
        gain, shift, mean, variance = (self.weights(v, "parameters") for v in (gain, shift, mean, variance))
        variance = variance + self.attributes.get("epsilon", 1e-5)
        if len({gain.shape, shift.shape, mean.shape, variance.shape}) != 1:
            self.refuse(f"its parameters differ in shape: {gain.shape}, {shift.shape}, {mean.shape} and {variance.shape}")
        if (variance <= 0).any():
            self.refuse(f"its variance {variance.min():g} is not positive")
        scale = gain / np.sqrt(variance)
        return self.assembler.affine(self.uncoded(x), scale, shift - mean * scale)

    def dropout(self, x, ratio=None, training=None):
        if training is not None and (not isinstance(training, np.ndarray) or training.any()):
            self.refuse("its training_mode is true, in which it leaves out values at random; write the model for inference")
        return x

    # -- activations, shape and pooling -----------------------------------------------------------------------------

    def relu(self, x):
        if isinstance(x, Image):
            self.refuse(f"the image must be quantised by {self.assembler.closer} before anything else")
        if isinstance(x, Tensor):
            return x
        if isinstance(x, _Coded):
            self.refuse("its operand is a tensor of codes; a DequantizeLinear is missing")
        return replace(self.assembler.sum(x), rectified=True)

    def clip(self, x, low=None, high=None):
        low, high = (None if limit is None else np.asarray(limit) for limit in (self.attributes.get("min", low), self.attributes.get("max", high)))
        if any(limit is not None and (limit.size != 1 or limit.dtype.kind not in "fiu") for limit in (low, high)):
            self.refuse("its limits must be constants")
        if low is None or low.item() != 0:
            self.refuse("only a clip from 0 up is supported, as ReLU and ReLU6 are")
        high = np.inf if high is None else float(high.item())
        if not high > 0:
            self.refuse(f"it clips to 0 … {high:g}, where nothing is left")
        x = self.relu(x)
        if isinstance(x, Tensor):
            if (x.step * x.levels <= high * (1 + 1e-6)).all():
                return x
            x = replace(self.assembler.sum(x), rectified=True)
        return replace(x, ceiling=min(x.ceiling, high))

    def max_pool(self, x, *_):
        if isinstance(x, (Image, _Coded)):
            self.refuse("its operand must be quantised and dequantised")
        kernel = self.kernel_shape()
        stride, padding = self.geometry()
        label = x.label if isinstance(x, Sum) else ""
        pooled = self.assembler.max_pool(x, self.node.name or self.node.output[0], kernel, stride, padding, plain=len(self.node.output) == 1,
                                         ceil=bool(self.attributes.get("ceil_mode", 0)), alone=self.alone(self.node.input[0]))
        return replace(pooled, label=label) if isinstance(pooled, Sum) else self.seen(pooled)

    def average_pool(self, x):
        stride, padding = self.geometry()
        if self.attributes.get("ceil_mode", 0) or padding and not self.attributes.get("count_include_pad", 0):
            self.refuse("ceil_mode, and padding without count_include_pad, are not supported")
        return self.assembler.avg_pool(self.operand(x), self.kernel_shape(), stride, padding)

    def global_average_pool(self, x):
        x = self.operand(x)
        return self.assembler.avg_pool(x, x.shape[1:], 1, 0)

    def reduce_mean(self, x, axes=None):
        axes = self.attributes.get("axes", axes)
        if not isinstance(axes, (list, np.ndarray)) or sorted(int(a) % 4 for a in np.asarray(axes).reshape(-1)) != [2, 3]:
            self.refuse("only the mean over height and width (axes 2 and 3) is supported")
        return self.global_average_pool(x)

    def flatten(self, x):
        if self.attributes.get("axis", 1) != 1:
            self.refuse(f"axis {self.attributes['axis']} is not supported, only 1")
        if isinstance(x, Image):
            self.flat = True
            return x
        if isinstance(x, _Coded):
            return replace(x, value=self.flatten(x.value))
        return self.assembler.flatten(x, self.node.input[0])

    def reshape(self, x, shape):
        if isinstance(x, np.ndarray):
            return x.reshape([size or x.shape[i] for i, size in enumerate(np.asarray(shape).reshape(-1).tolist())])
        shape = self.weights(shape, "shape").reshape(-1)
        value = x.value if isinstance(x, _Coded) else x
        size = int(np.prod(value.shape))
        if len(shape) != 2 or shape[1] not in (-1, size):
            self.refuse(f"only a reshape to (batch, {size}), a flatten, is supported, not to {shape.astype(int).tolist()}")
        return self.flatten(x)

    def concat(self, *values):
        if self.attributes.get("axis", 1) not in (1, -3):
            self.refuse(f"axis {self.attributes['axis']} is not supported, only 1, the channels")
        if len({self.origin(name) for name in self.node.input}) != len(values):
            self.refuse("a tensor is concatenated with itself")
        if any(isinstance(v, np.ndarray) for v in values):
            self.refuse("one of its operands is a constant")
        return self.assembler.concat(self.node.name or self.node.output[0], [self.operand(v) for v in values],
                                     [self.alone(name) for name in self.node.input])

    def softmax(self, x):
        if self.node.output[0] != self.graph.output[0].name:
            self.refuse("a softmax is supported at the very end only, where it is left out: it does not change the order of the classes")
        axis, rank = self.attributes.get("axis", -1 if self.opset >= 13 else 1), self.rank(self.node.input[0])
        if axis not in (1, 1 - rank):
            self.refuse(f"axis {axis} of {rank} is not supported, only 1, the classes")
        self.assembler.notes.append(f"{self.assembler.place}: left out, it does not change the order of the classes")
        return x

    def constant(self):
        value = next((a.t for a in self.node.attribute if a.name == "value"), None)
        if value is None:
            return np.asarray(next(iter(self.attributes.values())))
        return self.array(value)

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self, value, calibration):
        if isinstance(value, _Coded):
            value = value.value
        value = self.assembler.result(value)
        if isinstance(value, Tensor):
            return
        coding = value.coding
        if coding is None:
            self.assembler.close_logits(value, calibration, value.label or "logits")
            return
        if value.rectified:
            tensor = self.close(value, coding).value
            self.assembler.report[tensor.name]["tensor"] = self.graph.output[0].name
            return
        # The upper 128 codes of the output's quantiser, each a level.
        high = coding.highest(value.ceiling)
        levels = min(high - coding.low, MAX_LEVEL)
        first = high - levels
        shifted = replace(value, bias=value.bias - first * coding.scale, coding=None)
        self.assembler.close(value.label or "logits", shifted, coding.scale, levels, coding.rounding)
        name = self.assembler.layers[-1].name
        self.assembler.report[name] |= {"tensor": self.graph.output[0].name, "first_code": first}
        if calibration is not None and len(calibration) and self.all_low(calibration):
            self.assembler.layers.pop()
            del self.assembler.report[name]
            self.assembler.notes.append(f"{self.assembler.place}: logits of calibration images lie below its upper {levels + 1} codes, so it "
                                        "is quantised over the range that calibration shows instead")
            self.assembler.close_logits(value, calibration, name)

    def all_low(self, calibration):
        """Whether some calibration image has no logit in the levels kept."""
        output = evaluate(self.assembler.network(name="calibration", metadata=None, examples=None), calibration).output
        return bool((output.reshape(len(output), -1).max(axis=1) == 0).any())
