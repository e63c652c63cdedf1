"""Operators that no channel can go through, and why: nobody forgot them."""

MADE_ANEW = "draws random numbers, in an order that would change"
STRINGS = "reads text"
SEQUENCE = "hands tensors on in a list"
OPTIONAL = "may hold no tensor"
BODY = "has a body that may read it"
LOSS = "measures a loss over classes"
IMAGES = "reads an encoded image"
QUANTISED = "is quantised in a way no rule follows"
RECURRENT = "carries a state whose channels no rule follows"
ATTENTION = "mixes heads in a way no rule follows"
NORM = "normalises over its channels"
SEARCH = "searches with a model in its body"
OWN = "is one of onnxruntime's own, which no rule knows"
PLACES = "reads each position by its number"
EXPERTS = "chooses among experts, whose weights no rule follows"

_STANDARD = {
    MADE_ANEW: "Bernoulli Multinomial RandomNormalLike RandomUniformLike",
    STRINGS: "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    SEQUENCE: "ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert "
    "SequenceLength SplitToSequence",
    OPTIONAL: "Optional OptionalGetElement OptionalHasElement",
    BODY: "SequenceMap",
    LOSS: "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    IMAGES: "ImageDecoder",
    RECURRENT: "CausalConvWithState GRUUnit LinearAttention",
    ATTENTION: "DisentangledAttention_TRT",
    PLACES: "EfficientNMS_TRT MultilevelCropAndResize_TRT NonMaxSuppression PyramidROIAlign_TRT Unique",
    "cuts its signal into overlapping frames": "STFT",
    OWN: "Affine Crop DynamicSlice GivenTensorFill ImageScaler MemcpyFromHost MemcpyToHost ParametricSoftplus "
    "Scale ScaledTanh",
}

_FUSED = {
    MADE_ANEW: "BiasDropout BitmaskBiasDropout BitmaskDropout",
    STRINGS: "MurmurHash3 NGramHashMapping NGramRepeatBlock Tokenizer VarlenNGramHashMapping WordConvEmbedding",
    QUANTISED: "DequantizeBFP DequantizeWithOrder DynamicQuantizeLSTM GatherBlockQuantized GemmFloat8 "
    "MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4 MatMulInteger16 MatMulNBitsMlp "
    "MatMulNBitsQkv MulInteger QAttention QEmbedLayerNormalization QLinearConv QLinearReduceMean QLinearWhere QMoE "
    "QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul QuantizeBFP "
    "QuantizeWithOrder ReduceSumInteger",
    RECURRENT: "AttnLSTM CausalConvWithState GatedDeltaNet LinearAttention LinearAttentionGate "
    "VarlenCausalConvWithState",
    ATTENTION: "DecoderAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention "
    "DynamicSparseAttention GatedRelativePositionBias GemmaRotaryEmbedding LongformerAttention "
    "MRotaryEmbedding PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer "
    "PagedAttention RelativePositionBias RemovePadding RestorePadding SparseAttention "
    "SparseAttentionIndexer SparsePagedAttention",
    NORM: "BiasSoftmax BranchwiseRMSNorm EngramGate GatedRMSNorm GroupNorm "
    "HyperConnectionPostMix HyperConnectionPreMix SkipGroupNorm",
    SEARCH: "BeamSearch GreedySearch Sampling WhisperBeamSearch",
    EXPERTS: "MoE",
    PLACES: "CDist DynamicTimeWarping IsAllFinite SampleOp Unique",
    "transforms its axis": "ComplexMul ComplexMulConj Irfft Rfft",
    OWN: "BiasSplitGelu BifurcationDetector ConvTransposeWithDynamicPads EPContext "
    "FusedMatMulActivation GemmFastGelu MaxpoolWithMask NhwcConv NhwcFusedConv Snpe SparseToDenseMatMul TorchEmbedding "
    "UnfoldTensor",
}

BARRIERS: dict[tuple[str, str], str] = {
    (domain, op_type): reason
    for domain, reasons in (("", _STANDARD), ("com.microsoft", _FUSED))
    for reason, op_types in reasons.items()
    for op_type in op_types.split()
}
"""(domain, operator) → what it does that no rule can follow."""
