"""The value search: which hidden state makes a model say a target."""
