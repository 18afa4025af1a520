#include "nestbench/vmm/loader/elf.h"
