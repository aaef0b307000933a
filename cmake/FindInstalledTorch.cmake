# Target `installed_torch`: headers and libraries of the torch that Python imports.
#
# Not find_package(Torch): with a CUDA build of torch that demands the whole CUDA toolkit and adds
# flags of its own, none of which a CPU extension needs.
set(_tfc_query [[
import sys
try:
    import torch
    from torch.utils import cpp_extension
except ImportError as error:
    sys.exit(f"cannot import torch: {error}")
print(torch.__version__)
print(";".join(cpp_extension.include_paths()))
print(";".join(cpp_extension.library_paths()))
print(int(torch.compiled_with_cxx11_abi()))
]])
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "${_tfc_query}"
  OUTPUT_VARIABLE _tfc_torch ERROR_VARIABLE _tfc_error RESULT_VARIABLE _tfc_failed
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)

set(_tfc_remedy
    "tfc_fast is built against the torch that you use, so that torch must be there first:\n"
    "    pip install 'torch>=2.11' scikit-build-core pybind11 ninja cmake\n"
    "    pip install --no-build-isolation .\n")
if(_tfc_failed)
  message(FATAL_ERROR "${Python_EXECUTABLE}: ${_tfc_error}\n" ${_tfc_remedy})
endif()

# The two path lists are lists themselves: ask for them line by line.
string(REGEX REPLACE "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$" "\\1" TFC_TORCH_VERSION "${_tfc_torch}")
string(REGEX REPLACE "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$" "\\2" _tfc_includes "${_tfc_torch}")
string(REGEX REPLACE "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$" "\\3" _tfc_libraries "${_tfc_torch}")
string(REGEX REPLACE "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$" "\\4" _tfc_abi "${_tfc_torch}")

if(TFC_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${TFC_TORCH_VERSION} is installed; torch 2.11 or newer is needed.\n" ${_tfc_remedy})
endif()
message(STATUS "Building against torch ${TFC_TORCH_VERSION}")

add_library(installed_torch INTERFACE)
target_include_directories(installed_torch SYSTEM INTERFACE ${_tfc_includes})
target_compile_definitions(installed_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${_tfc_abi})
foreach(_tfc_name IN ITEMS c10 torch_cpu torch torch_python)
  find_library(TFC_LIB_${_tfc_name} NAMES ${_tfc_name} PATHS ${_tfc_libraries} NO_DEFAULT_PATH REQUIRED)
  target_link_libraries(installed_torch INTERFACE "${TFC_LIB_${_tfc_name}}")
endforeach()
