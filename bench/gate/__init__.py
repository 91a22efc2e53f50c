"""The gate: does a change make something slower, larger or worse, with a false-alarm rate that is known?"""
