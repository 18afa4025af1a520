# Run by every build: writes version.cc anew only when the commit or the flags have changed.
execute_process(COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
                OUTPUT_VARIABLE NESTBENCH_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed OR NOT NESTBENCH_COMMIT)
  set(NESTBENCH_COMMIT unknown)  # a source archive has no history
endif()
configure_file(${TEMPLATE} ${OUTPUT} @ONLY)
