"""The operations of TensorFlow that a SavedModel may use: arithmetic on tensors, as image classifiers are made of.

The list says what is taken, not what is refused: TensorFlow has operations that read, write and list files, call Python, ask servers
and load libraries, and each of them is a node like any other.
"""

from __future__ import annotations

_ARITHMETIC = """
Abs Add AddN AddV2 BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAdd Ceil ClipByValue Cumsum Div DivNoNan Einsum Erf Exp Expm1 Floor
FloorDiv FloorMod L2Loss LinSpace Log Log1p MatMul Max Maximum Mean Min Minimum Mod Mul MulNoNan Neg Pow Prod RealDiv Reciprocal Round
Rsqrt Sign Sqrt Square SquaredDifference Sub Sum TruncateDiv
"""
_LAYERS = """
AvgPool AvgPoolV2 Conv2D Conv2DBackpropInput DepthToSpace DepthwiseConv2dNative Elu FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
LRN LeakyRelu LogSoftmax MaxPool MaxPoolV2 MirrorPad Pad PadV2 Relu Relu6 ResizeArea ResizeBicubic ResizeBilinear
ResizeNearestNeighbor Selu Sigmoid Softmax Softplus Softsign SpaceToBatchND SpaceToDepth BatchToSpaceND Tan Tanh Sin Cos
"""
_SHAPES = """
BroadcastTo Cast Concat ConcatV2 EnsureShape ExpandDims Fill Gather GatherNd GatherV2 Identity IdentityN InvertPermutation OneHot
OnesLike Pack Range Rank Reshape ReverseV2 Roll ScatterNd Shape ShapeN Size Slice Split SplitV Squeeze StopGradient StridedSlice Tile
Transpose Unpack ZerosLike
"""
_COMPARISONS = """
All Any ArgMax ArgMin Equal Greater GreaterEqual IsFinite IsInf IsNan Less LessEqual LogicalAnd LogicalNot LogicalOr NotEqual Select
SelectV2 TopKV2 Where
"""
_STRUCTURE = """
Const NoOp PartitionedCall Placeholder PlaceholderWithDefault PreventGradient ReadVariableOp ResourceGather StatefulPartitionedCall
VarHandleOp
"""

OPERATIONS = frozenset(" ".join((_ARITHMETIC, _LAYERS, _SHAPES, _COMPARISONS, _STRUCTURE)).split())
