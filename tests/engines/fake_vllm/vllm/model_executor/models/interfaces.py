def supports_eagle3(model_class):
    return model_class.known
