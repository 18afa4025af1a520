// What a flat guest does wrong when it is told to: included by guest.S. EAX: the operation, ESI: the mailbox, EDI: the
// message for an operation that does not exist.
fault:
        movl    NESTBENCH_REQUEST_PARAMETER(%esi), %ebx
        cmpl    $NESTBENCH_FLAT_TRIPLE_FAULT, %eax
        je      triple_fault
        cmpl    $NESTBENCH_FLAT_EXCEPTION_LOOP, %eax
        je      exception_loop
        cmpl    $NESTBENCH_FLAT_SPIN, %eax
        je      spin
        cmpl    $NESTBENCH_FLAT_HALT, %eax
        je      halt
        cmpl    $NESTBENCH_FLAT_EXIT_STORM, %eax
        je      exit_storm
        cmpl    $NESTBENCH_FLAT_INTERRUPT_STORM, %eax
        je      interrupt_storm
        cmpl    $NESTBENCH_FLAT_LIE, %eax
        je      run_chain                               // it answers, and lies at the end
#if NESTBENCH_FLAT_BITS == 64
        cmpl    $NESTBENCH_FLAT_WILD_JUMP, %eax
        je      wild_jump
        cmpl    $NESTBENCH_FLAT_GARBAGE_TABLE, %eax
        je      garbage_table
        cmpl    $NESTBENCH_FLAT_SWEEP, %eax
        je      sweep
#endif
        jmp     bad_request

// An exception without a table to find its handler in: the double fault has none either.
triple_fault:
        movl    $no_table, %edi
        lidt    (%edi)
        xorl    %ecx, %ecx
        divl    %ecx

// The handler returns to the instruction that faults.
exception_loop:
        movl    $table, %edi
        movl    $return_at_once, %eax
        movw    %ax, (%edi)                             // the lowest part of the gate of vector 0
        xorl    %ecx, %ecx
        divl    %ecx
return_at_once:
        RETURN_FROM_INTERRUPT

spin:
        cli
1:      incl    %eax
        jmp     1b

halt:
        cli
1:      hlt
        jmp     1b

exit_storm:
        movl    $NESTBENCH_FLAT_DEVICE_PORT, %edx
1:      outl    %eax, %dx
        jmp     1b

// An interrupt that nobody quietens: its handler throws away what was interrupted, accepts interrupts, asks the device how
// it is, and would begin the work again; but the interrupt is there again. The question leaves the guest: a KVM that
// emulates this mode looks for interrupts only then, or hundreds of instructions later.
interrupt_storm:
        movl    $table + NESTBENCH_FLAT_STORM_VECTOR * GATE_BYTES, %edi
        movl    $storm_handler, %eax
        movw    %ax, (%edi)                             // the lowest part of the gate
storm_handler:
        movl    $NESTBENCH_FLAT_STACK_TOP, %esp
        xorl    %ecx, %ecx
        movl    $NESTBENCH_FLAT_DEVICE_PORT, %edx
        sti
        nop                                             // interrupts are accepted only after the instruction behind STI
        inl     %dx, %eax
1:      incl    %ecx                                    // how far it gets: work that never ends
        jmp     1b

lie:                                                    // the honest answer is in the mailbox already
        movl    NESTBENCH_REQUEST_PARAMETER(%esi), %eax
        cmpl    $NESTBENCH_LIE_SEQUENCE, %eax
        je      lie_sequence
        cmpl    $NESTBENCH_LIE_STATUS, %eax
        je      lie_status
        cmpl    $NESTBENCH_LIE_TIME, %eax
        je      lie_time
        cmpl    $NESTBENCH_LIE_OPERATIONS, %eax
        je      lie_operations
        movl    $-1, %eax
        cmpl    $NESTBENCH_LIE_EVERYTHING, NESTBENCH_REQUEST_PARAMETER(%esi)
        je      lie_fill
        xorl    %eax, %eax                              // NO_ANSWER: as the page was when it was new
lie_fill:
        movl    %esi, %edi
        movl    $NESTBENCH_REPLY_BYTES / 4, %ecx
1:      movl    %eax, NESTBENCH_REPLY(%edi)
        addl    $4, %edi
        decl    %ecx
        jnz     1b
        jmp     ring
lie_sequence:
        incl    NESTBENCH_REPLY_SEQUENCE(%esi)
        jmp     ring
lie_status:
        movl    $0x77, NESTBENCH_REPLY_STATUS(%esi)
        jmp     ring
lie_time:
        movl    $0, NESTBENCH_REPLY_TSC_END(%esi)
        movl    $0, NESTBENCH_REPLY_TSC_END + 4(%esi)
        jmp     ring
lie_operations:
        movl    $0, NESTBENCH_REPLY_OPERATIONS(%esi)
        jmp     ring

#if NESTBENCH_FLAT_BITS == 64
wild_jump:
        movq    NESTBENCH_REQUEST_PARAMETER(%esi), %rax
        jmp     *%rax

// EBX: the table. Each entry becomes noise; a processor that walks the tables anew finds it at once, another after CR3 is
// written.
garbage_table:
        movl    NESTBENCH_REQUEST_SEED(%esi), %eax
        movl    $1024, %ecx
1:      imull   $NESTBENCH_FLAT_MULTIPLIER, %eax, %eax
        addl    $NESTBENCH_FLAT_INCREMENT, %eax
        movl    %eax, (%ebx)
        addl    $4, %ebx
        decl    %ecx
        jnz     1b
        movq    %cr3, %rax
        movq    %rax, %cr3
2:      movl    NESTBENCH_FLAT_MAILBOX, %eax            // through the tables, until they give way
        jmp     2b

// EBX: how many. Writes of every width to addresses without memory below 4 GiB and to ports without a device, then to
// the edges: across the end of memory, where interrupt controllers would be, and above 4 GiB. Then it serves the command.
sweep:
        movl    NESTBENCH_REQUEST_SEED(%esi), %eax
1:      imull   $NESTBENCH_FLAT_MULTIPLIER, %eax, %eax
        addl    $NESTBENCH_FLAT_INCREMENT, %eax
        movl    %eax, %edi
        orl     $0x200000, %edi
        movb    %al, (%edi)
        movw    %ax, (%edi)
        movl    %eax, (%edi)
        movq    %rax, (%edi)
        movl    %eax, %edx
        shrl    $13, %edx
        andl    $0xFFFF, %edx
        cmpl    $NESTBENCH_LAST_OWN_PORT, %edx
        ja      2f
        cmpl    $NESTBENCH_DOORBELL_PORT - 3, %edx
        jae     3f
2:      outb    %al, %dx
        outw    %ax, %dx
        outl    %eax, %dx
3:      decl    %ebx
        jnz     1b
        movl    $edges, %ebx
4:      movq    (%ebx), %rdi
        testq   %rdi, %rdi
        jz      run_chain
        movq    %rax, (%rdi)
        addl    $8, %ebx
        jmp     4b

        .balign 8
edges:
        .quad   NESTBENCH_FLAT_MEMORY_BYTES - 4
        .quad   NESTBENCH_FLAT_MEMORY_BYTES
        .quad   0xFEC00000
        .quad   0xFEE000B0
        .quad   0xFFFFFFF8
        .quad   NESTBENCH_FLAT_HIGH - 4
        .quad   NESTBENCH_FLAT_HIGH
        .quad   NESTBENCH_FLAT_HIGH + 0x1FFFFC
        .quad   NESTBENCH_FLAT_HIGH + 0x400000
        .quad   NESTBENCH_FLAT_HIGH_END - 8
        .quad   0
#endif

        .balign 16
no_table: .quad 0, 0
