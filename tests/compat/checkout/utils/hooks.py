def apply_neuron_mask(model, neuron_mask):
    return [
        layer.output.register_forward_pre_hook(
            lambda _, inputs, mask=neuron_mask[i]: (inputs[0] * mask, inputs[1])
        )
        for i, layer in enumerate(model.bert.encoder.layer)
    ]
