// Numbers that the flat guests' assembly and the host share. Macros, because an assembler takes nothing else; the host
// compares each with its C++ twin when it is compiled (workloads/substrates/flat.cc).
#pragma once

// Where the machine puts things (nestbench/vmm/machine/flat_machine.h).
#define NESTBENCH_FLAT_MEMORY_BYTES 0x100000
#define NESTBENCH_FLAT_IDT 0x2000  // in real mode the table is at 0
#define NESTBENCH_FLAT_STACK_TOP 0x6000
#define NESTBENCH_FLAT_MAILBOX 0x7000
#define NESTBENCH_FLAT_CODE 0x8000
#define NESTBENCH_FLAT_VECTORS 48
#define NESTBENCH_FLAT_STUB_BYTES 16
#define NESTBENCH_FLAT_HIGH 0x100000000
#define NESTBENCH_FLAT_HIGH_END 0x100800000

// nestbench/abi/layout.h
#define NESTBENCH_DOORBELL_PORT 0x0B20
#define NESTBENCH_PANIC_PORT 0x0B28
#define NESTBENCH_LAST_OWN_PORT 0x0B2B

// nestbench/abi/mailbox.h: values, then offsets.
#define NESTBENCH_MAILBOX_MAGIC 0x424D424E
#define NESTBENCH_MAILBOX_VERSION 1
#define NESTBENCH_COMMAND_NONE 0
#define NESTBENCH_COMMAND_SET_UP 1
#define NESTBENCH_COMMAND_RUN 2
#define NESTBENCH_COMMAND_VERIFY 3
#define NESTBENCH_BY_PORT 1
#define NESTBENCH_STATUS_OK 1
#define NESTBENCH_STATUS_WRONG_RESULT 2
#define NESTBENCH_STATUS_BAD_REQUEST 3
#define NESTBENCH_REQUEST_MAGIC 0
#define NESTBENCH_REQUEST_VERSION 4
#define NESTBENCH_REQUEST_COMMAND 8
#define NESTBENCH_REQUEST_DOORBELL 12
#define NESTBENCH_REQUEST_SEQUENCE 16
#define NESTBENCH_REQUEST_OPERATION 24
#define NESTBENCH_REQUEST_ITERATIONS 32
#define NESTBENCH_REQUEST_SEED 40
#define NESTBENCH_REQUEST_PARAMETER 64
#define NESTBENCH_REPLY 512
#define NESTBENCH_REPLY_BYTES 1336
#define NESTBENCH_REPLY_SEQUENCE 512
#define NESTBENCH_REPLY_STATUS 520
#define NESTBENCH_REPLY_VALUE_COUNT 524
#define NESTBENCH_REPLY_TSC_BEGIN 528
#define NESTBENCH_REPLY_TSC_END 536
#define NESTBENCH_REPLY_OPERATIONS 544
#define NESTBENCH_REPLY_BYTES_MOVED 552
#define NESTBENCH_REPLY_CHECKSUM 560
#define NESTBENCH_REPLY_MESSAGE 1592

// The work: `iterations` steps of state = state * MULTIPLIER + INCREMENT modulo 2^32, from the exclusive or of the
// seed's halves. Checksum: the last state, and above it the exclusive or of that state and the iterations. Constants:
// W. H. Press et al., "Numerical Recipes", section "Quick and Dirty Generators".
#define NESTBENCH_FLAT_MULTIPLIER 1664525
#define NESTBENCH_FLAT_INCREMENT 1013904223

// Operations. All but the first are faults; those from FIRST_64_BIT on exist in 64-bit mode only.
#define NESTBENCH_FLAT_CHAIN 0
#define NESTBENCH_FLAT_TRIPLE_FAULT 0x100
#define NESTBENCH_FLAT_EXCEPTION_LOOP 0x101
#define NESTBENCH_FLAT_SPIN 0x102
#define NESTBENCH_FLAT_HALT 0x103
#define NESTBENCH_FLAT_EXIT_STORM 0x104
#define NESTBENCH_FLAT_INTERRUPT_STORM 0x105  // the machine holds the line of STORM_VECTOR up
#define NESTBENCH_FLAT_STORM_VECTOR 32
#define NESTBENCH_FLAT_DEVICE_PORT 0x80  // nothing is there
#define NESTBENCH_FLAT_LIE 0x106         // parameter: which lie
#define NESTBENCH_FLAT_FIRST_64_BIT 0x110
#define NESTBENCH_FLAT_WILD_JUMP 0x110      // parameter: where to
#define NESTBENCH_FLAT_GARBAGE_TABLE 0x111  // parameter: address of the page table
#define NESTBENCH_FLAT_SWEEP 0x112          // parameter: how many addresses and ports

// What a lie is about.
#define NESTBENCH_LIE_SEQUENCE 0    // answers another command
#define NESTBENCH_LIE_STATUS 1      // a status that does not exist
#define NESTBENCH_LIE_TIME 2        // a time stamp before its predecessor
#define NESTBENCH_LIE_OPERATIONS 3  // nothing was done, and all is well
#define NESTBENCH_LIE_EVERYTHING 4  // all ones
#define NESTBENCH_LIE_NO_ANSWER 5   // rings with the page as it was
#define NESTBENCH_LIES 6
