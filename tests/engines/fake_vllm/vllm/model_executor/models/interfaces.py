def supports_eagle3(found):
    return found.known
