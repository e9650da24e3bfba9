"""The operations of PyTorch that a program from a file may use: arithmetic on tensors, as image classifiers are made of.

The list says what is taken, not what is refused: among PyTorch's own operations are some that read and write files (`from_file`,
`save`) or hold a program of their own, and every library adds others.
"""

from __future__ import annotations

_ARITHMETIC = """
abs add addcdiv addcmul addmm baddbmm bmm ceil clamp clamp_max clamp_min div dot einsum erf exp expm1 floor floor_divide fmod lerp
linear linspace log log10 log1p log2 logsumexp matmul maximum mean minimum mm mul mv neg pow prod reciprocal remainder round rsqrt
rsub sign sqrt square std sub sum true_divide trunc var var_mean
"""
_ACTIVATIONS = """
celu cos elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_softmax logit mish prelu relu relu6 selu
sigmoid silu sin softmax softplus softshrink softsign tan tanh tanhshrink threshold _softmax _log_softmax
"""
_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d alpha_dropout avg_pool1d avg_pool2d batch_norm constant_pad_nd conv1d
conv2d conv_transpose2d convolution _convolution dropout embedding feature_dropout group_norm instance_norm layer_norm linalg_norm
linalg_vector_norm max_pool1d max_pool2d max_pool2d_with_indices native_batch_norm native_dropout native_group_norm native_layer_norm
norm pad pixel_shuffle pixel_unshuffle reflection_pad2d replication_pad2d scaled_dot_product_attention upsample_bicubic2d
upsample_bilinear2d upsample_nearest2d _adaptive_avg_pool2d _native_batch_norm_legit _native_batch_norm_legit_no_training
_native_multi_head_attention _scaled_dot_product_flash_attention_for_cpu
"""
_SHAPES = """
alias arange broadcast_to cat channel_shuffle chunk clone contiguous detach empty expand expand_as eye flatten flip full full_like
gather index index_select lift_fresh_copy movedim narrow new_empty new_full new_ones new_zeros numel ones ones_like permute repeat
repeat_interleave reshape reshape_as roll scalar_tensor scatter select slice split split_with_sizes squeeze stack swapaxes t to
transpose tril triu type_as unbind unflatten unfold unsafe_chunk unsafe_split unsqueeze view view_as where zeros zeros_like _to_copy
_unsafe_view
"""
_COMPARISONS = """
all amax amin any argmax argmin cumsum eq ge gt isfinite isnan le logical_and logical_not logical_or lt masked_fill max min ne sort
topk _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size sym_numel sym_size
sym_stride
"""

OPERATIONS = frozenset(" ".join((_ARITHMETIC, _ACTIVATIONS, _LAYERS, _SHAPES, _COMPARISONS)).split())
"""By the names of ATen, without the overload; those that change their input in place (`relu_`) are meant too."""

_WORDS = """
none mean sum tanh floor trunc constant reflect replicate circular zeros border bilinear nearest bicubic area same valid fro nuc
linear
"""

WORDS = frozenset(_WORDS.split())
"""The words that an operation may be given: its other strings could name files or devices."""

EXPORT_TO_ONNX = "export it to ONNX where it was made: torch.onnx.export(model, example, 'model.onnx', dynamo=True)"


def is_known(name: str) -> bool:
    """Whether an operation of ATen is on the list."""
    return name in OPERATIONS or (name.endswith("_") and name[:-1] in OPERATIONS)
