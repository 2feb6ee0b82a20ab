"""How the shipped model is made: logs of real failures, a tokenizer, the training and its evaluation."""
