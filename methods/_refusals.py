"""What several methods refuse in the same words; ``{fold}`` and ``{method}`` are filled in at planning."""

ADAPTER = "there is an adapter on the weights; {fold}"
ADAPTER_ON_MODEL = "there is an adapter on the model; {fold}"
INFERENCE_ONLY = "no gradient flows through a model that was made for inference only; train before what made it so"
QUANTIZED = "the weights are quantized already; leave one of the two out"
