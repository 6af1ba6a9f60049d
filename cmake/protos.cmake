# The messages of proto/, as protoc makes them: into the build tree, and of no interest to our warnings.
find_program(PROTOC protoc REQUIRED)
set(proto_folder ${CMAKE_SOURCE_DIR}/proto)
set(proto_build ${CMAKE_BINARY_DIR}/proto)
file(MAKE_DIRECTORY ${proto_build})
set(proto_made)
foreach(proto bantam kserve google/rpc/status grpc/health/v1/health grpc/reflection/v1/reflection)
  add_custom_command(OUTPUT ${proto_build}/${proto}.pb.cc ${proto_build}/${proto}.pb.h
    COMMAND ${PROTOC} -I${proto_folder} -I/usr/include --cpp_out=${proto_build} ${proto_folder}/${proto}.proto
    DEPENDS ${proto_folder}/${proto}.proto)
  list(APPEND proto_made ${proto_build}/${proto}.pb.cc)
endforeach()
add_library(bantam_protos STATIC ${proto_made})
target_compile_options(bantam_protos PRIVATE -w)
target_include_directories(bantam_protos SYSTEM PUBLIC ${proto_build})
target_link_libraries(bantam_protos PUBLIC protobuf Threads::Threads)
