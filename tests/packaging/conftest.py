# A script that finds check_wheel.py beside it when it is run; pytest would import it for doctests.
collect_ignore = ["check_cuda_build.py"]
