# What `cmake --install` puts where, the CMake package nestbench_vmm (the VMM library for others), and the .deb.
#
#   bin/nestbench                      the program
#   libexec/nestbench/                 nestbench-guest, nestbench-tenant, nestbench_micro, nestbench_density_floor, nestbench-conformance, nestbench-costs, images/ (installed by workloads/payloads)
#   share/nestbench/                   reports/ (Python package, schema, web files), ci/gate.toml, conformance/known.toml: as in the source tree
#   include/nestbench_vmm/, lib/       vmm-core: headers, static libraries, CMake package
#   share/doc/nestbench/               README, designs, license
include(CMakePackageConfigHelpers)

# What the launcher builds for a run; tests are left out.
add_custom_target(nestbench_run)
add_dependencies(nestbench_run nestbench nestbench-guest nestbench-tenant nestbench_micro nestbench_density_floor nestbench-conformance nestbench-costs nestbench-linux-costs
  nestbench_payload_images)

install(TARGETS nestbench RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS nestbench-guest nestbench_micro nestbench_density_floor RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/nestbench)

set(share ${CMAKE_INSTALL_DATADIR}/nestbench)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/reports/nestbench_reports ${PROJECT_SOURCE_DIR}/reports/schema
  DESTINATION ${share}/reports
  PATTERN "__pycache__" EXCLUDE
  PATTERN "*.pyc" EXCLUDE)
install(FILES ${PROJECT_SOURCE_DIR}/ci/gate.toml DESTINATION ${share}/ci)
install(FILES ${PROJECT_SOURCE_DIR}/conformance/known.toml DESTINATION ${share}/conformance)
# The charts library that reports inline, with its license; `npm ci` in reports/ has put it there by install time.
install(FILES
    ${PROJECT_SOURCE_DIR}/reports/node_modules/echarts/dist/echarts.min.js
  DESTINATION ${share}/reports/node_modules/echarts/dist)
install(FILES
    ${PROJECT_SOURCE_DIR}/reports/node_modules/echarts/LICENSE
    ${PROJECT_SOURCE_DIR}/reports/node_modules/echarts/NOTICE
    ${PROJECT_SOURCE_DIR}/reports/node_modules/echarts/package.json
  DESTINATION ${share}/reports/node_modules/echarts)

set(library_targets nestbench_abi nestbench_vmm_base nestbench_vmm_memory nestbench_vmm_kvm nestbench_vmm_bus
  nestbench_vmm_devices nestbench_vmm_virtio nestbench_vmm_loader nestbench_vmm_machine)
foreach(target IN LISTS library_targets)
  string(REGEX REPLACE "^nestbench_" "" export_name ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${export_name})  # nestbench::vmm_machine, nestbench::abi, ...
endforeach()
install(TARGETS ${library_targets} EXPORT nestbench_vmm
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/nestbench_vmm)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/nestbench_vmm)
install(EXPORT nestbench_vmm NAMESPACE nestbench:: DESTINATION ${package_folder} FILE nestbench_vmmTargets.cmake)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/nestbench_vmmConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/nestbench_vmmConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/nestbench_vmmConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
    ${CMAKE_CURRENT_BINARY_DIR}/nestbench_vmmConfig.cmake
    ${CMAKE_CURRENT_BINARY_DIR}/nestbench_vmmConfigVersion.cmake
  DESTINATION ${package_folder})

set(documents ${CMAKE_INSTALL_DATADIR}/doc/nestbench)
install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/DESIGN.md ${PROJECT_SOURCE_DIR}/LICENSE
  DESTINATION ${documents})
install(FILES ${PROJECT_SOURCE_DIR}/vmm-core/DESIGN.md DESTINATION ${documents}/vmm-core)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/copyright DESTINATION ${documents})

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME nestbench)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "nestbench maintainers <nestbench@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION
  "Measures what a guest costs against the same payload on the host, with the exits,
life cycle and memory of KVM guests, nested or not. Writes one JSON document and
one HTML page, compares runs, and gates CI. The VMM library it is built on
(vmm-core) is included for development.")
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
# The runtime section of ci/packages.txt: one list for the launcher and for the package.
file(STRINGS ${PROJECT_SOURCE_DIR}/ci/packages.txt lines)
set(depends "")
set(section "")
foreach(line IN LISTS lines)
  if(NOT line MATCHES "^#" AND line MATCHES "^.([a-z]+).$")
    set(section ${CMAKE_MATCH_1})
  elseif(section STREQUAL "runtime" AND line MATCHES "^([a-z0-9.+-]+)")
    list(APPEND depends ${CMAKE_MATCH_1})
  endif()
endforeach()
if(NOT depends)
  message(FATAL_ERROR "ci/packages.txt: no packages found in section runtime")
endif()
list(JOIN depends ", " CPACK_DEBIAN_PACKAGE_DEPENDS)
set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/ci/packages.txt)
include(CPack)
