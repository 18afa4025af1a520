# The programs whose tests ci/mutants/mutants.toml names: what `nestbench mutants` builds, and nothing else.
if(NESTBENCH_MUTANTS)
  add_custom_target(nestbench_mutants)
  add_dependencies(nestbench_mutants bus_test devices_test kvm_test loader_test machine_test memory_test
                                     virtio_test nestbench-conformance)
  # Included before every other install rule, so that nothing has been installed when it refuses.
  install(CODE "message(FATAL_ERROR \"this build holds faults on purpose (NESTBENCH_MUTANTS): it is not installed\")")
endif()
