// The three binaries as read-only data of the host's program, each from its begin to its end.
        .section .rodata
        .macro  image name
        .balign 16
        .globl  nestbench_flat_\name\()_begin, nestbench_flat_\name\()_end
nestbench_flat_\name\()_begin:
        .incbin "\name\().bin"
nestbench_flat_\name\()_end:
        .endm
        image   real16
        image   protected32
        image   supervisor64
        .section .note.GNU-stack, "", @progbits
