# One static library per module, and the flags that every target shares.

add_library(bantam_flags INTERFACE)
target_include_directories(bantam_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
# No contraction: a*b+c rounds twice everywhere unless a kernel asks for a fused operation, so that results do not depend
# on the compiler's choice.
target_compile_options(bantam_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast
  -Wcast-qual -Wdouble-promotion -Wformat=2 -Wimplicit-fallthrough -Wundef -Werror -ffp-contract=off)
# The C library is shared, and made of the modules: it shows nothing but what its header marks.
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
if(BANTAM_SANITIZE)
  # What g++ believes to be uninitialised in the standard library's code once a sanitizer has changed it is not.
  target_compile_options(bantam_flags INTERFACE -fsanitize=${BANTAM_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(bantam_flags INTERFACE -fsanitize=${BANTAM_SANITIZE})
  if(BANTAM_SANITIZE MATCHES "undefined")
    # Checks of each pointer that is followed are half of what compiling with sanitizers costs (g++ 12: 12 s instead of 6 for a file).
    # Outside of what reads memory that others laid out there is nothing for them to find: a null pointer traps by itself.
    target_compile_options(bantam_flags INTERFACE
      $<$<NOT:$<BOOL:$<TARGET_PROPERTY:BANTAM_RAW_MEMORY>>>:-fno-sanitize=alignment,null,object-size,vptr>)
  endif()
endif()

# bantam_module(NAME LEVEL n [RAW_MEMORY] SOURCES ... [DEPENDS modules or libraries ...])
# RAW_MEMORY: it reads bytes of files and weights where they lie.
function(bantam_module name)
  cmake_parse_arguments(MODULE "RAW_MEMORY" "LEVEL" "SOURCES;DEPENDS" ${ARGN})
  if(MODULE_LEVEL GREATER BANTAM_LEVEL_MAX)
    return()
  endif()
  add_library(bantam_${name} STATIC ${MODULE_SOURCES})
  target_link_libraries(bantam_${name} PUBLIC bantam_flags ${MODULE_DEPENDS})
  set_target_properties(bantam_${name} PROPERTIES BANTAM_RAW_MEMORY ${MODULE_RAW_MEMORY})
endfunction()
