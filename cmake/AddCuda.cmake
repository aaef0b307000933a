# Adds the ops for CUDA and their kernels to _C.
file(GLOB cuda_kernel_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/kernels/cuda/*.cu)
file(GLOB cuda_ops_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/ops/cuda/*.cpp)

add_library(tfc_cuda_kernels STATIC ${cuda_kernel_sources})
set_target_properties(tfc_cuda_kernels PROPERTIES
    CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
    POSITION_INDEPENDENT_CODE ON CUDA_VISIBILITY_PRESET hidden)
target_compile_options(tfc_cuda_kernels PRIVATE
    -Xcompiler=-Wall,-Wextra
    $<$<BOOL:${TFC_WERROR}>:-Werror=all-warnings>
    $<$<BOOL:${TFC_WERROR}>:-Xcompiler=-Werror>)

# Compiled by the C++ compiler; of CUDA they need the headers.
add_library(tfc_cuda_ops OBJECT ${cuda_ops_sources})
target_include_directories(tfc_cuda_ops SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_options(tfc_cuda_ops PRIVATE ${ops_options} -Wall -Wextra $<$<BOOL:${TFC_WERROR}>:-Werror>)
target_link_libraries(tfc_cuda_ops PRIVATE installed_torch)
set_target_properties(tfc_cuda_ops PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)

target_sources(_C PRIVATE $<TARGET_OBJECTS:tfc_cuda_ops>)
target_link_libraries(_C PRIVATE tfc_cuda_kernels installed_torch_cuda)
