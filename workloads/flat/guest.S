// The flat guest: one mailbox command, then the doorbell, then the next command, as the payloads' entry does. Assembled
// once for each mode (NESTBENCH_FLAT_BITS 16, 32, 64). The text is the same in all three: 32-bit registers and 32-bit
// addresses exist everywhere, and everything lies below 64 KiB.
//
// Where the highest privilege is emulated, an instruction costs half a microsecond and many do not exist. Hence no INT,
// no SSE, and few instructions.
#include "nestbench/flat/guest_layout.h"

#if NESTBENCH_FLAT_BITS == 16
        .code16
        .set table, 0
#define GATE_BYTES 4
#define RETURN_FROM_INTERRUPT iretw
#elif NESTBENCH_FLAT_BITS == 32
        .code32
        .set table, NESTBENCH_FLAT_IDT
#define GATE_BYTES 8
#define RETURN_FROM_INTERRUPT iretl
#elif NESTBENCH_FLAT_BITS == 64
        .code64
        .set table, NESTBENCH_FLAT_IDT
#define GATE_BYTES 16
#define RETURN_FROM_INTERRUPT iretq
#else
#error "NESTBENCH_FLAT_BITS must be 16, 32 or 64"
#endif

        .text
        .globl  _start
_start:
// Exceptions: the error code, or a zero in its place (real mode has none at all), and the vector; then the panic port.
        .set    vector, 0
        .rept   32
        .balign NESTBENCH_FLAT_STUB_BYTES
#if NESTBENCH_FLAT_BITS != 16
        .if !((vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30))
#endif
        push    $0
#if NESTBENCH_FLAT_BITS != 16
        .endif
#endif
        push    $vector
        jmp     panic
        .set    vector, vector + 1
        .endr
// Interrupts: there is no controller to tell, and nothing to do.
        .rept   NESTBENCH_FLAT_VECTORS - 32
        .balign NESTBENCH_FLAT_STUB_BYTES
        RETURN_FROM_INTERRUPT
        .endr

        .org    NESTBENCH_FLAT_VECTORS * NESTBENCH_FLAT_STUB_BYTES
command:
        movl    $NESTBENCH_FLAT_MAILBOX, %esi
        movl    $bad_mailbox, %edi
        cmpl    $NESTBENCH_MAILBOX_MAGIC, NESTBENCH_REQUEST_MAGIC(%esi)
        jne     bad_request
        cmpl    $NESTBENCH_MAILBOX_VERSION, NESTBENCH_REQUEST_VERSION(%esi)
        jne     bad_request
        movl    $bad_doorbell, %edi
        cmpl    $NESTBENCH_BY_PORT, NESTBENCH_REQUEST_DOORBELL(%esi)
        jne     bad_request
        movl    NESTBENCH_REQUEST_COMMAND(%esi), %eax
        cmpl    $NESTBENCH_COMMAND_NONE, %eax
        je      done
        movl    $bad_iterations, %edi
        cmpl    $0, NESTBENCH_REQUEST_ITERATIONS(%esi)
        je      bad_request
        cmpl    $0, NESTBENCH_REQUEST_ITERATIONS + 4(%esi)
        jne     bad_request
        cmpl    $NESTBENCH_COMMAND_RUN, %eax
        je      run
        cmpl    $NESTBENCH_COMMAND_VERIFY, %eax
        je      verify
        movl    $bad_command, %edi
        cmpl    $NESTBENCH_COMMAND_SET_UP, %eax
        jne     bad_request
        movl    $0, has_run
        movl    NESTBENCH_REQUEST_OPERATION(%esi), %eax
        movl    $bad_operation, %edi
        cmpl    $NESTBENCH_FLAT_CHAIN, %eax
        jne     bad_request
        jmp     done

run:
        movl    $bad_operation, %edi
        cmpl    $0, NESTBENCH_REQUEST_OPERATION + 4(%esi)
        jne     bad_request
        movl    NESTBENCH_REQUEST_OPERATION(%esi), %eax
        cmpl    $NESTBENCH_FLAT_CHAIN, %eax
        jne     fault
run_chain:
        rdtsc
        movl    %eax, %edi
        movl    %edx, %ebp
        call    chain
        movl    %eax, %ebx
        rdtsc
        movl    %edi, NESTBENCH_REPLY_TSC_BEGIN(%esi)
        movl    %ebp, NESTBENCH_REPLY_TSC_BEGIN + 4(%esi)
        movl    %eax, NESTBENCH_REPLY_TSC_END(%esi)
        movl    %edx, NESTBENCH_REPLY_TSC_END + 4(%esi)
        movl    NESTBENCH_REQUEST_ITERATIONS(%esi), %ecx
        movl    %ecx, NESTBENCH_REPLY_OPERATIONS(%esi)
        movl    $0, NESTBENCH_REPLY_OPERATIONS + 4(%esi)
        movl    $0, NESTBENCH_REPLY_BYTES_MOVED(%esi)
        movl    $0, NESTBENCH_REPLY_BYTES_MOVED + 4(%esi)
        movl    %ebx, last_state
        movl    %ecx, last_iterations
        movl    $1, has_run
        xorl    %ebx, %ecx
        movl    %ebx, NESTBENCH_REPLY_CHECKSUM(%esi)
        movl    %ecx, NESTBENCH_REPLY_CHECKSUM + 4(%esi)

done:
        movl    $NESTBENCH_STATUS_OK, %eax
        movb    $0, NESTBENCH_REPLY_MESSAGE(%esi)
answer:                                                 // EAX: the status
        movl    $0, NESTBENCH_REPLY_VALUE_COUNT(%esi)
        movl    %eax, NESTBENCH_REPLY_STATUS(%esi)
        movl    NESTBENCH_REQUEST_SEQUENCE(%esi), %eax
        movl    %eax, NESTBENCH_REPLY_SEQUENCE(%esi)
        movl    NESTBENCH_REQUEST_SEQUENCE + 4(%esi), %eax
        movl    %eax, NESTBENCH_REPLY_SEQUENCE + 4(%esi)
        cmpl    $NESTBENCH_FLAT_LIE, NESTBENCH_REQUEST_OPERATION(%esi)
        je      lie
ring:
        movl    $NESTBENCH_DOORBELL_PORT, %edx
        outl    %eax, %dx
        jmp     command

// What the last kRun computed, once more: memory or registers that changed under the guest show here.
verify:
        movl    $bad_verify, %edi
        cmpl    $1, has_run
        jne     bad_request
        movl    NESTBENCH_REQUEST_ITERATIONS(%esi), %ecx
        cmpl    %ecx, last_iterations
        jne     bad_request
        movl    $0, has_run
        call    chain
        movl    NESTBENCH_REQUEST_ITERATIONS(%esi), %ecx
        xorl    %eax, %ecx
        movl    %eax, NESTBENCH_REPLY_CHECKSUM(%esi)
        movl    %ecx, NESTBENCH_REPLY_CHECKSUM + 4(%esi)
        cmpl    %eax, last_state
        je      done
        movl    $NESTBENCH_STATUS_WRONG_RESULT, %ebx
        movl    $wrong_result, %edi
        jmp     refuse

bad_request:
        movl    $NESTBENCH_STATUS_BAD_REQUEST, %ebx
refuse:                                                 // EBX: the status, EDI: the message
        movl    %esi, %ecx
1:      movb    (%edi), %al
        movb    %al, NESTBENCH_REPLY_MESSAGE(%ecx)
        incl    %edi
        incl    %ecx
        cmpb    $0, %al
        jne     1b
        movl    %ebx, %eax
        jmp     answer

// EAX = the state after all steps. Changes ECX.
chain:
        movl    NESTBENCH_REQUEST_SEED(%esi), %eax
        xorl    NESTBENCH_REQUEST_SEED + 4(%esi), %eax
        movl    NESTBENCH_REQUEST_ITERATIONS(%esi), %ecx
1:      imull   $NESTBENCH_FLAT_MULTIPLIER, %eax, %eax
        addl    $NESTBENCH_FLAT_INCREMENT, %eax
        decl    %ecx
        jnz     1b
        ret

panic:                                                  // the frame is on the stack; all registers but EDX are evidence
        movl    $NESTBENCH_PANIC_PORT, %edx
        outl    %eax, %dx
1:      hlt
        jmp     1b

#include "faults.S"

        .balign 4
has_run:         .long 0
last_state:      .long 0
last_iterations: .long 0
bad_mailbox:     .asciz "mailbox: magic or version is not this guest's"
bad_doorbell:    .asciz "mailbox: a flat guest rings by the port only"
bad_iterations:  .asciz "iterations must be from 1 to 4294967295"
bad_command:     .asciz "mailbox: unknown command"
bad_operation:   .asciz "unknown operation of a flat guest in this mode"
bad_verify:      .asciz "verify: not what has run last"
wrong_result:    .asciz "the chain gave another result the second time"
