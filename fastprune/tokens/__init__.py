"""How many tokens a vision model is left with: ``scores`` says what tokens are worth, ``schedule``
prices them, ``reduce`` puts both together. Merging itself is in :mod:`fastprune.merging`."""
