"""The maths of diffusion models as pure functions: schedules, what a model predicts, samplers, inversion, guidance.

No model is named here: what needs one takes `denoise(x, t)`, its output in the schedule's parameterisation. Times are
explicit integers in [0, T); any negative one means the clean end, below time 0.
"""
