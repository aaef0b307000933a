"""The probe inside frameworks that own the training loop.

`lightning.TFCCallback` for Lightning's Trainer, `transformers.TFCCallback` for the Trainer of
transformers. Each imports its framework, so import the one that you use:

    from tfc_fast.integrations.lightning import TFCCallback
"""
