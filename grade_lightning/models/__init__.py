"""The base LM, the policy with its adapters and its reference, pretraining, and the cache of what is made once."""
