# A script beside check_wheel.py, which it finds there when it is run; pytest would import it to look for
# doctests.
collect_ignore = ["check_cuda_build.py"]
