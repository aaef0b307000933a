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
print(torch.version.cuda or "")
print(".")
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

# Line by line, since the two path lists are lists themselves.
set(_tfc_line "([^\n]*)\n")
if(NOT _tfc_torch MATCHES "^${_tfc_line}${_tfc_line}${_tfc_line}${_tfc_line}${_tfc_line}\\.$")
  message(FATAL_ERROR "${Python_EXECUTABLE}: cannot make sense of what torch says of itself:\n${_tfc_torch}")
endif()
set(TFC_TORCH_VERSION "${CMAKE_MATCH_1}")
set(_tfc_includes "${CMAKE_MATCH_2}")
set(_tfc_libraries "${CMAKE_MATCH_3}")
set(_tfc_abi "${CMAKE_MATCH_4}")
set(TFC_TORCH_CUDA "${CMAKE_MATCH_5}")  # version, empty in a build without

if(TFC_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "torch ${TFC_TORCH_VERSION} is installed; torch 2.11 or newer is needed.\n" ${_tfc_remedy})
endif()
message(STATUS "Building against torch ${TFC_TORCH_VERSION}")

add_library(installed_torch INTERFACE)
target_include_directories(installed_torch SYSTEM INTERFACE ${_tfc_includes})
target_compile_definitions(installed_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${_tfc_abi})
function(_tfc_link_torch_libraries target)
  foreach(name IN LISTS ARGN)
    find_library(TFC_LIB_${name} NAMES ${name} PATHS ${_tfc_libraries} NO_DEFAULT_PATH REQUIRED)
    target_link_libraries(${target} INTERFACE "${TFC_LIB_${name}}")
  endforeach()
endfunction()
_tfc_link_torch_libraries(installed_torch c10 torch_cpu torch torch_python)
if(TFC_TORCH_CUDA)
  add_library(installed_torch_cuda INTERFACE)
  _tfc_link_torch_libraries(installed_torch_cuda c10_cuda torch_cuda)
endif()

# pybind11's headers come with torch, too, for machines that cannot install them.
find_package(pybind11 3.0 CONFIG QUIET)
if(NOT TARGET pybind11::module)
  find_path(TFC_TORCH_PYBIND11 pybind11/pybind11.h PATHS ${_tfc_includes} NO_DEFAULT_PATH)
  if(NOT TFC_TORCH_PYBIND11)
    message(FATAL_ERROR "pybind11 is not installed, and not among torch's headers.\n" ${_tfc_remedy})
  endif()
  message(STATUS "pybind11 3.0 or newer is not installed: taking the headers that torch ships")
  add_library(pybind11::module INTERFACE IMPORTED)
  target_link_libraries(pybind11::module INTERFACE Python::Module)
endif()
